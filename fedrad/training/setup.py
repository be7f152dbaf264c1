"""From a configuration to a model, the same in every process: base model, adapter structure, pinned threads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.batches import patient_numbers
from fedrad.errors import ConfigError, PlanError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.kernels import device_for
from fedrad.model.probe import kernels_for
from fedrad.privacy.noise_share import SharedNoiseTerms
from fedrad.privacy.plan import PrivacyPlan
from fedrad.public_base.choice import base_of, directions_of
from fedrad.tasks.task import Task
from fedrad.training.strategy import Strategy, strategy_of

Value = TypeVar("Value", int, float)


@dataclass(frozen=True, eq=False)
class Setup:
    """A model ready to be warmed, trained or evaluated.

    Attributes:
        base: the frozen base model, shared by everything in the process.
        classifier: base, adapter and head; the adapter is fresh (B = 0, head = 0) until a state is loaded.
        task: what it is trained for.
        pad_id: the token id that pads.
    """

    base: BaseModel
    classifier: ReportClassifier
    spec: ModelSpec
    lora: LoRASpec
    task: Task
    pad_id: int
    max_length: int


@dataclass(frozen=True)
class Terms:
    """What one hospital trains by, where it may differ from the others. All of it is public.

    Attributes:
        epsilon, delta: its budget for the run; epsilon 0 means not private.
        batch: its expected batch, in privacy units; 0: ``Experiment.expected_batch`` of what it declares.
        rank: of its LoRA matrices.
        noise_multiplier: of every step; 0: the least with which the run meets ``epsilon``.
    """

    epsilon: float
    delta: float
    batch: int
    rank: int
    noise_multiplier: float = 0.0


def terms_of(experiment: Experiment, index: int = -1) -> Terms:
    """The terms of a simulated hospital by its number, from ``sites.*``; -1: those of the whole run."""

    def own(given: tuple[Value, ...], default: Value) -> Value:
        return given[index] if given and index >= 0 else default

    sites, privacy = experiment.sites, experiment.privacy
    return Terms(
        epsilon=own(sites.epsilons, privacy.epsilon),
        delta=own(sites.deltas, privacy.delta),
        batch=own(sites.batches, experiment.train.batch),
        rank=own(sites.ranks, experiment.lora.rank),
    )


def set_up(experiment: Experiment, task: Task, rank: int | None = None) -> Setup:
    """Builds the model that the configuration describes, with the adapter that the strategy needs.

    Args:
        rank: of a hospital that has one of its own; default ``lora.rank``.

    Raises:
        ConfigError: reports may be longer than the base model reads, or there is no GPU where one is asked for.
        ModelError: the base model can't be had, or has no layers of these names; or the task has labels that no model
            can tell apart.
    """
    model, lora = experiment.model, experiment.adapted
    lora_spec = strategy_of(experiment).shape(
        LoRASpec(
            rank=lora.rank if rank is None else rank,
            alpha=lora.alpha,
            targets=lora.targets,
            layers=lora.layers,
            freeze_a=lora.freeze_a,
        )
    )
    base = base_of(experiment)
    max_length = longest_text(experiment, base)
    seeded = experiment.privacy.noise == "seeded"
    probed = experiment.train.kernels == "probe" or (experiment.train.kernels == "auto" and not seeded)
    # Opacus's hooks need float32, whatever this machine runs faster.
    precision = "float32" if experiment.privacy.gradients == "opacus" else experiment.train.precision
    kernels = kernels_for(base, precision, device_for(experiment.train.device), probed=probed)
    if experiment.train.micro_tokens:
        kernels = replace(kernels, micro_tokens=experiment.train.micro_tokens)
    kernels = replace(kernels, checkpointing=experiment.train.checkpointing)
    spec = ModelSpec(base.name, base.revision, model.pooling, kernels.backbone, model.quantize)
    directions = directions_of(experiment, base, task.findings)
    seed, answers = experiment.train.seed, task.answers(base.tokenizer)
    classifier = build(base, spec, lora_spec, task.outputs(), seed, kernels, directions, answers)
    return Setup(
        base=base,
        classifier=classifier,
        spec=spec,
        lora=lora_spec,
        task=task,
        pad_id=int(base.tokenizer.pad_token_id),
        max_length=max_length,
    )


def longest_text(experiment: Experiment, base: BaseModel) -> int:
    """``data.max-length``, tokens. Raises ConfigError if the base model can't read as many."""
    if experiment.data.max_length > base.max_length:
        raise ConfigError(
            f"data.max-length = {experiment.data.max_length}: {base.name} reads at most {base.max_length}"
        )
    return experiment.data.max_length


def exported(setup: Setup, strategy: Strategy, state: Mapping[str, Tensor]) -> Setup:
    """The strategy's final state as a model with plain LoRA on the unchanged base model, ready to be written."""
    plain, lora = strategy.export(state, setup.lora)
    classifier = build(
        setup.base,
        setup.spec,
        lora,
        setup.task.outputs(),
        seed=0,
        kernels=setup.classifier.kernels,
        directions=setup.classifier.readout.directions,
        answers=setup.classifier.answers,
    )
    classifier.load_state(plain)
    return replace(setup, classifier=classifier, lora=lora)


