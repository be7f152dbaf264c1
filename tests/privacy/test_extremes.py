"""Plans far from the ordinary: very many steps, very little and very much noise. Always a figure, always from above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedrad.cli.app import app
from fedrad.errors import PlanError
from fedrad.privacy import accounting, composition
from fedrad.privacy.accounting import epsilon, rdp_epsilon
from fedrad.privacy.calibration import SMALLEST_NOISE, smallest_noise_multiplier
from fedrad.privacy.losses import NoisyStep

# Rate, noise multiplier, steps, delta, epsilon on grids that were refined until nothing changed (the last: to 3e-3),
# and what a grid that did not look at the number of steps said.
MANY_STEPS = [
    (0.01, 1.1, 10**4, 1e-5, 5.193, 5.196),
    (0.05, 1.0, 10**4, 1e-5, 47.22, 47.36),
    (0.05, 0.5, 10**4, 1e-5, 310.2, 322.4),
    (0.001, 0.8, 10**6, 1e-5, 9.70, 9.95),
    (0.01, 0.5, 10**5, 1e-5, 221.9, 269.6),
    (1e-5, 1.0, 10**6, 1e-9, 0.0651, 0.1427),
    (0.001, 0.3, 10**6, 1e-9, 1023.0, 10910.0),
]
# No figure was had for these, or after minutes and gigabytes: rate, noise multiplier, steps, delta.
HARD = [
    (1.0, 0.3, 10**6, 1e-5),
    (1.0, 0.05, 10**5, 1e-5),
    (0.01, 0.05, 10**6, 1e-5),
    (0.1, 1.0, 10**9, 1e-5),
    (1e-5, 0.3, 1, 1e-5),
    (1e-5, 0.3, 1, 1e-6),
    (1e-6, 0.7, 10**6, 1e-5),
    (1e-4, 1.0, 10**6, 1e-9),
    (1e-7, 1e4, 10**9, 1e-9),
    (1e-7, 1e-3, 10**9, 1e-9),
]
MOST_POINTS = 2**21


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many points every distribution and every transform had."""
    seen: list[int] = []
    real, transform = accounting.compose, composition.fft.rfft

    def compose(parts: Sequence[tuple[NoisyStep, int]], *rest: object) -> composition.Figure:
        seen.extend(len(d.masses) for step, _ in parts for d in (step.removed, step.added))
        return real(parts, *rest)  # type: ignore[arg-type]

    def rfft(values: composition.Floats) -> object:
        seen.append(len(values))
        return transform(values)

    monkeypatch.setattr(accounting, "compose", compose)
    monkeypatch.setattr(composition.fft, "rfft", rfft)
    return seen


