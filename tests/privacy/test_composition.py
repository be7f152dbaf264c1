"""The faster composition against dp_accounting's own, which it must not undercut by more than rounding."""

from __future__ import annotations

import math
from functools import reduce
from typing import Literal

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedrad.privacy import composition, losses
from fedrad.privacy.composition import compose
from fedrad.privacy.losses import Direction, NoisyStep

Events = list[tuple[float, float, int]]
WIDTH = 1e-3
POINTS = 2**21


def ours(events: Events, delta: float, width: float = WIDTH) -> float:
    parts = [(NoisyStep.of(rate, sigma, width), steps) for rate, sigma, steps in events]
    return compose(parts, width, delta, POINTS).epsilon


def theirs(events: Events, delta: float, width: float = WIDTH) -> float:
    parts = [
        pld.from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=width).self_compose(steps)
        for rate, sigma, steps in events
    ]
    return float(reduce(lambda one, other: one.compose(other, 1e-15), parts).get_epsilon_for_delta(delta))


def agree(events: Events, delta: float) -> bool:
    """Ours is above by what it allows for its rounding, which is more for a few steps with a rare, large loss."""
    width = WIDTH if min(sigma for _, sigma, _ in events) > 0.1 else 100 * WIDTH
    one, other = ours(events, delta, width), theirs(events, delta, width)
    return -3e-9 * other - 1e-11 <= one - other <= 3e-6 * other + 1e-9


rates = st.one_of(st.floats(1e-3, 1.0), st.sampled_from([1.0, 0.5, 1e-4, 1 - 1e-12]))
steps_of_one_kind = st.tuples(rates, st.floats(0.5, 30.0), st.integers(1, 300))


@given(st.lists(steps_of_one_kind, min_size=1, max_size=3), st.floats(-5, -1).map(lambda power: 10.0**power))
@settings(max_examples=15, deadline=None)
@example([(1.0, 2.0, 3), (1.0, 5.0, 1)], 1e-5)  # one direction only
@example([(1.0, 2.0, 3), (0.1, 5.0, 7)], 1e-5)  # one of two directions with one of one
@example([(0.02, 60.0, 300)], 1e-5)  # few points, which dp_accounting keeps as a dictionary
@example([(1e-4, 0.7, 1)], 0.1)  # costs nothing
def test_the_figures_are_those_of_dp_accounting(events: Events, delta: float) -> None:
    assert agree(events, delta)


def test_at_the_smallest_delta_too() -> None:
    for events in ([(0.2, 1.0, 100)], [(0.9, 8.0, 20), (0.01, 0.6, 50)]):
        one, other = ours(events, 1e-9), theirs(events, 1e-9)
        assert one == pytest.approx(other, rel=1e-6)  # rounding of the transforms is 1e-7 of such a delta


def test_losses_beyond_the_reach_of_exp() -> None:
    one, other = ours([(0.5, 0.02, 2)], 1e-5, 0.1), theirs([(0.5, 0.02, 2)], 1e-5, 0.1)
    assert 0.9995 * other < one <= other  # dp_accounting rounds such losses up to a whole point of the grid