def pin_arithmetic(experiment: Experiment) -> None:
    """Fixes the number of threads of this process, and on a GPU torch's deterministic kernels where the run is seeded:
    sums in another order would give other bits."""
    torch.set_num_threads(experiment.train.threads)
    if experiment.train.device != "cpu" and experiment.privacy.noise == "seeded":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS picks as it likes
        torch.use_deterministic_algorithms(True)


def plan_for(experiment: Experiment, declared: int, terms: Terms | None = None) -> PrivacyPlan:
    """The privacy plan of a site with this declared size, for all steps of the run.

    Args:
        declared: the site's declared number of units: of reports, or of patients if ``privacy.unit`` is "patient".
            ``train.batch`` counts the same units.
        terms: the site's own; default: those of the run.

    Raises:
        PlanError: no noise multiplier meets the budget, or the site's own does not; the plan contradicts itself; or the
            unit is the hospital, which is the server's to plan (``central.hospital_plan``).
    """
    privacy, train = experiment.privacy, experiment.train
    if privacy.unit == "hospital":
        raise PlanError("privacy.unit=hospital: noise is added at the server, a hospital's own steps have no plan.")
    terms = terms_of(experiment) if terms is None else terms
    return _calibrated(
        terms.epsilon,
        terms.delta,
        declared,
        min(terms.batch or experiment.expected_batch(declared), declared),
        train.rounds * experiment.local_steps,
        privacy.clip,
        privacy.noise,
        privacy.unit,
        privacy.reports_per_patient if privacy.unit == "patient" else 1,
        terms.noise_multiplier,
    )


def local_plan_for(experiment: Experiment, declared: int, terms: Terms | None = None) -> PrivacyPlan:
    """The plan of a hospital's own steps: ``plan_for``, or steps without privacy where the hospital is the unit, whose
    whole update the server clips and noises."""
    if experiment.privacy.unit != "hospital":
        return plan_for(experiment, declared, terms)
    terms, train = terms_of(experiment) if terms is None else terms, experiment.train
    steps, batch = train.rounds * experiment.local_steps, terms.batch or experiment.expected_batch(declared)
    return _calibrated(
        0.0,
        terms.delta,
        declared,
        min(batch, declared),
        steps,
        experiment.privacy.clip,
        experiment.privacy.noise,
        "report",
        1,
    )


def shared_noise_terms(experiment: Experiment) -> SharedNoiseTerms:
    """The terms on which the hospitals of a run share their noise, all with the step of ``train.*``.

    Raises:
        PlanError: with the first reason why noise can't be shared.
    """
    privacy, train, quorum = experiment.privacy, experiment.train, experiment.sites.quorum
    return SharedNoiseTerms(
        quorum=quorum,
        colluders=privacy.colluders,
        secure_aggregation=privacy.secure_aggregation,
        local_steps=experiment.local_steps,
        optimizer=train.optimizer,
        momentum=train.momentum,
        average=train.average,
        step_scales=(train.learning_rate * privacy.clip / train.batch,) * quorum,
    )


@lru_cache(maxsize=1024)
def shared_plan(experiment: Experiment, plan: PrivacyPlan, noise_multiplier: float) -> PrivacyPlan:
    """The plan of a hospital that adds its share only of noise of ``noise_multiplier``, with which it is charged.

    Args:
        plan: what the hospital would follow by itself.
        noise_multiplier: the same at all hospitals, so the largest that any of them needs: whoever needs more noise
            than the others would otherwise get too little from them.

    Raises:
        PlanError: that is less noise than this hospital's budget needs, its step is not as large as the others', or
            noise can't be shared under these settings.
    """
    if plan.divisor != experiment.train.batch:
        raise PlanError(
            f"Noise can't be shared: a declared size of {plan.declared_size} is below train.batch ="
            f" {experiment.train.batch}, so this hospital's step would be larger than the others'."
        )
    return replace(plan, noise_multiplier=noise_multiplier, shared=shared_noise_terms(experiment))


def shared_plans(experiment: Experiment, plans: Mapping[str, PrivacyPlan]) -> dict[str, PrivacyPlan]:
    """The plans of hospitals that share their noise: all with the largest noise multiplier that one of them needs.

    Raises:
        PlanError: as ``shared_plan``.
    """
    largest = max(plan.noise_multiplier for plan in plans.values())
    return {site: shared_plan(experiment, plan, largest) for site, plan in plans.items()}


def units_in(experiment: Experiment, reports: Dataset, rows: NDArray[np.int64]) -> int:
    """How many units ``privacy.unit`` makes of these rows: private, and what a simulation rounds to a declared size."""
    if experiment.privacy.unit != "patient":
        return len(rows)
    return len(np.unique(patient_numbers(reports.select(rows))))


@lru_cache(maxsize=1024)
def _calibrated(
    epsilon: float,
    delta: float,
    declared: int,
    batch: int,
    steps: int,
    clip: float,
    noise: str,
    unit: str,
    reports_per_patient: int,
    noise_multiplier: float = 0.0,
) -> PrivacyPlan:
    # Calibration takes a bisection; the sites of a simulation mostly share one plan.
    return PrivacyPlan.calibrate(
        epsilon=epsilon,
        delta=delta,
        declared_size=declared,
        expected_batch=batch,
        steps=steps,
        clip=clip,
        unit=unit,
        noise=noise,
        reports_per_patient=reports_per_patient,
        noise_multiplier=noise_multiplier,
    )
