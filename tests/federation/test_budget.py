"""The mirror of the budgets only grows, and says nothing that no hospital has said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.errors import RefusedReply
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.messages import Reply


def said(site: str, epsilon: float) -> Reply:
    return Reply(site, 1, {}, 40, "0123456789abcdef", epsilon)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats()), max_size=30))
def test_it_only_grows_and_never_holds_what_is_no_epsilon(reports: list[tuple[str, float]]) -> None:
    mirror = BudgetMirror()
    highest: dict[str, float] = {}
    for site, epsilon in reports:
        before = mirror
        if math.isnan(epsilon) or epsilon < highest.get(site, 0.0):
            with pytest.raises(RefusedReply, match=site):
                mirror.book(said(site, epsilon))
        else:
            mirror = mirror.book(said(site, epsilon))
            highest[site] = epsilon
        assert mirror.booked == highest
        assert all(mirror.booked[name] >= value for name, value in before.booked.items())
        assert mirror.maximum == max(highest.values(), default=0.0) >= before.maximum


@pytest.mark.parametrize("epsilon", [1.0 - 1e-12, 0.0, -1.0, float("nan"), float("-inf")])
def test_less_than_before_is_refused_and_named(epsilon: float) -> None:
    mirror = BudgetMirror().book(said("mercy", 1.0))
    with pytest.raises(RefusedReply, match=r"mercy reports epsilon .* after 1"):
        mirror.book(said("mercy", epsilon))
    assert mirror.booked == {"mercy": 1.0}


def test_the_same_again_is_a_repeated_round_and_infinity_a_run_without_privacy() -> None:
    mirror = BudgetMirror().book(said("mercy", 1.0)).book(said("mercy", 1.0)).book(said("grace", math.inf))
    assert mirror.booked == {"mercy": 1.0, "grace": math.inf}
    assert mirror.maximum == math.inf


def test_booking_leaves_the_old_mirror_as_it_was() -> None:
    old = BudgetMirror().book(said("mercy", 1.0))
    old.book(said("mercy", 2.0)).book(said("grace", 3.0))
    assert old.booked == {"mercy": 1.0}
    assert BudgetMirror().booked == {}


def test_the_order_of_arrival_leaves_no_trace() -> None:
    mirror = BudgetMirror().book(said("mercy", 1.0)).book(said("grace", 2.0))
    assert list(mirror.booked) == ["grace", "mercy"]