@pytest.mark.parametrize("change", ["removed", "added"])
@pytest.mark.parametrize(("rate", "sigma", "width"), [(1.0, 0.9, 1e-2), (0.3, 0.9, 1e-3), (1e-5, 1.0, 1e-6)])
def test_one_step_on_the_grid_dominates_the_exact_one(
    rate: float, sigma: float, width: float, change: Literal["removed", "added"]
) -> None:
    """Against 60 digits, at grid points on both sides of 0 and far out: never below, and above by next to nothing."""
    step = Direction.of(rate, sigma, width, change)
    masses = np.asarray(step.masses, dtype=np.longdouble)
    assert 1 - 1e-14 < float(masses.sum()) + step.infinite < 1 + 1e-11
    last = step.lowest + len(masses) - 1
    with mpmath.workdps(60):
        for point in {step.lowest + 1, -3, 0, 1, 7, last // 10, last // 2, last - 1}:
            above = np.arange(max(point + 1, step.lowest), last + 1)
            terms = masses[above - step.lowest] * -np.expm1((point - above) * np.longdouble(width))
            grid = mpmath.mpf(str(terms.sum())) + step.infinite
            exact = exact_delta(rate, sigma, mpmath.mpf(point) * mpmath.mpf(width), change)
            assert exact <= grid <= exact * (1 + mpmath.mpf(1e-6)) + mpmath.mpf(1e-13)


def exact_delta(rate: float, sigma: float, epsilon: mpmath.mpf, change: str) -> mpmath.mpf:
    """The divergence of one step, straight from the two densities."""
    if change == "added":
        return 1 - mpmath.exp(epsilon) + mpmath.exp(epsilon) * exact_delta(rate, sigma, -epsilon, "removed")
    odds = (mpmath.exp(epsilon) - 1) / mpmath.mpf(rate) + 1
    if odds <= 0:
        return 1 - mpmath.exp(epsilon)
    y = mpmath.mpf(sigma) ** 2 * mpmath.log(odds) + mpmath.mpf(1) / 2
    without, with_it = (mpmath.ncdf((mean - y) / sigma) for mean in (0, 1))
    return (1 - mpmath.mpf(rate)) * without + rate * with_it - mpmath.exp(epsilon) * without


def test_control_without_the_allowance_for_rounding_a_step_is_not_dominated(monkeypatch: pytest.MonkeyPatch) -> None:
    real = losses._connected

    def careless(delta: losses._Curve, rest: losses._Curve, width: float) -> tuple[losses.Floats, float]:
        return real(delta._replace(errors=0 * delta.errors), rest._replace(errors=0 * rest.errors), width)

    monkeypatch.setattr(losses, "_connected", careless)
    monkeypatch.setattr(losses, "_UNIT", 0.0)
    with pytest.raises(AssertionError):
        test_one_step_on_the_grid_dominates_the_exact_one(1e-5, 1.0, 1e-6, "removed")


# Rate, noise multiplier, steps, delta, width, and a tilt that makes extended precision exact enough.
MANY_STEPS = [
    (1e-4, 1.0, 10**6, 1e-9, 1e-4, 8.0),
    (1e-3, 0.8, 10**5, 1e-9, 1e-3, 4.0),
    (0.3, 20, 10**6, 1e-8, 0.02, 0.5),
]
extended = pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision on this processor")


def delta_by_transforms(
    step: Direction, steps: int, width: float, epsilon: float, real: type[np.floating], tilt: float
) -> float:
    """The divergence by transforms of this precision, over a range that nothing wraps around."""
    points, places = 2**18, np.arange(step.lowest, step.lowest + len(step.masses))
    tilted = step.masses.astype(real) * np.exp(real(tilt * width) * places)
    total = tilted.sum()
    tilted /= total
    middle = round(float(tilted @ places))
    around = np.zeros(points, dtype=real)
    around[(places - middle) % points] = tilted
    composed = np.fft.irfft(np.exp(steps * np.log(np.fft.rfft(around))), points)
    mean = steps * float(tilted @ (places - middle))
    index = np.arange(points)
    index += points * np.round((mean - index) / points).astype(np.int64)  # the turn that is nearest to the mean
    loss = (index + middle * steps).astype(real) * real(width)
    above = loss > epsilon
    weights = np.exp(steps * np.log(total) - real(tilt) * loss[above])
    return float(np.sum(composed[above] * weights * -np.expm1(real(epsilon) - loss[above])))


@extended
@pytest.mark.parametrize(("rate", "sigma", "steps", "delta", "width", "tilt"), MANY_STEPS)
def test_rounding_of_the_transforms_never_lowers_the_figure(
    rate: float, sigma: float, steps: int, delta: float, width: float, tilt: float
) -> None:
    both = NoisyStep.of(rate, sigma, width)
    for step in (both.removed, both.added):
        figure = compose([(NoisyStep(step, step), steps)], width, delta, POINTS).epsilon
        exact = delta_by_transforms(step, steps, width, figure, np.longdouble, tilt)
        assert (1 - 1e-4) * delta < exact < delta


@extended
def test_control_plain_transforms_in_double_precision_are_off() -> None:
    rate, sigma, steps, delta, width, tilt = MANY_STEPS[0]
    step = Direction.of(rate, sigma, width, "removed")
    figure = compose([(NoisyStep(step, step), steps)], width, delta, POINTS).epsilon
    exact = delta_by_transforms(step, steps, width, figure, np.longdouble, tilt)
    assert abs(delta_by_transforms(step, steps, width, figure, np.float64, 0.0) - exact) > 1e-5 * delta


def test_control_a_window_that_ends_too_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mass beyond the window is not seen: the figure would be too small."""
    events = [(0.1, 1.0, 200)]
    assert agree(events, 1e-5)
    monkeypatch.setattr(composition, "_LEFT_OUT", 1e3)
    real = composition.smallest_epsilon
    monkeypatch.setattr(
        composition, "smallest_epsilon", lambda masses, places, width, infinite: real(masses, places, width, 0)
    )
    assert ours(events, 1e-5) < 0.99 * theirs(events, 1e-5)


def test_control_one_direction_alone_is_caught() -> None:
    events = [(0.3, 1.0, 50)]
    both = NoisyStep.of(0.3, 1.0, WIDTH)
    alone = compose([(NoisyStep(both.added, both.added), 50)], WIDTH, 1e-5, POINTS).epsilon
    assert agree(events, 1e-5)
    assert alone < 0.99 * theirs(events, 1e-5)


def test_a_transform_that_is_too_long_is_not_done() -> None:
    step = NoisyStep.of(0.1, 1.0, WIDTH)
    figure = compose([(step, 200)], WIDTH, 1e-5, 20_000)
    assert figure.epsilon == math.inf
    assert figure.span > 20_000 * WIDTH
    assert compose([(step, 200)], WIDTH, 1e-5, math.ceil(figure.span / WIDTH)).epsilon < math.inf


@pytest.mark.parametrize("count", [2, 5])
def test_no_mass_of_a_transform_is_below_the_exact_one(count: int) -> None:
    """Far out, where the exact masses are smaller than a transform's rounding, half of its numbers are too small."""
    one = NoisyStep.of(0.1, 1.0, 0.05).removed
    exact = masses = np.asarray(one.masses, dtype=np.longdouble) / np.asarray(one.masses, dtype=np.longdouble).sum()
    for _ in range(count - 1):
        exact = np.convolve(exact, masses)
    start, points = count * one.lowest, 1 << int(len(exact) - 1).bit_length()

    found = composition._convolved([(one, count)], 0.0, start, start + len(exact) - 1, points)

    assert found.shape == exact.shape
    assert bool((found >= exact * (1 - 1e-15)).all())
    np.testing.assert_allclose(found, exact.astype(float), atol=1e-12)
