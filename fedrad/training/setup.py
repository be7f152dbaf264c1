"""From a configuration to a model, the same in every process: base model, adapter structure, pinned threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from fedrad.config import Experiment
from fedrad.data.batches import patient_numbers
from fedrad.errors import ConfigError, PlanError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel, load_base
from fedrad.model.encoder import ModelSpec, ReportClassifier, build
from fedrad.model.probe import kernels_for
from fedrad.privacy.plan import PrivacyPlan


@dataclass(frozen=True, eq=False)
class Setup:
    """A model ready to be warmed, trained or evaluated.

    Attributes:
        base: the frozen base model, shared by everything in the process.
        classifier: base, adapter and head; the adapter is fresh (B = 0, head = 0) until a state is loaded.
        pad_id: the token id that pads.
    """

    base: BaseModel
    classifier: ReportClassifier
    spec: ModelSpec
    lora: LoRASpec
    names: tuple[str, ...]
    single_label: bool
    pad_id: int
    max_length: int


def set_up(experiment: Experiment, names: tuple[str, ...], single_label: bool) -> Setup:
    """Builds the model that the configuration describes.

    Raises:
        ConfigError: reports may be longer than the base model reads, or Opacus's hooks would meet bfloat16.
        ModelError: the base model can't be had, or has no layers of these names.
    """
    model, lora = experiment.model, experiment.lora
    lora_spec = LoRASpec(
        rank=lora.rank,
        alpha=lora.alpha,
        targets=lora.targets,
        layers=lora.layers,
        freeze_a=lora.freeze_a,
        freeze_b=lora.freeze_b,
    )
    base = load_base(model.name, model.revision)
    if experiment.data.max_length > base.max_length:
        raise ConfigError(
            f"data.max-length = {experiment.data.max_length}: {model.name} reads at most {base.max_length}"
        )
    seeded = experiment.privacy.noise == "seeded"
    probed = experiment.train.kernels == "probe" or (experiment.train.kernels == "auto" and not seeded)
    kernels = kernels_for(base, experiment.train.precision, probed=probed)
    if experiment.train.micro_tokens:
        kernels = replace(kernels, micro_tokens=experiment.train.micro_tokens)
    if kernels.backbone == "bfloat16" and experiment.privacy.gradients == "opacus":
        raise ConfigError("train.precision: Opacus's hooks need float32; take privacy.gradients=leaf for bfloat16")
    spec = ModelSpec(model.name, model.revision, model.pooling, kernels.backbone)
    classifier = build(base, spec, lora_spec, names, single_label, experiment.train.seed, kernels)
    return Setup(
        base=base,
        classifier=classifier,
        spec=spec,
        lora=lora_spec,
        names=names,
        single_label=single_label,
        pad_id=int(base.tokenizer.pad_token_id),
        max_length=experiment.data.max_length,
    )


def pin_threads(experiment: Experiment) -> None:
    """Fixes the number of threads of this process: sums in another order would give other bits."""
    torch.set_num_threads(experiment.train.threads)


def plan_for(experiment: Experiment, declared: int, epsilon: float | None = None) -> PrivacyPlan:
    """The privacy plan of a site with this declared size, for all steps of the run.

    Args:
        declared: the site's declared number of units: of reports, or of patients if ``privacy.unit`` is "patient".
            ``train.batch`` counts the same units.
        epsilon: what the site allows, if that is less than ``privacy.epsilon``.

    Raises:
        PlanError: no noise multiplier meets the budget, or the plan contradicts itself; or the unit is the hospital,
            which is the server's to plan (``central.hospital_plan``).
    """
    privacy, train = experiment.privacy, experiment.train
    if privacy.unit == "hospital":
        raise PlanError("privacy.unit=hospital: noise is added at the server, a hospital's own steps have no plan.")
    return _calibrated(
        privacy.epsilon if epsilon is None else epsilon,
        privacy.delta,
        declared,
        min(train.batch, declared),
        train.rounds * train.local_steps,
        privacy.clip,
        privacy.noise,
        privacy.unit,
        privacy.reports_per_patient if privacy.unit == "patient" else 1,
    )


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
    )
