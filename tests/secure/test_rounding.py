"""Noise that is shared survives rounding: bounds on single numbers, and the exact information in a sum of few."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtr

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure.fixed_point import DEFAULT_BOUND, FRACTION_BITS, decode, encode
from fedrad.secure.rounding import FINENESS, check_covered, check_start, largest_start, on_lattice, spacing

Floats = NDArray[np.float64]
BATCH = 8


def covered(start: float, scale: float, own_noise: float, batch: int = BATCH) -> bool:
    adapter = {"t": torch.tensor([0.0, start])}
    try:
        check_start(adapter, DEFAULT_BOUND)
        check_covered(adapter, {"t": scale}, own_noise, batch, DEFAULT_BOUND)
    except SecureAggregationRefusal:
        return False
    return True


def stepped(start: float, gradients: torch.Tensor, rate: float, batch: int = BATCH) -> torch.Tensor:
    """As ``PrivateOptimizer`` and torch's SGD do it: a float64 sum, then all in float32."""
    parameter = torch.nn.Parameter(torch.full(gradients.shape, start))
    parameter.grad = gradients.to(torch.float32) / batch
    torch.optim.SGD([parameter], lr=rate).step()
    return parameter.detach()


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-1, 1) | st.floats(-1e-4, 1e-4),
    st.floats(1e-6, 100.0),
    st.floats(0.05, 20.0),
    st.integers(0, 2**32 - 1),
)
def test_what_is_accepted_keeps_its_noise(part: float, rate: float, own: float, seed: int) -> None:
    # Half a million shares from 0, or as far as a start may be: near the edge of what is accepted, on both sides of it.
    far = min(largest_start(DEFAULT_BOUND), 2.0**19 * own * rate / BATCH)
    start = float(np.float32(part * far))
    scale = rate / BATCH
    noise = own * torch.randn(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    result = stepped(start, noise, rate)
    share = own * scale
    exact = float(np.float32(start)) - float(np.float32(rate)) * noise / BATCH
    assume(covered(start, scale, own))
    # Float32 moved nothing by more than 4 ulp, which is 2^-9 of a share; the noise that was drawn is still there.
    assert float((result.double() - exact).abs().max()) <= 4 * share / FINENESS
    rounded = on_lattice({"t": result}, {"t": scale}, own)["t"]
    step = spacing(share)
    assert share / 8 < step <= share / 4
    assert float((rounded.double() - exact).abs().max()) <= step / 2 + 4 * share / FINENESS
    assert bool((rounded.double() / step == (rounded.double() / step).round()).all())
    # The masked sum holds lattice points: the grid of fixed point is finer, and nothing is clamped.
    assert decode(encode(rounded.numpy(), DEFAULT_BOUND)).tolist() == rounded.double().tolist()
    left = float((rounded.double() - start).std())
    assert left == pytest.approx(float((rate * noise / BATCH).std()), rel=0.03)


def test_noise_is_swallowed_where_the_check_refuses() -> None:
    """The check is needed: at a start of 1000, or one of 200 and a small step, float32 loses all of the noise."""
    noise = torch.randn(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for start, rate in ((1000.0, 1e-5), (200.0, 1e-5)):
        assert not covered(start, rate / BATCH, 1.0)
        assert float((stepped(start, noise, rate).double() - start).std()) < 0.01 * rate / BATCH
    assert covered(0.5, 0.5 / BATCH, 1.0)  # controls: what a run has
    assert covered(200.0, 0.5 / BATCH, 1.0)
    assert not covered(257.0, 0.5 / BATCH, 1.0)


def test_the_grid_of_fixed_point_counts_where_float32_is_finer() -> None:
    finest = FINENESS * 2.0**-FRACTION_BITS
    assert covered(0.0, finest, 1.0)
    assert not covered(0.0, 0.99 * finest, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 257.0, -257.0])
def test_starts_that_are_too_large_are_refused(bad: float) -> None:
    with pytest.raises(SecureAggregationRefusal, match="t starts with a number beyond 256"):
        check_start({"t": torch.tensor([0.0, bad])}, DEFAULT_BOUND)


def test_steps_that_could_reach_the_bound_are_refused() -> None:
    assert covered(0.0, 16 / BATCH, 1.0)
    assert not covered(0.0, 16.1 / BATCH, 1.0)  # a whole batch's step is more than bound/64
    assert covered(0.0, 0.1, 40.0)
    assert not covered(0.0, 0.1, 41.0)  # a deviation is more than bound/256


def test_what_the_range_leaves_to_chance() -> None:
    """The figures of ``rounding``'s guarantee."""
    assert math.log10(math.e) * -(64**2) / 2 < -800  # of a normal tail at 64 deviations
    for batch in (1, 8, 64):  # Chernoff: 16 batches, where twice the declared size makes two expected
        mean, reached = 2 * batch, 16 * batch
        assert -mean + reached - reached * math.log(reached / mean) < -19 * batch


# The information in a sum. Shares have deviation 1; the sum of q of them, not rounded, holds 1/q.


def cells(edges: Floats, mean: float) -> tuple[Floats, Floats]:
    """Probabilities of the cells between ``edges`` under N(mean, 1), and their derivatives by the mean."""
    z = edges - mean
    return np.diff(ndtr(z)), -np.diff(np.exp(-(z**2) / 2)) / math.sqrt(2 * math.pi)


def information(points: Sequence[int], edges: Floats, mean: float, others: float, hospitals: int) -> float:
    """Fisher information about the mean of one rounded share in the sum with others, times q: 1 without rounding.

    Args:
        points: what the cells are rounded to, in steps of the finest grid.
        others: the other hospitals' mean.
    """
    place = np.asarray(points) - min(points)
    size = int(place.max()) + 1

    def dense(values: Floats) -> Floats:
        out = np.zeros(size)
        np.add.at(out, place, values)
        return out

    probability, slope = (dense(part) for part in cells(edges, mean))
    other = dense(cells(edges, others)[0])
    for _ in range(hospitals - 1):
        probability, slope = np.convolve(probability, other), np.convolve(slope, other)
    seen = probability > 1e-14
    return float((slope[seen] ** 2 / probability[seen]).sum()) * hospitals


def lattice(step: float) -> tuple[Sequence[int], Floats]:
    size = int(14 / step)
    points = np.arange(-size, size + 1)
    return points.tolist(), (np.append(points, size + 1) - 0.5) * step


@pytest.mark.parametrize("hospitals", [2, 3, 5])
@pytest.mark.parametrize("others", [0.0, 1.0, 2.0, 4.0])
def test_the_sum_of_rounded_shares_tells_no_more_than_the_sum(hospitals: int, others: float) -> None:
    rng = np.random.default_rng(0)
    for step in (0.126, 0.18, 0.25):
        points, edges = lattice(step)
        ideal = information(points, edges, 0.03, others, hospitals)
        assert ideal == pytest.approx(1 / (1 + step**2 / 12), abs=1e-9)  # exactly as with uniform noise on top
        moved = step / 64  # what float32 may do to the edges
        for shift in (
            *(rng.uniform(-moved, moved, len(edges)) for _ in range(5)),
            np.where(np.arange(len(edges)) % 2, moved, -moved),
            np.where(edges > 0.3, moved, -moved),
        ):
            assert information(points, edges + shift, 0.03, others, hospitals) < 1


def test_without_the_lattice_a_sum_of_floats_tells_more() -> None:
    """The control, and why there is a lattice: numbers with few bits, so that the sum can be evaluated exactly."""
    told = [float_information(bits, others=2.0) for bits in (3, 4, 5)]
    assert min(told) > 1.2
    assert max(told) - min(told) < 0.05  # finer numbers tell as much
    assert float_information(4, others=0.0) < 1.0


def float_information(bits: int, others: float) -> float:
    """Of numbers with this many bits, two hospitals, around 0."""
    finest, parts = -5, []
    for exponent in range(finest, 4):
        magnitudes = np.arange(2**bits, 2 ** (bits + 1)) * 2.0 ** (exponent - bits)
        parts += [magnitudes, -magnitudes]
    values = np.unique(np.concatenate([*parts, np.arange(-(2**bits), 2**bits + 1) * 2.0 ** (finest - bits)]))
    edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    points = np.rint(values / 2.0 ** (finest - bits)).astype(int)
    return information(points.tolist(), edges, 0.0, others, hospitals=2)
