"""The cap holds against plans that are chosen by results; one plan costs what it did; the figure says which rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import filter as bench
from fedrad.errors import PlanError
from fedrad.privacy import accounting, calibration
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import (
    FILTER,
    MECHANISM,
    ORDERS,
    PLAN,
    Account,
    Charge,
    Founding,
    composed_epsilon,
    order_weights,
    rdp_of_step,
    reading,
)

DELTA = 1e-5
FOUNDING = Founding(3.0, DELTA)
KINDS = [Event(0.05, 2.0, 1), Event(0.05, 2.0, 1), Event(0.1, 4.0, 1), Event(1.0, 30.0, 1)]

charged = st.lists(
    st.builds(
        lambda kind, steps, spare: Charge(kind._replace(steps=steps), steps + spare),
        st.sampled_from(KINDS),
        st.integers(1, 40),
        st.sampled_from([0, 10]),
    ),
    min_size=1,
    max_size=4,
)


def many(steps: int, kind: Event, planned: int) -> Charge:
    return Charge(kind._replace(steps=steps), planned)


# Which rule


@pytest.mark.parametrize("split", [[40], [10] * 4, [7], [1, 2, 3]])
def test_one_plan_is_counted_by_pld_to_the_bit(split: list[int]) -> None:
    charges = [many(steps, KINDS[0], 40) for steps in split]
    account = FOUNDING.account(charges)

    assert account == Account((KINDS[0]._replace(steps=sum(split)),), PLAN, 0)
    pld = accounting.epsilon([KINDS[0]._replace(steps=sum(split))], DELTA)
    assert account.epsilon(DELTA) == FOUNDING.needed(charges) == pld
    assert FOUNDING.account([]).epsilon(DELTA) == 0.0


@pytest.mark.parametrize(
    "charges",
    [
        pytest.param([many(40, KINDS[0], 40), many(1, KINDS[0], 40)], id="a step more than planned"),
        pytest.param([many(10, KINDS[0], 40), many(1, KINDS[0], 41)], id="the same steps, planned anew"),
        pytest.param([many(10, KINDS[0], 40), many(1, KINDS[2], 40)], id="other steps"),
    ],
)
def test_anything_else_is_counted_by_the_filter(charges: list[Charge]) -> None:
    account = FOUNDING.account(charges)

    assert account.rule == FILTER
    assert account.words.startswith("renyi filter: ")
    pld = accounting.epsilon([charge.event for charge in charges], DELTA)
    assert pld < account.epsilon(DELTA)


def test_a_fixed_mechanism_is_counted_by_pld_however_often_it_was_planned() -> None:
    fixed = Founding(3.0, DELTA, (0.05, 2.0))
    charges = [many(10, KINDS[0], 10), many(10, KINDS[0], 20), many(30, KINDS[0], 7)]

    assert fixed.account(charges).rule == MECHANISM
    assert fixed.needed(charges) == accounting.epsilon([KINDS[0]._replace(steps=50)], DELTA)


def test_a_first_plan_that_fills_the_cap_leaves_no_room_for_another_even_if_it_is_ended_early() -> None:
    """Otherwise a server could go on by PLD or change to the filter, whichever is worse for the loss that it saw."""
    planned = 400
    fills = accounting.epsilon([KINDS[0]._replace(steps=planned)], DELTA)
    founding = Founding(fills, DELTA)
    started, other = many(1, KINDS[0], planned), many(1, Event(0.001, 10.0, 1), 1)

    assert founding.needed([started, many(planned - 1, KINDS[0], planned)]) == fills  # the plan itself goes on
    assert founding.account([started, other]).epsilon(DELTA) < 0.5 * fills
    assert founding.needed([started, other]) == founding.first_plan([started]) > fills
    # The control: where the filter's reading of the first plan in full fits, what was charged counts and nothing more.
    roomy = Founding(1.2 * fills, DELTA)
    full = [many(planned, KINDS[0], planned), other]
    assert roomy.first_plan([started]) <= 1.2 * fills
    assert roomy.account([started, other]).epsilon(DELTA) < roomy.account(full).epsilon(DELTA)


def test_near_the_cap_the_filter_costs_about_an_eighth_however_many_plans_there_are() -> None:
    one, three, twenty = (bench.split(1.0, 256 / 3000, 200, plans) for plans in (1, 3, 20))
    assert one <= 1.0
    assert 1.05 < three == twenty < 1.125
    # The price of choosing the order after the fact is small beside that of Renyi divergences themselves.
    noise = calibration.smallest_noise_multiplier(1.0, DELTA, 256 / 3000, 200)
    assert three < 1.02 * accounting.rdp_epsilon([(256 / 3000, noise, 200)], DELTA)


@given(charged)
@settings(max_examples=25, deadline=None)
def test_the_figure_does_not_depend_on_the_order_of_charges(charges: list[Charge]) -> None:
    rest = [FOUNDING.account([charges[0], *order]) for order in itertools.permutations(charges[1:])]
    assert len(set(rest)) == 1


@given(charged, st.sampled_from(KINDS), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_more_steps_never_cost_less_and_pld_never_more(charges: list[Charge], kind: Event, steps: int) -> None:
    before = FOUNDING.account(charges)
    after = FOUNDING.account([*charges, many(steps, kind, 40)])

    assert after.epsilon(DELTA) >= before.epsilon(DELTA)
    assert FOUNDING.needed([*charges, many(steps, kind, 40)]) >= FOUNDING.needed(charges)
    for account in (before, after):
        assert account.epsilon(DELTA) >= accounting.epsilon(account.events, DELTA)


# The divergences


@pytest.mark.parametrize(("rate", "sigma"), [(0.0853, 2.0), (0.01, 0.5), (1.0, 3.0), (0.5, 0.3), (0.9, 50.0)])
def test_divergences_are_those_of_the_library(rate: float, sigma: float) -> None:
    known = [int(order) for order in ORDERS if order <= 1024]
    library = RdpAccountant(known)
    library.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)))

    np.testing.assert_allclose(rdp_of_step(rate, sigma)[: len(known)], library._rdp, rtol=1e-9)


def test_divergences_at_extremes_are_figures_and_no_exceptions() -> None:
    np.testing.assert_allclose(rdp_of_step(1.0, 2.0), ORDERS / 8, rtol=1e-12)
    np.testing.assert_allclose(rdp_of_step(1e-6, 1.0)[0], math.log1p(1e-12 * math.expm1(1.0)), rtol=1e-9)
    for rate, sigma in ((1.0, 1e-200), (0.5, 1e-200), (0.5, 0.0)):
        assert np.all(rdp_of_step(rate, sigma) == math.inf)
    for rate, sigma in ((0.0, 1.0), (0.5, math.inf), (0.5, 1e200)):
        assert np.all(rdp_of_step(rate, sigma) == 0)
    mixed = [many(1, Event(0.5, 0.0, 1), 1), many(1, KINDS[0], 1)]
    assert FOUNDING.account(mixed).epsilon(DELTA) == Founding(math.inf, DELTA).needed(mixed) == math.inf


@pytest.mark.parametrize("order", [2, 18, 128, 4096])
def test_weights_are_a_distribution(order: int) -> None:
    weights = order_weights(order)
    assert np.all(weights > 0)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert weights[list(ORDERS).index(order)] == 0.9


def test_delta_is_checked_under_every_rule() -> None:
    for account in (Account((KINDS[0],)), Account((KINDS[0],), FILTER, 18)):
        with pytest.raises(PlanError, match="delta"):
            account.epsilon(0.0)


# The adversary


@pytest.mark.parametrize("cap", bench.CAPS)
def test_a_server_that_chooses_the_second_plan_by_the_loss_of_the_first(cap: float) -> None:
    """Its exact delta at epsilon = cap, by integration over the first plan's privacy loss. Without the filter about
    2e-5, though PLD composition puts each pair of plans within the cap."""
    kinds, needed = bench.SECONDS, bench.filtered(cap)
    first = Event(*_calibrated(0.8 * cap))
    allowed = [bench.admissible([first], kind, cap, needed) for kind in kinds]

    assert all(needed([first, second]) <= cap for second in allowed)
    assert bench.adaptive_delta(first, allowed, cap) <= DELTA


@pytest.mark.parametrize("cap", [1.0])
def test_negative_control_composed_plds_are_no_filter(cap: float) -> None:
    first = Event(*_calibrated(0.8 * cap))
    allowed = [bench.admissible([first], kind, cap, bench.composed) for kind in bench.SECONDS]

    fixed = [bench.adaptive_delta(first, [second], cap) for second in allowed]
    assert bench.adaptive_delta(first, allowed, cap) > 1.8 * DELTA
    # It is the choice that gains: with one second plan, even if it may also be left out, there is none.
    assert max(accounting.epsilon([first, second], DELTA) for second in allowed) <= cap
    assert max(fixed) <= DELTA


@cache
def _calibrated(epsilon: float) -> tuple[float, float, int]:
    rate, steps = bench.FIRST
    return rate, calibration.smallest_noise_multiplier(epsilon, DELTA, rate, steps), steps


# The theorem, exactly, on mechanisms with two outcomes

# Randomised response with the truth told with this probability: the loss is +-log(p / (1 - p)).
TRUTHS = (0.55, 0.7, 0.9)
DEPTH = 5
Counts = tuple[int, ...]


def _divergence(p: float) -> np.ndarray:
    q = 1 - p
    return np.logaddexp(ORDERS * math.log(p) - (ORDERS - 1) * math.log(q), ORDERS * math.log(q) - (ORDERS - 1) * math.log(p)) / (ORDERS - 1)  # noqa: E501  # fmt: skip


DIVERGENCES = np.array([_divergence(p) for p in TRUTHS])


def _worst(final: Callable[[float, Counts], float], admits: Callable[[Counts], bool]) -> float:
    """The largest mean of ``final(loss, counts)`` that any adaptive choice of mechanisms and end can reach."""

    @cache
    def value(ups: Counts, counts: Counts) -> float:
        loss = sum((2 * up - n) * math.log(p / (1 - p)) for up, n, p in zip(ups, counts, TRUTHS, strict=True))
        best = final(loss, counts)
        if sum(counts) == DEPTH:
            return best
        for i, p in enumerate(TRUTHS):
            more = tuple(n + (j == i) for j, n in enumerate(counts))
            if admits(more):
                up = tuple(n + (j == i) for j, n in enumerate(ups))
                best = max(best, p * value(up, more) + (1 - p) * value(ups, more))
        return best

    none = (0,) * len(TRUTHS)
    return value(none, none)


def _spent(counts: Counts, delta: float) -> float:
    return reading(np.array(counts) @ DIVERGENCES, delta, [4])


def _hockey_stick(counts: Counts, epsilon: float) -> float:
    """delta of so many mechanisms of each kind that were fixed in advance."""
    total = 0.0
    for ups in itertools.product(*(range(n + 1) for n in counts)):
        chance = math.prod(
            math.comb(n, up) * p**up * (1 - p) ** (n - up) for up, n, p in zip(ups, counts, TRUTHS, strict=True)
        )
        loss = sum((2 * up - n) * math.log(p / (1 - p)) for up, n, p in zip(ups, counts, TRUTHS, strict=True))
        total += chance * max(0.0, -math.expm1(epsilon - loss))
    return total


@pytest.mark.parametrize("delta", [0.3, 0.2, 0.01])
@pytest.mark.parametrize("cap", [1.0, 2.0, 5.0])
def test_no_adaptive_choice_passes_the_filter(cap: float, delta: float) -> None:
    worst = _worst(lambda loss, _: max(0.0, -math.expm1(cap - loss)), lambda counts: _spent(counts, delta) <= cap)
    assert worst <= delta


@pytest.mark.parametrize("delta", [0.3, 0.1, 0.01])
def test_the_reading_is_an_odometer(delta: float) -> None:
    """Whoever ends when it suits them still has (reading, delta)."""
    readings = cache(lambda counts: _spent(counts, delta))
    worst = _worst(lambda loss, counts: max(0.0, -math.expm1(readings(counts) - loss)), lambda _: True)
    assert worst <= delta


def test_the_mixture_is_a_supermartingale() -> None:
    """Its mean is at most 1 whatever is chosen, and 1 where nothing is: here it is even equal, so nothing is wasted."""
    weights = order_weights(4)[:40]

    def mixture(loss: float, counts: Counts) -> float:
        spent = (np.array(counts) @ DIVERGENCES)[:40]
        return float(weights @ np.exp((ORDERS[:40] - 1) * (loss - spent)))

    assert _worst(mixture, lambda _: True) == pytest.approx(weights.sum(), rel=1e-9)


def test_negative_control_adaptive_choices_pass_exact_composition() -> None:
    """The rule that the ledger had: each set of mechanisms, if it was fixed in advance, is within the cap."""
    worst = _worst(lambda loss, _: max(0.0, -math.expm1(2.0 - loss)), lambda counts: _hockey_stick(counts, 2.0) <= 0.2)
    assert worst > 1.15 * 0.2


# Several ledgers


def sum_of_divergences(events: list[Event]) -> float:
    """What the filter reads if all weight is on the best order, which nobody can know: below every valid reading."""
    total = sum(e.steps * rdp_of_step(e.sampling_rate, e.noise_multiplier) for e in events)
    best = total + (np.log1p(-1 / ORDERS) * (ORDERS - 1) - np.log(ORDERS) - math.log(DELTA)) / (ORDERS - 1)
    return float(np.min(best))


def test_ledgers_of_one_plan_each_compose_by_pld_and_any_other_by_the_filter() -> None:
    one, other = Account((Event(0.02, 1.6, 1000),)), Account((Event(0.05, 2.0, 500),))
    pld = accounting.epsilon([*one.events, *other.events], DELTA)
    assert composed_epsilon([one, other], DELTA) == pld

    # How many steps each of two fixed mechanisms takes is chosen by results: several runs may be in either ledger.
    fixed = [replace(one, rule=MECHANISM), replace(other, rule=MECHANISM)]
    for pair in ([one, fixed[1]], [fixed[0], other], fixed):
        assert pld < composed_epsilon(pair, DELTA) < 1.3 * pld
        assert composed_epsilon(pair, DELTA) >= sum_of_divergences([*one.events, *other.events])
    assert fixed[0].epsilon(DELTA) == accounting.epsilon(one.events, DELTA)  # control: of one ledger it is known before
    assert composed_epsilon([fixed[0], Account((), MECHANISM)], DELTA) > fixed[0].epsilon(DELTA)

    order = Founding(3.0, DELTA).order(one.events[0])
    for pair in ([replace(one, rule=FILTER, order=order), other], [one, replace(other, rule=FILTER, order=order)]):
        assert pld < composed_epsilon(pair, DELTA) < 1.2 * pld
