"""The faster composition against dp_accounting's own, which it must not undercut by more than rounding."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedrad.privacy import composition
from fedrad.privacy.composition import NoisyStep

Events = list[tuple[float, float, int]]
WIDTH = 1e-3


def ours(events: Events, delta: float, width: float = WIDTH) -> float:
    parts = [NoisyStep.of(rate, sigma, width).composed(steps) for rate, sigma, steps in events]
    return reduce(lambda one, other: one.then(other), parts).epsilon(delta)


def theirs(events: Events, delta: float, width: float = WIDTH) -> float:
    parts = [
        pld.from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=width).self_compose(steps)
        for rate, sigma, steps in events
    ]
    return float(reduce(lambda one, other: one.compose(other, 1e-15), parts).get_epsilon_for_delta(delta))


def agree(events: Events, delta: float) -> bool:
    width = WIDTH if min(sigma for _, sigma, _ in events) > 0.1 else 100 * WIDTH
    one, other = ours(events, delta, width), theirs(events, delta, width)
    # dp_accounting adds up its grid's losses one by one, so it is the one that rounds more.
    return one == other or abs(one - other) <= 1e-9 * other + 1e-11


rates = st.one_of(st.floats(1e-3, 1.0), st.sampled_from([1.0, 0.5, 1e-4, 1 - 1e-12]))
steps_of_one_kind = st.tuples(rates, st.floats(0.5, 30.0), st.integers(1, 300))


@given(st.lists(steps_of_one_kind, min_size=1, max_size=3), st.floats(-5, -1).map(lambda power: 10.0**power))
@settings(max_examples=15, deadline=None)
@example([(1.0, 2.0, 3), (1.0, 5.0, 1)], 1e-5)  # one direction only
@example([(1.0, 2.0, 3), (0.1, 5.0, 7)], 1e-5)  # one of two directions with one of one
@example([(0.02, 60.0, 300)], 1e-5)  # few points, which dp_accounting keeps as a dictionary
@example([(0.5, 0.02, 2)], 1e-5)  # losses beyond exp's reach
@example([(1e-4, 0.7, 1)], 0.1)  # costs nothing
def test_the_figures_are_those_of_dp_accounting(events: Events, delta: float) -> None:
    assert agree(events, delta)


def test_at_the_smallest_delta_too() -> None:
    for events in ([(0.2, 1.0, 100)], [(0.9, 8.0, 20), (0.01, 0.6, 50)]):
        one, other = ours(events, 1e-9), theirs(events, 1e-9)
        assert one == pytest.approx(other, rel=1e-6)  # rounding of the transforms is 1e-7 of such a delta


@pytest.mark.parametrize("adjacency", [AdjacencyType.ADD, AdjacencyType.REMOVE])
@pytest.mark.parametrize("rate", [1.0, 0.3, 1e-4])
def test_hockey_sticks_at_all_points_at_once(rate: float, adjacency: AdjacencyType) -> None:
    loss = GaussianPrivacyLoss(0.9, sampling_prob=rate, adjacency_type=adjacency)
    edge = [] if rate == 1 else [math.log1p(-rate), -math.log1p(-rate)]
    epsilons = np.sort(np.concatenate([np.linspace(-12, 12, 1001), [0.0], edge]))
    got, expected = composition._hockey_sticks(loss, epsilons), np.asarray(loss.get_delta_for_epsilon(epsilons))
    assert np.max(np.abs(got - expected)) < 1e-14
    assert 0.1 < got.max() <= 1


def test_control_a_tail_that_is_cut_too_short_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mass beyond the bounds wraps around to small losses, where it costs nothing: the figure would be too small."""
    events = [(0.1, 1.0, 200)]
    assert agree(events, 1e-5)
    whole = composition._log_moments
    monkeypatch.setattr(composition, "_log_moments", lambda masses, growth: 0.7 * whole(masses, growth))
    assert not agree(events, 1e-5)
    assert ours(events, 1e-5) < theirs(events, 1e-5)


def test_control_one_direction_alone_is_caught() -> None:
    events = [(0.3, 1.0, 50)]
    both = NoisyStep.of(0.3, 1.0, WIDTH)
    alone = NoisyStep(both.added, both.added).composed(50).epsilon(1e-5)
    assert agree(events, 1e-5)
    assert alone < 0.99 * theirs(events, 1e-5)
