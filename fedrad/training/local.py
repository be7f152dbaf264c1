"""THE training loop. ``fedrad.centralized`` and every hospital call it; there is no other.

A step: Poisson sample of units (reports or patients) -> micro-batches -> per-report gradients -> sum by unit -> clip
-> sum -> noise -> optimizer step -> average.
All that a later step needs is in ``TrainingState``, and every random draw comes from a stream named by (site, step), so
R rounds of K steps are the same computation as R*K steps in one go, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedrad.config import Experiment
from fedrad.model.buckets import micro_batches
from fedrad.model.encoder import ReportClassifier, is_head
from fedrad.model.kernels import on_cpu
from fedrad.privacy.gradients import leaf_gradients, opacus_gradients
from fedrad.privacy.noise import stream
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.sampler import poisson_sample
from fedrad.privacy.units import Units
from fedrad.training.inputs import Inputs


@dataclass(frozen=True)
class Recipe:
    """The public choices of the optimisation.

    Attributes:
        total_steps: noisy steps of the whole run (rounds x local steps); fixes where averaging starts.
        average: share of the last iterates whose mean is the result, in [0, 1). Averaging noised iterates is
            post-processing and costs no privacy (De et al. 2022, arXiv 2204.13650).
        learning_rate: 0 lets ``automatic_learning_rate`` choose.
        sites: hospitals whose adapters are averaged; 1 if the training is centralized.
        warm: whether the run starts from a warmed adapter.
        restarts: the momentum starts anew after so many steps, since nothing is kept of a masked round; 0: never.
    """

    optimizer: Literal["momentum", "adam"]
    learning_rate: float
    momentum: float
    average: float
    gradients: Literal["leaf", "opacus"]
    seed: int
    total_steps: int
    sites: int = 1
    warm: bool = False
    restarts: int = 0

    @staticmethod
    def of(experiment: Experiment, *, sites: int = 1, warm: bool = False) -> Recipe:
        train = experiment.train
        return Recipe(
            optimizer="adam" if train.optimizer == "adam" else "momentum",
            learning_rate=train.learning_rate,
            momentum=train.momentum,
            average=train.average,
            gradients="opacus" if experiment.privacy.gradients == "opacus" else "leaf",
            seed=train.seed,
            total_steps=train.rounds * experiment.local_steps,
            sites=sites,
            warm=warm,
            restarts=experiment.local_steps if experiment.privacy.secure_aggregation else 0,
        )

    @property
    def built_up(self) -> float:
        """How far momentum gets between restarts, of what it comes to without: root mean square of 1 - momentum^j over
        the steps j = 1, ..., ``restarts``."""
        if not self.restarts or self.optimizer != "momentum":
            return 1.0
        steps = np.arange(1, self.restarts + 1)
        return float(np.sqrt(np.mean((1 - self.momentum**steps) ** 2)))

    @property
    def averages_from(self) -> int:
        """The first step (counted from 0) whose result enters the mean."""
        return self.total_steps - round(self.average * self.total_steps)

    def averages(self, step: int) -> bool:
        """Whether the result of this step (counted from 0) enters the mean: none does after the run's last one."""
        return self.averages_from <= step < self.total_steps


@dataclass(frozen=True)
class TrainingState:
    """What one site carries from step to step. Every tensor in it is a function of noised gradients only.

    All of it is on the CPU, wherever the model is.

    Attributes:
        step: noisy steps taken so far in this run.
        adapter: the trainable tensors.
        moments: the optimizer's state, as ``parameter name|state name``.
        average_sum: float64 sum of the averaged iterates.
        averaged: how many they are.
    """

    adapter: dict[str, Tensor]
    step: int = 0
    moments: dict[str, Tensor] = field(default_factory=dict)
    average_sum: dict[str, Tensor] = field(default_factory=dict)
    averaged: int = 0

    def result(self) -> dict[str, Tensor]:
        """The mean of the averaged iterates, or the last iterate where none was averaged."""
        means = {name: (total / self.averaged).to(torch.float32) for name, total in self.average_sum.items()}
        return {name: means[name] if name in means else tensor.clone() for name, tensor in self.adapter.items()}


