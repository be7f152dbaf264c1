"""The mirror of the budgets only grows, and says nothing that no hospital has said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.errors import RefusedReply
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.messages import Reply
from fedrad.privacy.accounting import Event, epsilon, merged
from fedrad.privacy.filter import FILTER, Account

DELTA = 1e-5


def said(site: str, *events: Event, claims: float | None = None) -> Reply:
    figure = epsilon(events, DELTA) if claims is None else claims
    return Reply(site, 1, {}, 40, "0123456789abcdef", 0.1, figure, events)


def steps(n: int, noise: float = 2.0) -> Event:
    return Event(0.1, noise, n)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 3)), max_size=30))
def test_it_only_grows(reports: list[tuple[str, int, int]]) -> None:
    mirror = BudgetMirror()
    highest: dict[str, tuple[int, int]] = {}
    for site, one, other in reports:
        before, held = mirror, highest.get(site, (0, 0))
        answer = said(site, steps(one), steps(other, 5.0))
        if one < held[0] or other < held[1]:
            with pytest.raises(RefusedReply, match=site):
                mirror.book(answer, DELTA)
        else:
            mirror = mirror.book(answer, DELTA)
            highest[site] = (one, other)
            assert mirror.booked[site] == answer.epsilon
        assert all(mirror.booked[name] >= value for name, value in before.booked.items())
        assert mirror.maximum == max(mirror.booked.values(), default=0.0) >= before.maximum


def test_steps_of_one_kind_can_not_be_swapped_for_others_of_more_epsilon() -> None:
    mirror = BudgetMirror().book(said("mercy", steps(5), steps(1, 1.0)), DELTA)
    with pytest.raises(RefusedReply, match="never shrinks"):
        mirror.book(said("mercy", steps(4), steps(9, 1.0)), DELTA)


@pytest.mark.parametrize("claims", [1.0 - 1e-12, 0.0, -1.0, float("nan"), float("-inf"), 1e9])
def test_a_figure_that_is_not_that_of_the_charges_is_refused_and_named(claims: float) -> None:
    mirror = BudgetMirror().book(said("mercy", steps(2)), DELTA)
    with pytest.raises(RefusedReply, match=r"mercy reports epsilon"):
        mirror.book(said("mercy", steps(3), claims=claims), DELTA)
    assert mirror.booked == {"mercy": epsilon([steps(2)], DELTA)}


def test_the_same_again_is_a_repeated_round_and_infinity_a_run_without_privacy() -> None:
    once = said("mercy", steps(2))
    mirror = BudgetMirror().book(once, DELTA).book(once, DELTA).book(said("grace", steps(1, 0.0)), DELTA)
    assert mirror.booked == {"mercy": once.epsilon, "grace": math.inf}
    assert mirror.maximum == math.inf


def test_booking_leaves_the_old_mirror_as_it_was() -> None:
    old = BudgetMirror().book(said("mercy", steps(1)), DELTA)
    old.book(said("mercy", steps(2)), DELTA).book(said("grace", steps(3)), DELTA)
    assert old.booked == {"mercy": epsilon([steps(1)], DELTA)}
    assert BudgetMirror().booked == {}


def test_the_order_of_arrival_leaves_no_trace() -> None:
    mirror = BudgetMirror().book(said("mercy", steps(1)), DELTA).book(said("grace", steps(2)), DELTA)
    assert list(mirror.booked) == list(mirror.charges) == ["grace", "mercy"]


def test_the_mirror_counts_as_the_ledger_does_and_never_goes_back_from_the_filter() -> None:
    events = (steps(5), steps(9, 4.0))
    pld, account = said("mercy", *events), Account(events, FILTER, 18)
    filtered = replace(pld, rule=FILTER, order=18, epsilon=account.epsilon(DELTA))
    assert filtered.epsilon > pld.epsilon

    mirror = BudgetMirror().book(pld, DELTA).book(filtered, DELTA)
    assert (mirror.booked, mirror.charges) == ({"mercy": filtered.epsilon}, {"mercy": account})
    with pytest.raises(RefusedReply, match="renyi filter: 2 kinds of steps"):
        mirror.book(replace(filtered, epsilon=1.01 * filtered.epsilon), DELTA)
    many = (steps(500), steps(9, 4.0))
    with pytest.raises(RefusedReply, match="never shrinks"):
        mirror.book(said("mercy", *many), DELTA)
    wider = Account(many, FILTER, 10).epsilon(DELTA)
    with pytest.raises(RefusedReply, match="never shrinks"):
        mirror.book(replace(filtered, events=many, order=10, epsilon=wider), DELTA)


def test_charges_of_one_kind_travel_as_one() -> None:
    assert merged([steps(2), steps(1, 3.0), steps(4)]) == (Event(0.1, 2.0, 6), Event(0.1, 3.0, 1))


def test_more_steps_on_a_finer_grid_are_no_smaller_budget() -> None:
    """The grid changes after 1,000 steps, and adds less to the figure than before."""
    wide, fine = (said("mercy", Event(0.02, 19.5, count)) for count in (1000, 1001))
    assert wide.epsilon * (1 - 1e-3) < fine.epsilon < wide.epsilon
    mirror = BudgetMirror().book(wide, DELTA).book(fine, DELTA)
    assert mirror.booked == {"mercy": fine.epsilon}
    with pytest.raises(RefusedReply, match="never shrinks"):
        mirror.book(wide, DELTA)
