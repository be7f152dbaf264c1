"""The planning formula against its golden values, and what it advises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrad.errors import PlanError
from fedrad.installed import strategy_class
from fedrad.ledger.room import steps_left
from fedrad.model.adapter import LoRASpec
from fedrad.planning.noise_to_signal import (
    BORDERLINE,
    DOMINATED,
    Choice,
    Layers,
    choices,
    gdp_mu,
    noise_per_step,
    noise_to_signal,
    noise_to_signal_of_steps,
    richest,
    trainable_numbers,
    verdict,
)
from fedrad.privacy import accounting
from fedrad.privacy.accounting import Event
from fedrad.privacy.calibration import smallest_noise_multiplier
from fedrad.settings import Strategy as Settings
from fedrad.training.strategy import Strategy

DELTA = 1e-5
QUERY_VALUE_OF_BERT_BASE = [(768, 768)] * 24
UNEQUAL = [(32, 48), (64, 16)]

MU = {0.01: "0.0041", 0.1: "0.03252", 0.5: "0.1422", 1.0: "0.26805", 3.0: "0.7191", 8.0: "1.666", 10.0: "2.000"}

# N = 3000, one hospital: numbers trained, and rho at epsilon 0.01, 0.1, 1 and 8.
RHO = {
    ("fedsb", 8): (1_536, ("3.2", "0.40", "0.05", "0.01")),
    ("head", 0): (10_766, ("8.4", "1.06", "0.13", "0.02")),
    ("ffa", 1): (18_432, ("11", "1.4", "0.17", "0.03")),
    ("ffa", 8): (147_456, ("31", "3.9", "0.48", "0.08")),
    ("fedavg", 8): (294_912, ("44", "5.6", "0.68", "0.11")),
}


def strategy(name: str) -> Strategy:
    return strategy_class(name)(Settings(name=name))


def trained(name: str, rank: int, layers: Layers, head: int, **frozen: bool) -> int:
    return trainable_numbers(strategy(name), LoRASpec(rank, 1.0, ("query",), **frozen), layers, head)


def rounds_to(value: float, text: str) -> bool:
    digits = len(text.partition(".")[2])
    return f"{value:.{digits}f}" == text


@pytest.mark.parametrize(("epsilon", "mu"), MU.items())
def test_mu_has_its_golden_values(epsilon: float, mu: str) -> None:
    assert rounds_to(gdp_mu(epsilon, DELTA), mu)


@given(st.floats(1e-3, 100), st.floats(-9, -0.31))
@settings(max_examples=100)
def test_mu_solves_its_equation_and_grows_with_epsilon(epsilon: float, exponent: float) -> None:
    delta = 10.0**exponent
    mu = gdp_mu(epsilon, delta)

    spent = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu))
    assert spent == pytest.approx(delta, rel=1e-4)
    assert gdp_mu(1.1 * epsilon, delta) > mu


@pytest.mark.parametrize("delta", [0.4, DELTA, 1e-9])
def test_mu_of_any_epsilon_is_finite_and_in_one_piece(delta: float) -> None:
    """Above 1e10 it is a closed form, since the equation overflows."""
    values = [gdp_mu(epsilon, delta) for epsilon in (0.999e10, 1.001e10, 1e100, 1.7e308)]
    assert values[1] / values[0] == pytest.approx(math.sqrt(1.001 / 0.999), rel=1e-6)
    assert values[0] < values[1] < values[2] < values[3] < math.inf


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, DELTA), (-1.0, DELTA), (math.inf, DELTA), (1.0, 0.0), (1.0, 1.0)])
def test_mu_of_nonsense_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(PlanError, match="no Gaussian mechanism"):
        gdp_mu(epsilon, delta)


@pytest.mark.parametrize(("choice", "expected"), RHO.items())
def test_the_golden_table_of_noise_to_signal(
    choice: tuple[str, int], expected: tuple[int, tuple[str, str, str, str]]
) -> None:
    strategy, rank = choice
    # The golden adapters are counted without a head.
    d = trained(strategy, rank, QUERY_VALUE_OF_BERT_BASE, 14 * 769 if strategy == "head" else 0)
    found = [noise_to_signal(d, epsilon=e, delta=DELTA, declared_size=3000, hospitals=1) for e in (0.01, 0.1, 1.0, 8.0)]

    assert d == expected[0]
    assert [rho for rho, text in zip(found, expected[1], strict=True) if not rounds_to(rho, text)] == []


def test_hospitals_help_by_the_root_of_their_number_and_shared_noise_by_the_number() -> None:
    def rho(hospitals: int, shared: bool = False) -> float:
        return noise_to_signal(100, epsilon=1.0, delta=DELTA, declared_size=1000, hospitals=hospitals, shared=shared)

    assert rho(1) / rho(4) == pytest.approx(2.0)
    assert rho(1) / rho(4, shared=True) == pytest.approx(4.0)
    assert rho(1, shared=True) == rho(1)


@pytest.mark.parametrize(
    ("epsilon", "steps", "batch", "noise"),
    [
        (0.1, 50, 32, "0.0821"),
        (0.1, 50, 256, "0.0733"),
        (0.1, 50, 3000, "0.0725"),
        (0.1, 200, 3000, "0.1450"),
        (1.0, 50, 32, "0.0272"),
        (1.0, 50, 256, "0.0100"),
        (1.0, 50, 3000, "0.0088"),
        (8.0, 50, 32, "0.0139"),
        (8.0, 50, 256, "0.0029"),
    ],
)
def test_noise_per_step_has_its_golden_values_and_the_formula_is_its_limit(
    epsilon: float, steps: int, batch: int, noise: str
) -> None:
    sigma = smallest_noise_multiplier(epsilon, DELTA, batch / 3000, steps)

    assert rounds_to(noise_per_step(sigma, 1.0, batch), noise)
    assert noise_per_step(sigma, 2.5, batch) == pytest.approx(2.5 * sigma / batch)
    formula = noise_to_signal(100, epsilon=epsilon, delta=DELTA, declared_size=3000, hospitals=4)
    exact = noise_to_signal_of_steps(100, noise_multiplier=sigma, batch=batch, steps=steps, hospitals=4)
    assert exact > formula * (1 - 1e-3)  # the formula is what can be reached, not what is
    if batch == 3000:
        assert exact == pytest.approx(formula, rel=1e-3)


def test_a_small_batch_at_a_large_epsilon_is_what_the_formula_does_not_see() -> None:
    sigma = smallest_noise_multiplier(8.0, DELTA, 32 / 3000, 50)
    formula = noise_to_signal(100, epsilon=8.0, delta=DELTA, declared_size=3000, hospitals=1)

    assert noise_to_signal_of_steps(100, noise_multiplier=sigma, batch=32, steps=50, hospitals=1) > 5 * formula


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("head", 7),
        ("fedsb", 9 * 2 + 7),
        ("ffa", 3 * (48 + 16) + 7),
        ("refactor", 3 * (48 + 16) + 7),
        ("rolora", 3 * (32 + 64) + 7),
        ("fedavg", 3 * (32 + 48 + 64 + 16) + 7),
        ("fedex", 3 * (32 + 48 + 64 + 16) + 7),
        ("flora", 3 * (32 + 48 + 64 + 16) + 7),
        ("flexlora", 3 * (32 + 48 + 64 + 16) + 7),
        ("fedavgm", 3 * (32 + 48 + 64 + 16) + 7),
    ],
)
def test_what_a_step_trains_by_strategy(strategy: str, expected: int) -> None:
    assert trained(strategy, 3, UNEQUAL, 7) == expected


def test_a_frozen_factor_is_not_counted() -> None:
    def d(**frozen: bool) -> int:
        return trained("fedavg", 3, UNEQUAL, 7, **frozen)

    assert d(freeze_a=True) == trained("ffa", 3, UNEQUAL, 7)
    assert d(freeze_b=True) == 3 * (32 + 64) + 7
    assert d(freeze_a=True, freeze_b=True) == trained("head", 3, UNEQUAL, 7)


@pytest.mark.parametrize(
    ("rho", "word"),
    [(0.0, "fine"), (0.29, "fine"), (BORDERLINE, "borderline"), (0.99, "borderline"), (DOMINATED, "noise-dominated")],
)
def test_the_verdict(rho: float, word: str) -> None:
    assert verdict(rho) == word


def test_choices_are_strategies_by_rank_with_the_head_once_and_no_rank_that_does_not_fit() -> None:
    names = ("fedavg", "fedsb", "ffa", "head", "rolora")
    given, lora = [strategy(name) for name in names], LoRASpec(1, 1.0, ("query",))
    offered = choices([(6, 4)], 10, lambda d: d / 1000, given, lora)

    assert [(c.strategy, c.rank) for c in offered] == [
        ("head", 0),
        *((s, r) for s in ("fedsb", "ffa", "rolora", "fedavg") for r in (1, 2, 4)),
    ]
    assert all(c.rho == c.trainable / 1000 for c in offered)
    assert [c.strategy for c in choices([], 10, float, given, lora)] == ["head"]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 10)), min_size=1, max_size=20), st.floats(0.01, 5))
def test_the_advised_choice_is_the_richest_below_the_threshold(
    drawn: list[tuple[int, float]], threshold: float
) -> None:
    offered = [Choice("x", k, d, rho) for k, (d, rho) in enumerate(drawn)]
    advised = richest(offered, threshold)

    quiet = [c.trainable for c in offered if c.rho < threshold]
    assert advised in offered
    assert advised.trainable == (max(quiet) if quiet else min(c.trainable for c in offered))
    assert not quiet or advised.rho < threshold


# Steps left


@pytest.mark.parametrize("cap", [0.5, 1.0])
def test_steps_left_fit_and_one_more_does_not(cap: float) -> None:
    spent, step = [Event(0.02, 2.0, 50), Event(0.1, 5.0, 20)], Event(0.05, 3.0, 7)
    left = steps_left(lambda count: accounting.epsilon([*spent, step._replace(steps=count)], DELTA) <= cap)

    assert accounting.epsilon([*spent, step._replace(steps=left)], DELTA) <= cap
    assert accounting.epsilon([*spent, step._replace(steps=left + 1)], DELTA) > cap


@pytest.mark.parametrize("room", [-1, 0, 1, 2, 7, 8, 999, 1000, 1001, 5000])
def test_the_search_finds_any_number_and_ends(room: int) -> None:
    asked: list[int] = []
    assert steps_left(lambda count: asked.append(count) or count <= room, at_most=1000) == min(max(room, 0), 1000)
    assert len(asked) <= 22
