"""One report moves the clipped sum by at most the clip norm, whatever its gradient is."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.randomness import Stream
from tests.privacy.optimizers import CLIP, SHAPES, Kind, NoNoise, clipped_sum, gradients, make


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


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].reshape(len(tensors[name]), -1) for name in SHAPES], 1)


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


def test_lower_precision_gradients_are_summed_in_float64() -> None:
    batch = {n: g.to(torch.bfloat16) for n, g in gradients(6).items()}
    vectors = flat(batch).double()
    expected = sum(v * min(1.0, CLIP / float(v.norm())) for v in vectors)
    assert torch.allclose(clipped_sum(make()[1], batch), expected, rtol=0, atol=1e-9)