@dataclass(frozen=True)
class StepReport:
    """For the site's own terminal. ``reports`` is a private count: it must not leave the site.

    Attributes:
        step: steps done in this run, this one included.
        noise_to_signal: of the noised update, from ``PrivateOptimizer.snr``; infinite where no signal is left.
        reports: how many reports this step used.
    """

    step: int
    noise_to_signal: float
    reports: int


def run_steps(
    classifier: ReportClassifier,
    inputs: Inputs,
    plan: PrivacyPlan,
    recipe: Recipe,
    state: TrainingState,
    steps: int,
    *,
    site: str,
    turns: Sequence[Collection[str]] = (),
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainingState:
    """Takes ``steps`` noisy steps from ``state`` and returns the state after them.

    The caller must have charged the site's ledger for all of them before (``training.site`` does).

    Args:
        turns: the tensors that are trained, step by step: step i takes turn i modulo their number. None: all tensors in
            every step. What is not trained in a step gets no gradient, clipping, noise or momentum there, and keeps
            every bit.

    Guarantee: each step is one Poisson-subsampled Gaussian mechanism with the plan's sampling rate, clip norm and
        noise multiplier; what is returned is a function of their outputs and of public values. An empty sample still
        takes a noisy step, and the divisor is the plan's public one. What is clipped, jointly, is exactly what is
        trained in the step. With ``plan.noise == "seeded"`` nothing is guaranteed against anyone who knows the seed.
    """
    parameters = classifier.adapter()
    _copy_into(parameters, state.adapter)
    # What no step of these trains keeps its value, and is not averaged.
    trained = {name: p for name, p in parameters.items() if not turns or any(name in turn for turn in turns)}
    units = inputs.units(plan.unit)
    total = {name: value.to(parameters[name].device) for name, value in state.average_sum.items()}
    averaged, moments = state.averaged, dict(state.moments)
    for first, count in stretches(steps, len(turns)):
        turn = first % len(turns) if turns else 0
        active = _only(parameters, turns[turn] if turns else parameters)
        optimizer = PrivateOptimizer(torch_optimizer(active, recipe, learning_rate(recipe, plan)), plan)
        _restore_moments(optimizer, active, moments)
        with training_only(parameters, active):
            for step in range(state.step + first, state.step + first + count):
                reports = _one_step(classifier, inputs, units, plan, recipe, optimizer, active, step, site)
                if recipe.averages(step):
                    averaged += 1
                    for name, parameter in trained.items():
                        value = parameter.detach().to(torch.float64)
                        total[name] = total[name] + value if name in total else value
                if on_step is not None:
                    on_step(StepReport(step + 1, 1 / optimizer.snr if optimizer.snr else math.inf, reports))
        moments |= _moments(optimizer, active)
    return replace(
        state,
        step=state.step + steps,
        adapter={name: on_cpu(parameter) for name, parameter in parameters.items()},
        moments=moments,
        average_sum={name: value.cpu() for name, value in total.items()},
        averaged=averaged,
    )


def _one_step(
    classifier: ReportClassifier,
    inputs: Inputs,
    units: Units,
    plan: PrivacyPlan,
    recipe: Recipe,
    optimizer: PrivateOptimizer,
    active: Mapping[str, torch.nn.Parameter],
    step: int,
    site: str,
) -> int:
    """One noisy step of the tensors ``active``. Returns how many reports it used, which is private."""
    per_report_gradients = opacus_gradients if recipe.gradients == "opacus" else leaf_gradients
    randomness = stream(plan.noise, recipe.seed, site, step, "sample")
    drawn = poisson_sample(units.count, plan.sampling_rate, randomness)
    sample = units.reports(drawn, plan.reports_per_patient, randomness)
    cuts = micro_batches(inputs.lengths, sample, classifier.kernels.micro_tokens, units=units.of)
    for rows, batch in inputs.passes(cuts):
        with classifier.arithmetic():
            _, gradients = per_report_gradients(
                classifier.suffix, active, (batch.hidden, batch.attention), batch.losses
            )
        if len(rows):
            optimizer.accumulate({name: g[: len(rows)] for name, g in gradients.items()}, units.of[rows])
        else:
            optimizer.discard(gradients)
    optimizer.step_noisy(stream(plan.noise, recipe.seed, site, step, "noise"))
    return int(np.size(sample))


def stretches(steps: int, turns: int) -> list[tuple[int, int]]:
    """(first step, number) of the stretches in which the same tensors are trained: one, or single steps in turn."""
    return [(0, steps)] if turns <= 1 else [(step, 1) for step in range(steps)]


@contextmanager
def training_only(parameters: Mapping[str, torch.nn.Parameter], active: Collection[str]) -> Iterator[None]:
    """Within it, the other parameters are frozen: no engine computes a gradient of them, no optimizer holds them."""
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in active)
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_()


