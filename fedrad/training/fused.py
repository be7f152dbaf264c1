"""The training loop of many hospitals in one pass, for simulations.

Every sample can carry its own copy of the adapter, so one forward and backward serves the samples of many hospitals:
sample i multiplies with the adapter of its hospital. All that is private to a hospital stays its own: its Poisson
sample, its clip norm, its sum, its noise stream, its optimizer state, and its averages. Results are those of
``run_steps``, hospital by hospital, up to rounding; memory grows by adapter and optimizer state for each hospital.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedrad.errors import PrivacyError
from fedrad.model.buckets import micro_batches
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.noise import stream
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.sampler import poisson_sample
from fedrad.privacy.stacked import StackedPrivateOptimizer
from fedrad.training.inputs import Inputs
from fedrad.training.local import Recipe, TrainingState, learning_rate, torch_optimizer
from fedrad.training.loss import report_losses


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


def run_steps_together(inputs: Inputs, members: Sequence[Member], recipe: Recipe, steps: int) -> list[TrainingState]:
    """``steps`` noisy steps of every member; the states after them, in the same order.

    Each member's ledger must have been charged for all of them before, as for ``run_steps``.

    Guarantee: for each member that of ``run_steps`` under its own plan. Members do not read each other's reports: a
    report enters the sum of its own hospital and no other (``StackedPrivateOptimizer``). They share a process, so this
    is for simulations.

    Args:
        inputs: the reports of all members, one behind the other.

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
    stacks = {name: nn.Parameter(torch.stack([m.state.adapter[name] for m in members])) for name in trainable}
    rates = [learning_rate(trainable, recipe, member.plan) for member in members]
    gains = [rate / rates[0] for rate in rates]  # of SGD; Adam's rate does not depend on the plan, so 1
    wrapped = torch_optimizer(stacks, recipe, rates[0])
    optimizer = StackedPrivateOptimizer(wrapped, [member.plan for member in members], gains)
    _restore_moments(wrapped, stacks, members, gains)
    sums = {name: torch.stack([m.state.average_sum[name] for m in members]) for name in first.average_sum}
    averaged = first.averaged
    whose = np.concatenate([np.full(member.stop - member.start, i) for i, member in enumerate(members)])
    rows = np.concatenate([np.arange(member.start, member.stop) for member in members])
    hospital_of = np.zeros(len(inputs), dtype=np.int64)
    hospital_of[rows] = whose
    for step in range(first.step, first.step + steps):
        sample = np.concatenate([_sample(member, recipe, step) for member in members])
        for indices in micro_batches(inputs.lengths, sample, classifier.kernels.micro_tokens):
            batch = inputs.batch(indices)
            hospital = torch.from_numpy(hospital_of[indices])

            def losses(logits: Tensor, labels: Tensor = batch.labels, mask: Tensor = batch.mask) -> Tensor:
                return report_losses(logits, labels, mask, single_label=recipe.single_label)

            with classifier.arithmetic():
                _, gradients = leaf_gradients(
                    classifier.suffix,
                    trainable,
                    (batch.hidden, batch.attention),
                    losses,
                    {name: stack.detach()[hospital] for name, stack in stacks.items()},
                )
            optimizer.accumulate(gradients, hospital)
        optimizer.step_noisy([stream(member.plan.noise, recipe.seed, member.site, step, "noise") for member in members])
        if step >= recipe.averages_from:
            averaged += 1
            for name, stack in stacks.items():
                value = stack.detach().to(torch.float64)
                sums[name] = sums[name] + value if name in sums else value
    moments = {
        f"{name}|{key}": value
        for name, stack in stacks.items()
        for key, value in wrapped.state.get(stack, {}).items()
        if isinstance(value, Tensor)
    }
    return [
        TrainingState(
            step=first.step + steps,
            adapter={name: stack.detach()[i].clone() for name, stack in stacks.items()},
            moments={key: _layer(key, value, i, 1 / gains[i]) for key, value in moments.items()},
            average_sum={name: total[i].clone() for name, total in sums.items()},
            averaged=averaged,
        )
        for i in range(len(members))
    ]


def _sample(member: Member, recipe: Recipe, step: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """This step's Poisson sample of a member, as rows of the common inputs."""
    randomness = stream(member.plan.noise, recipe.seed, member.site, step, "sample")
    return member.start + poisson_sample(member.stop - member.start, member.plan.sampling_rate, randomness)


def _restore_moments(
    optimizer: torch.optim.Optimizer,
    stacks: dict[str, nn.Parameter],
    members: Sequence[Member],
    gains: Sequence[float],
) -> None:
    for key, value in members[0].state.moments.items():
        name, _, moment = key.rpartition("|")
        layers = [_gained(key, m.state.moments[key], gain) for m, gain in zip(members, gains, strict=True)]
        optimizer.state[stacks[name]][moment] = value.clone() if value.dim() == 0 else torch.stack(layers)


def _layer(key: str, value: Tensor, index: int, gain: float) -> Tensor:
    """One hospital's part of a moment. Adam's step count is one number for all."""
    return value.clone() if value.dim() == 0 else _gained(key, value[index].clone(), gain)


def _gained(key: str, value: Tensor, gain: float) -> Tensor:
    """SGD's buffer sums gradients that were multiplied with the hospital's gain; on its own it has none."""
    return value * gain if key.endswith("|momentum_buffer") else value
