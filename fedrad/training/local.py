"""THE training loop. ``fedrad.centralized`` and every hospital call it, alone or many in one pass; there is no other.

A step: Poisson sample of units (reports or patients) -> micro-batches -> per-report gradients -> sum by unit -> clip
-> sum -> noise -> optimizer step -> average.
All that a later step needs is in ``TrainingState``, and every random draw comes from a stream named by (site, step), so
R rounds of K steps are the same computation as R*K steps in one go, bit for bit.

Many hospitals in one pass are for simulations: every sample can carry its own copy of the adapter, so one forward and
backward pass serves the samples of many hospitals. All that is private to a hospital stays its own: its Poisson sample,
clip norm, sum, noise, optimizer state and averages. Each gets what it gets alone, up to rounding; memory grows by
adapter and optimizer state for each hospital.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrad.errors import PrivacyError
from fedrad.model.buckets import micro_batches
from fedrad.model.kernels import on_cpu
from fedrad.privacy.gradients import leaf_gradients, opacus_gradients
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import stream
from fedrad.privacy.sampler import poisson_sample
from fedrad.privacy.units import Units
from fedrad.training.inputs import Inputs
from fedrad.training.recipe import Recipe, learning_rate, torch_optimizer
from fedrad.training.stacks import gained, layer_of, moments_of, optimizer_state, stacked


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


@dataclass(frozen=True)
class Member:
    """A hospital that trains.

    Attributes:
        site: its name, which its random streams are named by.
        start, stop: its reports are the rows ``start`` to ``stop`` of the common inputs.
        plan: its own privacy plan.
        state: what it carries from step to step.
    """

    site: str
    start: int
    stop: int
    plan: PrivacyPlan
    state: TrainingState


def run_steps(
    inputs: Inputs,
    plan: PrivacyPlan,
    recipe: Recipe,
    state: TrainingState,
    steps: int,
    *,
    site: str,
    blocks: Sequence[Collection[str]] = (),
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainingState:
    """``run_steps_together`` of one hospital, to which all inputs belong: its state after the steps."""
    member = Member(site, 0, len(inputs), plan, state)
    return run_steps_together(inputs, [member], recipe, steps, blocks, on_step)[0]


def run_steps_together(
    inputs: Inputs,
    members: Sequence[Member],
    recipe: Recipe,
    steps: int,
    blocks: Sequence[Collection[str]] = (),
    on_step: Callable[[StepReport], None] | None = None,
) -> list[TrainingState]:
    """Takes ``steps`` noisy steps of every member and returns the states after them, in the same order.

    The caller must have charged each member's ledger for all of them before (``training.site`` does).

    Guarantee: each step of a member is one Poisson-subsampled Gaussian mechanism with its plan's sampling rate, clip
        norm and noise multiplier; what is returned is a function of their outputs and of public values. An empty sample
        still takes a noisy step, and the divisor is the plan's public one. What is clipped, jointly, is exactly what is
        trained in the step. A report enters the sum of its own hospital and no other; but members share a process, so
        several of them are for simulations. With ``plan.noise == "seeded"`` nothing is guaranteed against anyone who
        knows the seed.

    Args:
        inputs: the reports of all members, one behind the other.
        blocks: of tensors, trained in turn (block coordinate descent): step i trains block i modulo their number.
            None: all tensors in every step. What is not trained in a step gets no gradient, clipping, noise or momentum
            there, and keeps every bit.
        on_step: told of every step of the first member.

    Raises:
        PrivacyError: several members are not at the same step, or are to train with Opacus's engine, which knows one
            adapter.
    """
    first, plans = members[0].state, [member.plan for member in members]
    if len(members) > 1 and recipe.gradients != "leaf":
        raise PrivacyError(
            "Only per-sample leaves can carry the adapters of several hospitals: privacy.gradients=leaf."
        )
    if len({member.state.step for member in members}) != 1:
        raise PrivacyError("Only hospitals that are at the same step can be trained together.")
    adapter = inputs.classifier.adapter()
    _copy_into(adapter, first.adapter)
    blocks = blocks or [list(adapter)]
    # Tensors that no step trains keep the value that the server sent to all members, and are not averaged.
    trained = {name: p for name, p in adapter.items() if any(name in block for block in blocks)}
    if len(members) > 1:
        stacks = stacked([{name: m.state.adapter[name] for name in trained} for m in members])
        trained = {name: nn.Parameter(stack.to(inputs.classifier.device)) for name, stack in stacks.items()}
    rates = [learning_rate(recipe, plan) for plan in plans]
    gains = [rate / rates[0] for rate in rates]  # of SGD; Adam's rate does not depend on the plan, so 1
    sums = stacked([m.state.average_sum for m in members])
    total, averaged = {name: value.to(inputs.classifier.device) for name, value in sums.items()}, first.averaged
    moments = stacked([gained(m.state.moments, gain) for m, gain in zip(members, gains, strict=True)])
    state, optimizers = optimizer_state(trained, moments), []
    for block in blocks:
        wrapped = torch_optimizer({name: p for name, p in trained.items() if name in block}, recipe, rates[0])
        wrapped.state = state
        optimizers.append(PrivateOptimizer(wrapped, *plans, gains=gains if len(plans) > 1 else ()))
    shards = _Shards(inputs, members)
    for step in range(first.step, first.step + steps):
        block = blocks[(step - first.step) % len(blocks)]
        optimizer = optimizers[(step - first.step) % len(blocks)]
        with _training_only(adapter, block):
            reports = _sum_gradients(shards, recipe, optimizer, block, trained, step)
        optimizer.step_noisy(*(stream(m.plan.noise, recipe.seed, m.site, step, "noise") for m in members))
        if recipe.averages(step):
            averaged += 1
            for name, parameter in trained.items():
                value = parameter.detach().to(torch.float64)
                total[name] = total[name] + value if name in total else value
        if on_step is not None:
            on_step(StepReport(step + 1, 1 / optimizer.snr if optimizer.snr else math.inf, reports))
    ends, moments = {name: on_cpu(p) for name, p in trained.items()}, moments_of(state, trained)
    total = {name: value.cpu() for name, value in total.items()}
    return [
        TrainingState(
            step=first.step + steps,
            adapter=member.state.adapter | layer_of(ends, i, len(members)),
            moments=member.state.moments | gained(layer_of(moments, i, len(members)), 1 / gains[i]),
            average_sum=layer_of(total, i, len(members)),
            averaged=averaged,
        )
        for i, member in enumerate(members)
    ]


class _Shards:
    """The hospital and the unit of each row of the common inputs. No two hospitals share the number of a unit."""

    def __init__(self, inputs: Inputs, members: Sequence[Member]) -> None:
        self.inputs, self.members, self.adapter = inputs, members, inputs.classifier.adapter()
        self.units = [inputs.units(member.plan.unit, member.start, member.stop) for member in members]
        self.unit_of = np.full(len(inputs), -1, dtype=np.int64)
        self.hospital_of = np.zeros(len(inputs), dtype=np.int64)
        before = 0
        for i, (member, own) in enumerate(zip(members, self.units, strict=True)):
            self.unit_of[member.start : member.stop] = before + own.of
            self.hospital_of[member.start : member.stop] = i
            before += own.count

    def samples(self, recipe: Recipe, step: int) -> list[NDArray[np.int64]]:
        """What each member's units of this step contribute, as rows of the common inputs. Private."""
        return [_sample(m, own, recipe, step) for m, own in zip(self.members, self.units, strict=True)]

    def hospital(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Whose report each row is, int64; None, if there is one hospital."""
        return torch.from_numpy(self.hospital_of[rows]) if len(self.members) > 1 else None


def _sample(member: Member, units: Units, recipe: Recipe, step: int) -> NDArray[np.int64]:
    randomness = stream(member.plan.noise, recipe.seed, member.site, step, "sample")
    drawn = poisson_sample(units.count, member.plan.sampling_rate, randomness)
    return member.start + units.reports(drawn, member.plan.reports_per_patient, randomness)


def _sum_gradients(
    shards: _Shards,
    recipe: Recipe,
    optimizer: PrivateOptimizer,
    block: Collection[str],
    trained: Mapping[str, nn.Parameter],
    step: int,
) -> int:
    """A step up to its noise, of the tensors of ``block``. Returns how many reports the first member used: private."""
    inputs, classifier = shards.inputs, shards.inputs.classifier
    active = {name: p for name, p in shards.adapter.items() if name in block}
    samples = shards.samples(recipe, step)
    cuts = micro_batches(inputs.lengths, np.concatenate(samples), classifier.kernels.micro_tokens, units=shards.unit_of)
    for rows, batch in inputs.passes(cuts):
        hospital = shards.hospital(rows)
        with classifier.arithmetic():
            if recipe.gradients == "opacus":
                _, gradients = opacus_gradients(classifier.suffix, active, batch.read, batch.losses)
            else:
                whose = None if hospital is None else hospital.to(classifier.device)
                own = {} if whose is None else {shards.adapter[name]: p.detach()[whose] for name, p in trained.items()}
                _, gradients = leaf_gradients(classifier.suffix, active, batch.read, batch.losses, own)
        if len(rows):
            optimizer.accumulate(
                {name: g[: len(rows)] for name, g in gradients.items()}, shards.unit_of[rows], hospital
            )
        else:
            optimizer.discard(gradients)
    return len(samples[0])


@contextmanager
def _training_only(parameters: Mapping[str, nn.Parameter], active: Collection[str]) -> Iterator[None]:
    """Within it, the other parameters are frozen: no engine computes a gradient of them, no optimizer holds them."""
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in active)
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_()


def _copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
