"""The training loop of many hospitals in one pass, for simulations.

Every sample can carry its own copy of the adapter, so one forward and backward serves the samples of many hospitals:
sample i multiplies with the adapter of its hospital. All that is private to a hospital stays its own: its Poisson
sample, its clip norm, its sum, its noise stream, its optimizer state, and its averages. Results are those of
``run_steps``, hospital by hospital, up to rounding; memory grows by adapter and optimizer state for each hospital.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrad.errors import PrivacyError
from fedrad.model.buckets import micro_batches
from fedrad.model.kernels import on_cpu
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.noise import stream
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.sampler import poisson_sample
from fedrad.privacy.stacked import StackedPrivateOptimizer
from fedrad.privacy.units import Units
from fedrad.training.inputs import Inputs
from fedrad.training.local import Recipe, TrainingState, learning_rate, stretches, torch_optimizer


@dataclass(frozen=True)
class Member:
    """A hospital that trains with others.

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


def run_steps_together(
    inputs: Inputs,
    members: Sequence[Member],
    recipe: Recipe,
    steps: int,
    turns: Sequence[Collection[str]] = (),
) -> list[TrainingState]:
    """``steps`` noisy steps of every member; the states after them, in the same order.

    Each member's ledger must have been charged for all of them before, as for ``run_steps``.

    Guarantee: for each member that of ``run_steps`` under its own plan. Members do not read each other's reports: a
    report enters the sum of its own hospital and no other (``StackedPrivateOptimizer``). They share a process, so this
    is for simulations.

    Args:
        inputs: the reports of all members, one behind the other.
        turns: as for ``run_steps``.

    Raises:
        PrivacyError: the members are not at the same step, or Opacus's engine is asked for, which knows one adapter.
    """
    if recipe.gradients != "leaf":
        raise PrivacyError(
            "Only per-sample leaves can carry the adapters of several hospitals: privacy.gradients=leaf."
        )
    if len({member.state.step for member in members}) != 1:
        raise PrivacyError("Only hospitals that are at the same step can be trained together.")
    classifier, first = inputs.classifier, members[0].state
    trainable = classifier.adapter()
    # What no step of these trains keeps its value, which is the same at all members: the server sent it.
    trained = {name: p for name, p in trainable.items() if not turns or any(name in turn for turn in turns)}
    device = classifier.device
    stacks = {name: nn.Parameter(torch.stack([m.state.adapter[name] for m in members]).to(device)) for name in trained}
    moments = _stacked_moments(members)
    sums = {name: torch.stack([m.state.average_sum[name] for m in members]).to(device) for name in first.average_sum}
    averaged = first.averaged
    whose = np.concatenate([np.full(member.stop - member.start, i) for i, member in enumerate(members)])
    rows = np.concatenate([np.arange(member.start, member.stop) for member in members])
    hospital_of = np.zeros(len(inputs), dtype=np.int64)
    hospital_of[rows] = whose
    units = [inputs.units(member.plan.unit, member.start, member.stop) for member in members]
    unit_of = _units_apart(len(inputs), members, units)
    for begin, count in stretches(steps, len(turns)):
        turn = turns[begin % len(turns)] if turns else trained
        active = {name: stack for name, stack in stacks.items() if name in turn}
        rates = [learning_rate(recipe, member.plan) for member in members]
        gains = [rate / rates[0] for rate in rates]  # of SGD; Adam's rate does not depend on the plan, so 1
        wrapped = torch_optimizer(active, recipe, rates[0])
        optimizer = StackedPrivateOptimizer(wrapped, [member.plan for member in members], gains)
        _restore_moments(wrapped, active, moments, gains)
        for step in range(first.step + begin, first.step + begin + count):
            sample = np.concatenate([_sample(m, own, recipe, step) for m, own in zip(members, units, strict=True)])
            for indices in micro_batches(inputs.lengths, sample, classifier.kernels.micro_tokens, units=unit_of):
                batch = inputs.batch(indices)
                hospital = torch.from_numpy(hospital_of[indices])
                whose_adapter = hospital.to(device)
                with classifier.arithmetic():
                    _, gradients = leaf_gradients(
                        classifier.suffix,
                        trained,
                        (batch.hidden, batch.attention),
                        batch.losses,
                        {name: stack.detach()[whose_adapter] for name, stack in stacks.items()},
                    )
                optimizer.accumulate({name: gradients[name] for name in active}, hospital, unit_of[indices])
            optimizer.step_noisy([stream(m.plan.noise, recipe.seed, m.site, step, "noise") for m in members])
            if recipe.averages(step):
                averaged += 1
                for name, stack in stacks.items():
                    value = stack.detach().to(torch.float64)
                    sums[name] = sums[name] + value if name in sums else value
        moments |= _moments_of(wrapped, active, gains)
    trained_stacks = {name: on_cpu(stack) for name, stack in stacks.items()}
    sums = {name: total.cpu() for name, total in sums.items()}
    return [
        TrainingState(
            step=first.step + steps,
            adapter=member.state.adapter | {name: stack[i].clone() for name, stack in trained_stacks.items()},
            moments={key: value[i].clone() for key, value in moments.items()},
            average_sum={name: total[i].clone() for name, total in sums.items()},
            averaged=averaged,
        )
        for i, member in enumerate(members)
    ]


