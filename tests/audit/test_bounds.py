"""The bounds: known values, coverage on mechanisms whose epsilon is known, and what more right guesses do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, norm

from fedrad.audit.bounds import (
    Guesses,
    epsilon_bound,
    gaussian_bound,
    gaussian_epsilon,
    guess,
    p_value,
    pair_bound,
)
from fedrad.privacy.accounting import epsilon

DELTA = 1e-5


@pytest.mark.parametrize(
    ("canaries", "made", "correct", "by_steinke", "by_gaussian"),
    [
        (1000, 100, 80, 0.9553, 1.4022),
        (1000, 100, 100, 3.4654, 5.5487),
        (1000, 200, 150, 0.8200, 1.2967),
        (5000, 500, 400, 1.1952, 1.6830),
        (1000, 100, 50, 0.0, 0.0),
    ],
)
def test_values_of_the_published_programs(
    canaries: int, made: int, correct: int, by_steinke: float, by_gaussian: float
) -> None:
    """Those of jax_privacy's auditing.py, and of the program beside arXiv 2410.22235."""
    guesses = Guesses(canaries, made, correct)
    assert epsilon_bound(guesses, DELTA) == pytest.approx(by_steinke, abs=2e-4)
    assert gaussian_bound(guesses, DELTA) == pytest.approx(by_gaussian, abs=5e-4)


def test_a_known_p_value() -> None:
    assert p_value(Guesses(1000, 100, 80), 1.0, DELTA) == pytest.approx(0.073009, abs=1e-6)
    assert p_value(Guesses(1000, 100, 80), 1.0, 0.0) == pytest.approx(0.071556, abs=1e-6)


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.0])
def test_of_randomised_response_the_bound_is_near_and_rarely_above(truth: float) -> None:
    """Each bit is true with probability e^eps / (1 + e^eps): exactly eps-DP, and no more."""
    right = np.random.default_rng(0).binomial(2000, 1 / (1 + math.exp(-truth)), size=2000)
    bounds = {v: epsilon_bound(Guesses(2000, 2000, v), 0.0) for v in set(right.tolist())}
    found = np.array([bounds[v] for v in right.tolist()])
    # 5% of 2000 is 100; more than 130 has a probability of 0.1%, and the numbers are drawn from a fixed seed.
    assert (found > truth).sum() <= 130
    assert np.median(found) > truth - 0.2
    # Control: a bound that claimed to be sure at 50% would be above far more often.
    halves = {v: epsilon_bound(Guesses(2000, 2000, v), 0.0, confidence=0.5) for v in bounds}
    assert sum(halves[v] > truth for v in right.tolist()) > 700


@pytest.mark.parametrize(("truth", "at_least"), [(1.0, 0.15), (4.0, 0.3)])
def test_of_gaussian_noise_both_bounds_are_below_and_f_dp_is_nearer(truth: float, at_least: float) -> None:
    generator, made, canaries = np.random.default_rng(1), 200, 1000
    mu = next(m / 1000 for m in range(1, 10_000) if gaussian_epsilon(m / 1000, DELTA) >= truth)
    nearer = []
    for _ in range(60):
        inside = generator.random(canaries) < 0.5
        guesses = guess(mu * inside + generator.normal(size=canaries), inside, made)
        bound, sharper = epsilon_bound(guesses, DELTA), gaussian_bound(guesses, DELTA)
        assert bound < truth
        nearer.append((bound, sharper))
    assert sum(sharper > truth for _, sharper in nearer) <= 3
    medians = np.median(nearer, axis=0)
    assert at_least * truth < medians[0] < medians[1]


def test_a_known_bound_by_pairs() -> None:
    """Six hundred of a thousand pairs in order; the limit is that of Clopper and Pearson by their own equation."""
    scores, inside = np.r_[np.ones(600), np.zeros(400), np.full(1000, 0.5)], np.repeat([True, False], 1000)
    limit = brentq(lambda p: binom.sf(599, 1000, p) - 0.01, 0.4, 0.6)
    bound = pair_bound(scores, inside, DELTA, 0.99)
    assert bound == pytest.approx(gaussian_epsilon(math.sqrt(2) * norm.ppf(limit), DELTA), abs=1e-6)
    assert bound > 0.5
    assert pair_bound(-scores, inside, DELTA, 0.99) == 0.0
    assert pair_bound(scores, np.zeros(2000, dtype=bool), DELTA, 0.99) == 0.0  # all are out: nothing can be said


@pytest.mark.parametrize("truth", [1.0, 3.0])
def test_of_gaussian_noise_the_bound_by_pairs_is_near_and_rarely_above(truth: float) -> None:
    generator, canaries = np.random.default_rng(2), 2000
    mu = next(m / 1000 for m in range(1, 10_000) if gaussian_epsilon(m / 1000, DELTA) >= truth)
    found = []
    for _ in range(200):
        inside = generator.random(canaries) < 0.5
        scores = mu * inside + generator.normal(size=canaries)
        found.append([pair_bound(scores, inside, DELTA, sure) for sure in (0.99, 0.5)])
    above, control = (np.array(found) > truth).sum(axis=0)
    assert above <= 7  # 1% of 200 is 2; more than 7 has a probability of 0.1%, and the seed is fixed
    assert np.median(found, axis=0)[0] > 0.4 * truth
    assert control > 70  # control: a bound that is sure at 50%


@given(st.floats(0.01, 6.0))
def test_the_epsilon_of_a_gaussian_is_that_of_the_accountant(mu: float) -> None:
    exact, accounted = gaussian_epsilon(mu, DELTA), epsilon([(1.0, 1 / mu, 1)], DELTA)
    assert exact <= accounted + 1e-6
    assert accounted <= exact * 1.002 + 1e-4


@given(st.data())
def test_more_right_guesses_never_lower_a_bound(data: st.DataObject) -> None:
    made = data.draw(st.integers(1, 60))
    canaries = data.draw(st.integers(made, 300))
    correct = data.draw(st.integers(1, made))
    fewer, more = Guesses(canaries, made, correct - 1), Guesses(canaries, made, correct)
    for bound in (epsilon_bound, gaussian_bound):
        assert 0 <= bound(fewer, DELTA) <= bound(more, DELTA)
        assert bound(more, DELTA, 0.99) <= bound(more, DELTA, 0.9)
    ceiling = -math.log(0.05 ** (-1 / made) - 1)
    assert epsilon_bound(more, DELTA) <= max(0.0, ceiling) + 1e-3


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_a_p_value_is_a_probability_that_grows_with_epsilon(made: int, seed: int) -> None:
    correct = int(np.random.default_rng(seed).integers(0, made + 1))
    values = [p_value(Guesses(100, made, correct), epsilon, DELTA) for epsilon in np.linspace(0, 8, 30)]
    assert all(0 <= value <= 1 for value in values)
    # The delta term is a maximum of gaps, which may fall; what counts is that a refuted epsilon refutes smaller ones.
    refuted = [value <= 0.05 for value in values]
    assert refuted == sorted(refuted, reverse=True)


def test_guesses_are_made_at_both_ends_alone() -> None:
    inside = np.array([True, True, False, True, False, False])
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert guess(scores, inside, 4) == Guesses(6, 4, 4)
    assert guess(-scores, inside, 4) == Guesses(6, 4, 0)
    assert guess(scores, inside, 6) == Guesses(6, 6, 4)
    with pytest.raises(ValueError, match="3 right of 2"):
        Guesses(10, 2, 3)