def _only(parameters: Mapping[str, torch.nn.Parameter], names: Collection[str]) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in parameters.items() if name in names}


# Chosen on generated and public reports (benchmarks/utility.py); nothing private decides them.
LARGEST_REACH = 40.0
RATE_WITHOUT_PRIVACY = 0.5

LORA_SHARE, LORA_SCALE = 0.06, 0.3
COLD_WALK, WARM_WALK = 1.0, 0.3
LARGEST_WARM_REACH = 20.0


def automatic_learning_rate(recipe: Recipe, plan: PrivacyPlan) -> float:
    """A step size from public quantities only.

    With s = noise_multiplier * clip / (divisor * sqrt(sites)), the standard deviation of one step's mean gradient:

    Noise alone moves a coordinate of the head by about lr / (1 - momentum) * s * sqrt(T), and the rate keeps this
    random walk at a fixed length. A cold start has far to go and nothing to lose, and takes a longer one than a warm
    start, whose walk is so short that the noise does not undo the start, however small epsilon is.

    What a gradient moves in all, its reach lr / (1 - momentum), is the same with momentum or without. It is bounded
    where there is little noise.

    This is for momentum that has built up. Where it starts anew in every round, steps are shorter, and the rate is
    larger by that factor.

    Without privacy there is neither noise nor clipping, and the rate is a plain constant.
    """
    if not plan.private:
        return RATE_WITHOUT_PRIVACY
    noise = plan.noise_multiplier * plan.clip / (plan.divisor * recipe.sites**0.5)
    walk, largest = (WARM_WALK, LARGEST_WARM_REACH) if recipe.warm else (COLD_WALK, LARGEST_REACH)
    reach = min(largest, walk / (noise * recipe.total_steps**0.5))
    return reach * (1 - recipe.momentum) / recipe.built_up


def learning_rate(recipe: Recipe, plan: PrivacyPlan) -> float:
    """The step size of a site with this plan: as configured, or chosen from public figures."""
    return recipe.learning_rate or automatic_learning_rate(recipe, plan)


def torch_optimizer(parameters: Mapping[str, torch.nn.Parameter], recipe: Recipe, rate: float) -> torch.optim.Optimizer:
    """The optimizer under the noise: momentum SGD or Adam over exactly these parameters, by name.

    Under momentum the LoRA matrices take ``LORA_SHARE`` of the head's rate: at the head's own rate they diverge, with
    noise or without.
    """
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters.items(), lr=rate, betas=(recipe.momentum, 0.999))
    head = [(name, parameter) for name, parameter in parameters.items() if is_head(name)]
    lora = [(name, parameter) for name, parameter in parameters.items() if not is_head(name)]
    groups = [{"params": head, "lr": rate}, {"params": lora, "lr": LORA_SHARE * rate, "scale": LORA_SCALE}]
    return torch.optim.SGD([group for group in groups if group["params"]], lr=rate, momentum=recipe.momentum)


def _copy_into(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def _moments(optimizer: PrivateOptimizer, parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {
        f"{name}|{key}": on_cpu(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _restore_moments(
    optimizer: PrivateOptimizer, parameters: Mapping[str, torch.nn.Parameter], moments: Mapping[str, Tensor]
) -> None:
    for key, value in moments.items():
        name, _, moment = key.rpartition("|")
        if name in parameters:
            # Adam's count of steps, a single number, stays where torch wants it.
            device = parameters[name].device if value.dim() else value.device
            optimizer.state[parameters[name]][moment] = value.to(device, copy=True)
