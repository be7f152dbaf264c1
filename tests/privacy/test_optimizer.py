"""Every check is a function that returns a bool, so that the same check can be shown to catch broken optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrad.errors import PrivacyError
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream

SHAPES = {"a": (3, 4), "b": (5,), "c": ()}
CLIP = 0.7
PLAN = PrivacyPlan.calibrate(
    epsilon=8.0, delta=1e-5, declared_size=100, expected_batch=10, steps=20, clip=CLIP, noise="seeded"
)
OPEN_PLAN = PrivacyPlan.calibrate(
    epsilon=0.0, delta=1e-5, declared_size=100, expected_batch=10, steps=20, clip=math.inf, noise="seeded"
)
Kind = type[PrivateOptimizer]


class NoClipping(PrivateOptimizer):
    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        for p in self.params:
            total = p.grad_sample.double().sum(0)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total


class PerTensorClipping(PrivateOptimizer):
    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        for p in self.params:
            g = p.grad_sample.double()
            factor = (CLIP / g.reshape(len(g), -1).norm(dim=1)).clamp(max=1)
            total = torch.einsum("i,i...->...", factor, g)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total


class NanPassesThrough(PrivateOptimizer):
    clip_and_accumulate = DPOptimizer.clip_and_accumulate


class NoNoise(PrivateOptimizer):
    def add_noise(self) -> None:
        for p in self.params:
            p.grad = torch.zeros_like(p) if p.summed_grad is None else p.summed_grad.to(p.dtype)


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


def make(
    kind: Kind = PrivateOptimizer, plan: PrivacyPlan = PLAN, lr: float = 1.0
) -> tuple[dict[str, nn.Parameter], PrivateOptimizer]:
    named = {name: nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
    return named, kind(torch.optim.SGD(named.items(), lr=lr), plan)


def gradients(n: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(n, *shape, generator=rng, dtype=dtype) for name, shape in SHAPES.items()}


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].reshape(len(tensors[name]), -1) for name in SHAPES], 1)


def clipped_sum(optimizer: PrivateOptimizer, *batches: dict[str, Tensor]) -> Tensor:
    """The sum before noise, as one vector in float64."""
    for batch in batches:
        optimizer.accumulate(batch)
    total = torch.cat([p.summed_grad.double().reshape(-1) for p in optimizer.params])
    optimizer.zero_grad()
    return total


def with_one_more(batch: dict[str, Tensor], extra: Tensor) -> dict[str, Tensor]:
    parts = dict(zip(SHAPES, extra.split([math.prod(s) for s in SHAPES.values()]), strict=True))
    return {name: torch.cat((batch[name], parts[name].reshape(1, *SHAPES[name]))) for name in SHAPES}


def one_report_moves_at_most_clip(kind: Kind, extra: Tensor, others: int = 6) -> bool:
    batch = gradients(others, seed=others)
    _, optimizer = make(kind)
    change = clipped_sum(optimizer, with_one_more(batch, extra)) - clipped_sum(optimizer, batch)
    return bool(change.isfinite().all() and change.norm() <= CLIP * (1 + 1e-9))


def sum_is_right(kind: Kind) -> bool:
    batch = gradients(9, scale=0.5)
    vectors = flat(batch).double()
    expected = sum(v * min(1.0, CLIP / float(v.norm())) for v in vectors)
    return torch.allclose(clipped_sum(make(kind)[1], batch), expected, rtol=0, atol=1e-9)


D = sum(math.prod(s) for s in SHAPES.values())
NASTY = [math.nan, math.inf, -math.inf, 1e38, -3.4e38, 1e-45, 0.0, 1.0]


@given(st.lists(st.one_of(st.sampled_from(NASTY), st.floats(width=32)), min_size=D, max_size=D), st.integers(0, 8))
@settings(max_examples=150, deadline=None)
def test_one_report_moves_the_sum_by_at_most_clip(values: list[float], others: int) -> None:
    assert one_report_moves_at_most_clip(PrivateOptimizer, torch.tensor(values, dtype=torch.float32), others)


ADVERSARIES = {
    "huge": torch.full((D,), 3e38),
    "large": torch.full((D,), 5.0),
    "one nan": torch.tensor([math.nan] + [0.1] * (D - 1)),
    "inf": torch.tensor([0.1] * (D - 1) + [math.inf]),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_adversaries(name: str) -> None:
    assert one_report_moves_at_most_clip(PrivateOptimizer, ADVERSARIES[name])


@pytest.mark.parametrize(
    ("kind", "caught_by"),
    [(NoClipping, "large"), (PerTensorClipping, "large"), (NanPassesThrough, "one nan"), (NanPassesThrough, "inf")],
)
def test_negative_control_broken_clipping_is_caught(kind: Kind, caught_by: str) -> None:
    assert not one_report_moves_at_most_clip(kind, ADVERSARIES[caught_by])


def test_negative_control_float32_norms_lose_a_huge_report() -> None:
    """Opacus's float32 norm of 3e38s is infinite, so its clip factor is 0: such a report is lost, not clipped."""
    extra = ADVERSARIES["huge"]
    empty = {name: torch.zeros(0, *shape) for name, shape in SHAPES.items()}
    kinds = (PrivateOptimizer, NanPassesThrough)
    ours, theirs = (clipped_sum(make(kind)[1], with_one_more(empty, extra)).norm() for kind in kinds)
    assert ours == pytest.approx(CLIP, rel=1e-9)
    assert theirs == 0


