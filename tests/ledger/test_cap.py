"""The cap is never exceeded, whatever is charged, split or retried."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrad.errors import BudgetExhausted, LedgerError, PlanError
from fedrad.ledger.ledger import Ledger
from fedrad.ledger.room import remaining_steps
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.filter import FILTER, MECHANISM, Account, Founding
from fedrad.privacy.filter import PLAN as PLAN_RULE
from fedrad.privacy.plan import PrivacyPlan
from tests.ledger.ledgers import PLAN, edit, filled, opened

FREE = PrivacyPlan.calibrate(epsilon=0.0, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0)


@pytest.mark.parametrize("target", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("split", [[20], [4] * 5, [7, 7, 6]])
def test_a_calibrated_plan_is_never_refused_but_one_more_step_is(
    tmp_path: Path, target: float, split: list[int]
) -> None:
    plan = PrivacyPlan.calibrate(epsilon=target, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0)
    with Ledger.open(tmp_path / "state", site="a", cap=target, delta=1e-5) as book:
        for number, steps in enumerate(split):
            book.record_intent(run="r", round=number, plan=plan, steps=steps)
        assert book.view.epsilon <= target
        assert remaining_steps(book.view, target, plan) == 0
        with pytest.raises(BudgetExhausted, match="There is room for 0 steps"):
            book.record_intent(run="r", round=99, plan=plan, steps=1)
        assert len(book.rows()) == len(split)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1.0, 1.5, 3.0])), min_size=1, max_size=4), st.floats(0.3, 2)
)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_cap_is_never_exceeded(tmp_path: Path, rounds: list[tuple[int, float]], cap: float) -> None:
    state = tmp_path / str(time.monotonic_ns())
    with Ledger.open(state, site="a", cap=cap, delta=1e-5) as book:
        for number, (steps, target) in enumerate(rounds):
            plan = PrivacyPlan.calibrate(
                epsilon=target, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0
            )
            before, room = book.rows(), remaining_steps(book.view, cap, plan)
            try:
                book.record_intent(run="r", round=number, plan=plan, steps=steps)
            except BudgetExhausted:
                assert steps > room
                assert book.rows() == before
            else:
                assert steps <= room
            assert book.view.epsilon <= cap
    with Ledger.open(state, site="a", cap=cap, delta=1e-5) as book:
        assert book.view.epsilon <= cap


def test_a_second_plan_is_counted_by_the_filter_from_the_first_step_on(place: tuple[Path, Path]) -> None:
    other = replace(PLAN, noise_multiplier=2 * PLAN.noise_multiplier, steps=100)
    with opened(place, cap=3.0) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=20)
        assert book.view.account == Account((PLAN.event(20),), PLAN_RULE)
        assert book.view.epsilon == epsilon([PLAN.event(20)], 1e-5)
        book.record_intent(run="s", round=1, plan=other, steps=5)
        spent, account = book.view.epsilon, book.view.account
        assert account.rule == FILTER
        assert spent > epsilon([PLAN.event(20), other.event(5)], 1e-5)
    with opened(place, cap=3.0) as book:  # read back from the disk
        assert (book.view.epsilon, book.view.account) == (spent, account)
    with opened(place, cap=8.0) as book:  # the order stays as it was founded
        assert (book.view.epsilon, book.view.account) == (spent, account)


def test_a_first_plan_that_fills_the_cap_keeps_others_out_until_the_cap_is_raised(place: tuple[Path, Path]) -> None:
    other = replace(PLAN, noise_multiplier=10 * PLAN.noise_multiplier)
    with opened(place, cap=1.0) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        assert remaining_steps(book.view, 1.0, other) == 0
        with pytest.raises(BudgetExhausted, match="first plan alone fills the cap: all its 20 steps"):
            book.record_intent(run="s", round=1, plan=other, steps=1)
        assert remaining_steps(book.view, 1.0, PLAN) == 19
        book.record_intent(run="r", round=2, plan=PLAN, steps=1)
    with opened(place, cap=1.3) as book:
        book.record_intent(run="s", round=1, plan=other, steps=1)


def test_a_fixed_mechanism_takes_no_other_steps_and_any_number_of_runs(place: tuple[Path, Path]) -> None:
    state, other = place[0], replace(PLAN, noise_multiplier=2 * PLAN.noise_multiplier)
    mechanism = (PLAN.sampling_rate, PLAN.noise_multiplier)
    with Ledger.open(state, site="a", cap=1.0, delta=1e-5, mechanism=mechanism) as book:
        for run in "rst":
            book.record_intent(run=run, round=1, plan=replace(PLAN, steps=len(book.rows()) + 5), steps=5)
        assert book.view.account == Account((PLAN.event(15),), MECHANISM)
        assert book.view.epsilon == epsilon([PLAN.event(15)], 1e-5)
        with pytest.raises(LedgerError, match=r"noise multiplier .* only; this plan is one"):
            book.record_intent(run="u", round=1, plan=other, steps=1)
    with Ledger.open(state, site="a", cap=1.0, delta=1e-5) as book, pytest.raises(LedgerError, match="only; this plan"):
        book.record_intent(run="u", round=1, plan=other, steps=1)  # also for who does not know of it
    with pytest.raises(LedgerError, match=r"made for steps of sampling rate 0\.1 .*that is fixed"):
        Ledger.open(state, site="a", cap=1.0, delta=1e-5, mechanism=(0.1, 99.0))
    with Ledger.open(place[1], site="b", cap=1.0, delta=1e-5):
        pass
    with pytest.raises(LedgerError, match="made for steps of any kind"):
        Ledger.open(place[1], site="b", cap=1.0, delta=1e-5, mechanism=mechanism)


def test_a_ledger_of_version_1_is_read_as_if_its_cap_had_been_1(place: tuple[Path, Path]) -> None:
    state = place[0]
    with Ledger.open(state, site="a", cap=8.0, delta=1e-5):
        pass
    edit(place, """UPDATE meta SET facts = '{"delta":1e-05,"nonce":"0","site":"a","version":1}'""")
    with Ledger.open(state, site="a", cap=8.0, delta=1e-5) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        assert book.view.epsilon == epsilon([PLAN.event(1)], 1e-5)
        book.record_intent(run="s", round=1, plan=replace(PLAN, steps=19), steps=1)
        assert book.view.account.order == Founding(1.0, 1e-5).order(PLAN.event(1))
    edit(place, """UPDATE meta SET facts = '{"delta":1e-05,"nonce":"0","site":"a","version":3}'""")
    with pytest.raises(LedgerError, match="another version of fedrad"):
        Ledger.open(state, site="a", cap=8.0, delta=1e-5)


def test_a_retried_round_is_charged_again(place: tuple[Path, Path]) -> None:
    with opened(place) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=2)
        once = book.view.epsilon
        book.record_intent(run="r", round=1, plan=PLAN, steps=2)
        assert len(book.view.events) == 2
        assert book.view.epsilon > once


def test_steps_without_noise_need_an_infinite_cap(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "a", site="a", cap=1e9, delta=1e-5) as book, pytest.raises(BudgetExhausted):
        book.record_intent(run="r", round=1, plan=FREE, steps=1)
    with Ledger.open(tmp_path / "b", site="a", cap=math.inf, delta=1e-5) as book:
        assert remaining_steps(book.view, math.inf, FREE) == 20
        book.record_intent(run="r", round=1, plan=FREE, steps=1)
        assert book.view.epsilon == math.inf
    with Ledger.open(tmp_path / "b", site="a", cap=100.0, delta=1e-5) as book, pytest.raises(BudgetExhausted):
        book.record_intent(run="r", round=2, plan=PLAN, steps=1)  # what was published without noise stays published


def test_a_lowered_cap_stops_at_once(place: tuple[Path, Path]) -> None:
    filled(place)
    with opened(place, cap=0.1) as book, pytest.raises(BudgetExhausted):
        book.record_intent(run="r", round=4, plan=PLAN, steps=1)


@pytest.mark.parametrize("steps", [0, -1, True, 1.5])
def test_steps_must_be_counted(place: tuple[Path, Path], steps: int) -> None:
    with opened(place) as book, pytest.raises(PlanError):
        book.record_intent(run="r", round=1, plan=PLAN, steps=steps)
