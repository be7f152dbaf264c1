"""A step: sum, noise and divisor, and what the optimizer refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrad.errors import PrivacyError
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream
from tests.privacy.optimizers import CLIP, OPEN_PLAN, PLAN, SHAPES, Kind, NoNoise, clipped_sum, gradients, make


class HalfNoise(PrivateOptimizer):
    def add_noise(self) -> None:
        before = [torch.zeros_like(p) if p.summed_grad is None else p.summed_grad.clone() for p in self.params]
        super().add_noise()
        for p, b in zip(self.params, before, strict=True):
            p.grad = (b + 0.5 * (p.grad - b)).to(p.dtype)


class SameNoiseAgain(PrivateOptimizer):
    def add_noise(self) -> None:
        self._streams = [Stream.seeded(0, "forgot the step")]
        super().add_noise()

    def _refuse_repeated(self, plan: PrivacyPlan, stream: Stream) -> None:
        pass


class RealBatchDivisor(PrivateOptimizer):
    def accumulate(self, grads, units=None) -> None:
        self._real = len(next(iter(grads.values())))
        super().accumulate(grads, units)

    def scale_grad(self) -> None:
        for p in self.params:
            p.grad /= self._real


class RealUnitsDivisor(PrivateOptimizer):
    def scale_grad(self) -> None:
        for p in self.params:
            p.grad /= len(self._units._added) or self.plans[0].divisor


def updates_of_zero_gradients(kind: Kind, steps: int = 50, size: int = 4000) -> np.ndarray:
    """[steps, size]: what is left of a step in which no report has a gradient, in units of sigma * C / divisor."""
    p = nn.Parameter(torch.zeros(size))
    optimizer = kind(torch.optim.SGD([("p", p)], lr=1.0), PLAN)
    rows = []
    for step in range(steps):
        before = p.detach().clone()
        optimizer.accumulate({"p": torch.zeros(3, size)})
        optimizer.step_noisy(Stream.seeded(0, "noise", step))
        rows.append((before - p.detach()).double().numpy() * PLAN.divisor / (PLAN.noise_multiplier * CLIP))
    return np.stack(rows)


def noise_is_as_large_as_claimed(kind: Kind) -> bool:
    noise = updates_of_zero_gradients(kind)
    return bool(abs(noise.std() - 1) <= 4 / math.sqrt(2 * noise.size))


def noise_is_independent_across_steps(kind: Kind) -> bool:
    noise = updates_of_zero_gradients(kind)
    if not noise.std(1).all():
        return False
    correlation = np.corrcoef(noise)[np.triu_indices(len(noise), 1)]
    return bool(np.abs(correlation).max() < 6 / math.sqrt(noise.shape[1]))


def test_noise() -> None:
    assert noise_is_as_large_as_claimed(PrivateOptimizer)
    assert noise_is_independent_across_steps(PrivateOptimizer)


@pytest.mark.parametrize("kind", [NoNoise, HalfNoise])
def test_negative_control_too_little_noise_is_caught(kind: Kind) -> None:
    assert not noise_is_as_large_as_claimed(kind)


@pytest.mark.parametrize("kind", [NoNoise, SameNoiseAgain])
def test_negative_control_repeated_noise_is_caught(kind: Kind) -> None:
    assert not noise_is_independent_across_steps(kind)


def an_empty_batch_is_noised(kind: Kind) -> bool:
    named, optimizer = make(kind)
    optimizer.step_noisy(Stream.seeded(0, 0))  # nothing accumulated at all
    first = {n: p.detach().clone() for n, p in named.items()}
    optimizer.accumulate(gradients(0))  # an empty micro-batch
    optimizer.step_noisy(Stream.seeded(0, 1))
    return all(bool(first[n].all()) and not torch.equal(first[n], p) for n, p in named.items())


def test_an_empty_batch_takes_a_noisy_step() -> None:
    assert an_empty_batch_is_noised(PrivateOptimizer)
    assert not an_empty_batch_is_noised(NoNoise)


def divisor_is_public(kind: Kind, units: bool) -> bool:
    """Neighbouring shards of 100 and 101 reports, all in the batch: the added zero gradient must change no bit.

    With ``units``, it is also said whose the gradients are, as the training loop does.
    """
    updates = []
    for n in (100, 101):
        batch = {name: torch.cat((g, torch.zeros_like(g[:1]))) if n == 101 else g for name, g in gradients(100).items()}
        named, optimizer = make(kind)
        optimizer.accumulate(batch, np.arange(n) if units else None)
        optimizer.step_noisy(Stream.seeded(0))
        updates.append(torch.cat([p.detach().flatten() for p in named.values()]))
    return torch.allclose(updates[0], updates[1], rtol=1e-6)


@pytest.mark.parametrize("units", [False, True])
def test_the_divisor_is_public(units: bool) -> None:
    assert divisor_is_public(PrivateOptimizer, units)
    assert not divisor_is_public(RealBatchDivisor, units)
    assert divisor_is_public(RealUnitsDivisor, units) == (not units)  # this one is seen only where units are given


def test_a_step_is_sum_plus_noise_over_divisor() -> None:
    batch = gradients(5)
    expected = clipped_sum(make()[1], batch)
    named, optimizer = make()
    optimizer.accumulate(batch)
    optimizer.step_noisy(Stream.seeded(4))
    stream = Stream.seeded(4)
    noise = torch.cat([stream.normal(s, dtype=torch.float64).flatten() for s in SHAPES.values()])
    update = -(expected + PLAN.noise_multiplier * CLIP * noise) / PLAN.divisor
    assert torch.allclose(torch.cat([p.detach().flatten() for p in named.values()]).double(), update, rtol=1e-5)
    assert all(p.grad is None and p.summed_grad is None and p.grad_sample is None for p in optimizer.params)


def test_not_private_neither_clips_nor_noises_but_divides() -> None:
    batch = gradients(5, scale=100.0)
    named, optimizer = make(plan=OPEN_PLAN)
    optimizer.accumulate(batch)
    optimizer.step_noisy(Stream.seeded(0))
    for name, p in named.items():
        assert torch.allclose(p.detach(), -batch[name].sum(0) / 10, rtol=1e-5)
    assert optimizer.snr == math.inf


def test_signal_to_noise() -> None:
    p = nn.Parameter(torch.zeros(20_000))
    optimizer = PrivateOptimizer(torch.optim.SGD([p], lr=1.0), PLAN)
    assert math.isnan(optimizer.snr)
    optimizer.step_noisy(Stream.seeded(0, 0))
    assert optimizer.snr < 0.2
    reports = 2000
    optimizer.accumulate({"p": torch.ones(1, 20_000).expand(reports, -1)})
    optimizer.step_noisy(Stream.seeded(0, 1))
    expected = reports * CLIP / (PLAN.noise_multiplier * CLIP * math.sqrt(20_000))
    assert optimizer.snr == pytest.approx(expected, rel=0.05)


def test_names_decide_not_the_order() -> None:
    batch = gradients(3)
    _, optimizer = make()
    assert torch.equal(clipped_sum(optimizer, batch), clipped_sum(optimizer, dict(reversed(batch.items()))))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: {n: v for n, v in g.items() if n != "b"},
        lambda g: {**g, "d": g["b"]},
        lambda g: {("x" if n == "b" else n): v for n, v in g.items()},
        lambda g: {**g, "b": g["b"][:-1]},
        lambda g: {**g, "b": g["b"].sum(0)},
        lambda g: {**g, "a": g["a"].transpose(1, 2)},
    ],
    ids=["missing", "too many", "misnamed", "fewer reports", "already summed", "transposed"],
)
def test_foreign_gradients_are_refused(spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    _, optimizer = make()
    with pytest.raises(PrivacyError):
        optimizer.accumulate(spoil(gradients(3)))
    with pytest.raises(PrivacyError):  # without names, shapes still decide
        PrivateOptimizer(torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0), PLAN).accumulate(gradients(3))


def test_there_is_no_step_without_noise() -> None:
    named, optimizer = make()
    optimizer.accumulate(gradients(3))
    for forbidden in (
        optimizer.step,
        optimizer.signal_skip_step,
        optimizer.add_noise,
        optimizer.pre_step,
        lambda: optimizer.pre_step(lambda: 0.0),
        lambda: optimizer.attach_step_hook(print),
    ):
        with pytest.raises(PrivacyError):
            forbidden()
    assert not any(p.any() for p in named.values())


def test_nobody_changes_what_the_plan_fixes() -> None:
    _, optimizer = make()
    for name in ("noise_multiplier", "max_grad_norm", "expected_batch_size", "plans"):
        with pytest.raises(PrivacyError, match=r"fixed by the plan|plans of an optimizer can.t be changed"):
            setattr(optimizer, name, 0.5)


def test_a_stream_must_be_the_plans_and_fresh() -> None:
    _, optimizer = make()
    with pytest.raises(PrivacyError, match="seeded noise"):
        optimizer.step_noisy(Stream.system())
    optimizer.step_noisy(Stream.seeded(0, "step"))
    with pytest.raises(PrivacyError, match="used in another step"):
        optimizer.step_noisy(Stream.seeded(0, "step"))


def test_a_failed_step_lends_nothing_to_the_next() -> None:
    _, optimizer = make()
    optimizer.step_noisy(Stream.seeded(0, 1))
    optimizer.accumulate(gradients(3, scale=100.0))
    with pytest.raises(PrivacyError):
        optimizer.step_noisy(Stream.seeded(0, 1))
    assert all(p.summed_grad is None for p in optimizer.params)


def test_momentum_and_adam_see_the_noised_gradient_only() -> None:
    for build in (lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), lambda ps: torch.optim.Adam(ps, lr=0.1)):
        p = nn.Parameter(torch.zeros(4))
        optimizer = PrivateOptimizer(build([("p", p)]), PLAN)
        optimizer.accumulate({"p": torch.ones(2, 4)})
        optimizer.step_noisy(Stream.seeded(0))
        moment = next(v for k, v in optimizer.state[p].items() if k in ("momentum_buffer", "exp_avg"))
        noise = Stream.seeded(0).normal([4], dtype=torch.float64)
        noised = (2 * CLIP * torch.ones(4) / 2 + PLAN.noise_multiplier * CLIP * noise) / PLAN.divisor
        assert torch.allclose(moment.double() / moment[0].double(), noised / noised[0], rtol=1e-4)