def test_duplicates_count_once_each() -> None:
    extra = ADVERSARIES["large"]
    batch = with_one_more(with_one_more(gradients(0), extra), extra)
    assert clipped_sum(make()[1], batch).norm() == pytest.approx(2 * CLIP, rel=1e-9)


def test_a_broken_report_does_not_disturb_the_others() -> None:
    batch = gradients(4)
    _, optimizer = make()
    assert torch.equal(
        clipped_sum(optimizer, with_one_more(batch, ADVERSARIES["one nan"])), clipped_sum(optimizer, batch)
    )


def test_clipped_sum_is_right() -> None:
    assert sum_is_right(PrivateOptimizer)


@pytest.mark.parametrize("kind", [NoClipping, PerTensorClipping])
def test_negative_control_wrong_sums_are_caught(kind: Kind) -> None:
    assert not sum_is_right(kind)


@given(st.lists(st.integers(0, 12), max_size=3), st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_micro_batches_do_not_matter(cuts: list[int], scale: float) -> None:
    batch = gradients(12, scale=scale)
    edges = sorted({0, 12, *cuts})
    parts = [{n: g[a:b] for n, g in batch.items()} for a, b in pairwise(edges)]
    _, optimizer = make()
    assert torch.allclose(clipped_sum(optimizer, *parts), clipped_sum(optimizer, batch), rtol=0, atol=1e-12)


def test_equals_opacus_without_noise() -> None:
    batch = gradients(7)
    named = {n: nn.Parameter(torch.zeros(s)) for n, s in SHAPES.items()}
    sgd = torch.optim.SGD(named.values(), lr=1.0)
    theirs = DPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=10)
    for name, p in named.items():
        p.grad_sample = batch[name].clone()
    theirs.step()
    mine, optimizer = make(NoNoise)
    optimizer.accumulate(batch)
    optimizer.step_noisy(Stream.seeded(0))
    for name in SHAPES:
        assert torch.allclose(mine[name], named[name], rtol=1e-5, atol=1e-7)


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
        with pytest.raises(PrivacyError, match="fixed by the plan"):
            setattr(optimizer, name, 0.5)


def test_a_stream_must_be_the_plans_and_fresh() -> None:
    _, optimizer = make()
    with pytest.raises(PrivacyError, match="seeded noise"):
        optimizer.step_noisy(Stream.system())
    optimizer.step_noisy(Stream.seeded(0, "step"))
    with pytest.raises(PrivacyError, match="earlier step's"):
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


def test_lower_precision_gradients_are_summed_in_float64() -> None:
    batch = {n: g.to(torch.bfloat16) for n, g in gradients(6).items()}
    vectors = flat(batch).double()
    expected = sum(v * min(1.0, CLIP / float(v.norm())) for v in vectors)
    assert torch.allclose(clipped_sum(make()[1], batch), expected, rtol=0, atol=1e-9)


def scaled(scale: float, plan: PrivacyPlan) -> tuple[dict[str, nn.Parameter], PrivateOptimizer]:
    """Tensor "c" has a group of its own, with this scale in the joint clipping."""
    named = {name: nn.Parameter(torch.zeros(shape)) for name, shape in (("a", (3, 4)), ("c", (2000,)))}
    groups = [{"params": [("a", named["a"])]}, {"params": [("c", named["c"])], "scale": scale}]
    return named, PrivateOptimizer(torch.optim.SGD(groups, lr=1.0), plan)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 20.0])
def test_the_scaled_gradient_is_what_is_clipped(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for size in (1e-4, 1.0, 1e20):
        _, optimizer = scaled(scale, PLAN)
        grads = {"a": size * torch.randn(1, 3, 4, generator=generator)}
        grads["c"] = size * torch.randn(1, 2000, generator=generator)
        optimizer.accumulate(grads)
        whole = torch.cat([p.summed_grad.flatten() for p in optimizer.params])
        expected = torch.cat([grads["a"].double().flatten(), scale * grads["c"].double().flatten()])
        assert whole.norm() <= CLIP
        torch.testing.assert_close(whole, expected * min(1.0, CLIP / float(expected.norm())), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_the_noise_of_a_scaled_group_is_divided_by_its_scale(scale: float) -> None:
    """Noise is added to the scaled sum; dividing it afterwards is post-processing."""
    named, optimizer = scaled(scale, PLAN)
    draws = []
    for step in range(20):
        before = named["c"].detach().clone()
        optimizer.step_noisy(Stream.seeded(0, "noise", step))
        draws.append(named["c"].detach() - before)
    measured = float(torch.stack(draws).double().std()) * PLAN.divisor
    assert measured == pytest.approx(PLAN.noise_multiplier * CLIP / scale, rel=0.03)  # 40,000 numbers: 8 errors


def test_without_noise_a_scale_changes_no_gradient() -> None:
    named, optimizer = scaled(0.3, OPEN_PLAN)
    grads = {"a": torch.ones(2, 3, 4), "c": torch.full((2, 2000), 7.0)}
    optimizer.accumulate(grads)
    optimizer.step_noisy(Stream.seeded(0, "noise"))
    for name, parameter in named.items():
        torch.testing.assert_close(-parameter.detach() * OPEN_PLAN.divisor, grads[name].sum(0))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_scales_nothing_is_refused(scale: float) -> None:
    with pytest.raises(PrivacyError, match="scales of the joint clipping"):
        scaled(scale, PLAN)