def _sample(member: Member, units: Units, recipe: Recipe, step: int) -> NDArray[np.int64]:
    """What a member's units of this step contribute, as rows of the common inputs. As in ``run_steps``."""
    randomness = stream(member.plan.noise, recipe.seed, member.site, step, "sample")
    drawn = poisson_sample(units.count, member.plan.sampling_rate, randomness)
    return member.start + units.reports(drawn, member.plan.reports_per_patient, randomness)


def _units_apart(rows: int, members: Sequence[Member], units: Sequence[Units]) -> NDArray[np.int64]:
    """The unit of each row of the common inputs, int64 [rows]; no number stands for units of two members."""
    apart, before = np.full(rows, -1, dtype=np.int64), 0
    for member, own in zip(members, units, strict=True):
        apart[member.start : member.stop] = before + own.of
        before += own.count
    return apart


def _stacked_moments(members: Sequence[Member]) -> dict[str, Tensor]:
    """[H, ...] by ``parameter|moment``, in each hospital's own units."""
    return {key: torch.stack([m.state.moments[key] for m in members]) for key in members[0].state.moments}


def _restore_moments(
    optimizer: torch.optim.Optimizer,
    stacks: Mapping[str, nn.Parameter],
    moments: Mapping[str, Tensor],
    gains: Sequence[float],
) -> None:
    for key, value in moments.items():
        name, _, moment = key.rpartition("|")
        if name in stacks:
            # Adam's step count is one number for all.
            mine = value[0].clone() if value.dim() == 1 else _gained(key, value, gains).to(stacks[name].device)
            optimizer.state[stacks[name]][moment] = mine


def _moments_of(
    optimizer: torch.optim.Optimizer, stacks: Mapping[str, nn.Parameter], gains: Sequence[float]
) -> dict[str, Tensor]:
    inverse = [1 / gain for gain in gains]
    return {
        f"{name}|{key}": value.expand(len(gains))
        if value.dim() == 0
        else _gained(f"{name}|{key}", value.cpu(), inverse)
        for name, stack in stacks.items()
        for key, value in optimizer.state.get(stack, {}).items()
        if isinstance(value, Tensor)
    }


def _gained(key: str, value: Tensor, gains: Sequence[float]) -> Tensor:
    """SGD's buffer sums gradients that were multiplied with the hospital's gain; on its own it has none."""
    if not key.endswith("|momentum_buffer"):
        return value.clone()
    return value * torch.tensor(gains, dtype=value.dtype).reshape(-1, *[1] * (value.dim() - 1))