@pytest.mark.parametrize("row", MANY_STEPS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_many_steps(row: tuple[float, float, int, float, float, float], points: list[int]) -> None:
    rate, sigma, steps, delta, reference, coarse = row
    value = epsilon([(rate, sigma, steps)], delta)
    assert reference * (1 - 4e-3) < value < reference * (1 + 1e-3)
    assert not reference * (1 - 4e-3) < coarse < reference * (1 + 5e-4)  # control: the former figure is caught
    assert 0 < max(points) <= 1.01 * MOST_POINTS  # a transform may be a little longer, so as to be a fast one


def test_two_grids_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the points make another grid; where both are fine enough, the figure hardly changes."""
    for rate, sigma, steps, delta, *_ in MANY_STEPS:
        value = epsilon([(rate, sigma, steps)], delta)
        with monkeypatch.context() as fewer:
            fewer.setattr(accounting, "_MOST_POINTS", MOST_POINTS // 2)
            accounting._epsilon.cache_clear()
            assert epsilon([(rate, sigma, steps)], delta) == pytest.approx(value, rel=1e-3)
        accounting._epsilon.cache_clear()


@pytest.mark.parametrize("row", HARD, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}-{row[3]}")
def test_every_plan_has_a_figure(row: tuple[float, float, int, float], points: list[int]) -> None:
    rate, sigma, steps, delta = row
    value = epsilon([(rate, sigma, steps)], delta)
    assert 0 <= value <= rdp_epsilon([(rate, sigma, steps)], delta) * (1 + 1e-9) + 1e-12 * steps
    assert max(points, default=0) <= 1.01 * MOST_POINTS


def test_known_figures_of_hard_plans() -> None:
    assert epsilon([(1e-5, 0.3, 1)], 1e-5) == 0.0  # a report is sampled less often than delta
    assert (
        epsilon([(1e-6, 0.7, 10**6)], 1e-5) < 0.0066
    )  # Gaussian with mu = rate sqrt(steps (exp(1/sigma^2) - 1)): .0064
    assert epsilon([(0.1, 1.0, 10**9)], 1e-5) == pytest.approx(8.13e6, rel=1e-2)  # steps times the mean loss
    mu = math.sqrt(10**6) / 0.3
    assert mu**2 / 2 < epsilon([(1.0, 0.3, 10**6)], 1e-5) < mu**2 / 2 + 4.3 * mu


@pytest.mark.parametrize(
    "events",
    [
        [(0.1, 1e-200, 1)],
        [(0.1, 5e-324, 1)],
        [(1.0, 5e-324, 3), (0.1, 1.0, 5)],
        [(1.0, 1e-200, 10**9)],
    ],
)
def test_noise_that_is_next_to_none_certifies_nothing(events: list[tuple[float, float, int]]) -> None:
    assert epsilon(events, 1e-5) == math.inf


def test_noise_and_rates_beyond_all_measure() -> None:
    assert epsilon([(0.1, 1e300, 10), (1.0, 1e300, 10)], 1e-5) == 0.0
    assert epsilon([(5e-324, 1.0, 10), (0.1, 2.0, 10)], 1e-5) == pytest.approx(
        epsilon([(0.1, 2.0, 10)], 1e-5), rel=1e-6
    )
    with pytest.raises(PlanError, match="steps"):
        epsilon([(0.1, 1.0, 10**13)], 1e-5)


extremes = st.tuples(
    st.floats(-7, 0).map(lambda power: 10.0**power),
    st.one_of(st.floats(-3, 4).map(lambda power: 10.0**power), st.sampled_from([5e-324, 1e-310, 1e-3, 1e8, 1e308])),
    st.floats(0, 9).map(lambda power: int(10.0**power)),
)


@given(st.lists(extremes, min_size=1, max_size=3), st.floats(-9, -0.001).map(lambda power: 10.0**power))
@settings(max_examples=40, deadline=None)
def test_no_plan_raises_an_exception(events: list[tuple[float, float, int]], delta: float) -> None:
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="raise", under="ignore"):
        patch.setattr(accounting, "_MOST_POINTS", 2**16)  # the same paths, sooner
        value = accounting._epsilon.__wrapped__(accounting._merge(events), delta)
    assert value >= 0


@pytest.mark.parametrize(
    ("rate", "sigma", "delta", "around"),
    [(1e-5, 1.0, 1e-9, 525_000), (0.02, 3.0, 1e-5, 1000), (0.02, 19.5, 1e-5, 1000)],
)
def test_more_steps_cost_more_and_without_jumps(rate: float, sigma: float, delta: float, around: int) -> None:
    """A change of grids between two numbers of steps may give back what the wider one added, a part in a thousand."""
    counts = [int(around * factor) for factor in (0.9, 0.95, 0.98, 0.995, 1, 1.001, 1.005, 1.02, 1.05, 1.1)]
    figures = [epsilon([(rate, sigma, steps)], delta) for steps in counts]
    for (steps, before), (more, after) in pairwise(zip(counts, figures, strict=True)):
        assert (1 - 1e-3) * before <= after <= (1 + 1e-3) * before * more / steps


@pytest.mark.parametrize("target", [1e7, 1e300, 1e-9, 5e-324])
def test_extreme_targets_are_met_or_refused(target: float) -> None:
    """Multipliers for next to no epsilon exist: with enough noise, delta alone covers all that is left."""
    found = smallest_noise_multiplier(target, 1e-5, 0.1, 30)
    assert epsilon([(0.1, found, 30)], 1e-5) <= target
    assert found == SMALLEST_NOISE if target > 1 else 1e3 < found < 1e6


def test_too_many_steps_for_any_noise() -> None:
    with pytest.raises(PlanError, match="No noise multiplier"):
        smallest_noise_multiplier(5e-324, 1e-9, 1.0, 10**12)


@pytest.mark.parametrize("value", ["1e7", "1.7e308", "1e-9", "5e-324"])
def test_plan_at_extreme_settings(value: str) -> None:
    shown = CliRunner().invoke(app, ["plan", "--set", f"privacy.epsilon={value}", "--reports", "3000"])
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    assert "Traceback" not in shown.output


def test_kept_steps_are_few_and_small() -> None:
    """Caches stay below some 200 MB: 64 steps of at most 1e5 points, and three of at most 2^21, in two directions."""
    assert accounting._small_step.cache_parameters()["maxsize"] == 64
    assert accounting._large_step.cache_parameters()["maxsize"] == 3
    before = accounting._large_step.cache_info().misses
    accounting._step(0.0123, 0.31, -12)
    assert accounting._large_step.cache_info().misses == before + 1
