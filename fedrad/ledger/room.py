"""Whether more steps fit under a ledger's cap: pure functions of the ledger's content."""

from __future__ import annotations

from fedrad.errors import BudgetExhausted, LedgerError
from fedrad.ledger.chain import LedgerView, steps_left
from fedrad.privacy.filter import FILTER, Charge
from fedrad.privacy.plan import PrivacyPlan


def check_founding(view: LedgerView, delta: float, mechanism: tuple[float, float] | None, ledger: str) -> None:
    """Refuses a delta or a mechanism other than the ledger was founded for.

    Args:
        mechanism: (sampling rate, noise multiplier) of every step; None: whichever the ledger has.
        ledger: which one it is, in words.

    Raises:
        LedgerError: says what to set back.
    """
    if view.delta != delta:
        raise LedgerError(
            f"{ledger} has the fixed delta {view.delta}. Set the site's delta back to {view.delta} instead of {delta}."
        )
    was = view.founding.mechanism
    if mechanism is not None and was != mechanism:
        raise LedgerError(
            f"{ledger} was made {mechanism_in_words(was)}, and that is fixed. The site now asks for one"
            f" {mechanism_in_words(mechanism)}. Set batch, declared-size and noise-multiplier back to what they were."
        )


def check_room(view: LedgerView, cap: float, plan: PrivacyPlan, steps: int, ledger: str) -> None:
    """Refuses steps of this plan if they must not be charged.

    Args:
        ledger: the subject of the message, such as "The ledger in FOLDER".

    Raises:
        BudgetExhausted: the steps would exceed the cap.
        LedgerError: the ledger has another unit, or was made for another mechanism.
    """
    if view.rows and view.rows[-1].unit != plan.unit:
        raise LedgerError(
            f"{ledger} has the unit {view.rows[-1].unit} and this plan the unit {plan.unit}: no single epsilon covers"
            " both. Keep one privacy.unit for all runs of a site."
        )
    fixed, kind = view.founding.mechanism, (plan.sampling_rate, plan.noise_multiplier)
    if fixed is not None and kind != fixed:
        raise LedgerError(
            f"{ledger} was made {mechanism_in_words(fixed)}; this plan is one {mechanism_in_words(kind)}."
        )
    if _needed(view, plan, steps) > cap:
        raise BudgetExhausted(_why_exhausted(view, cap, plan, steps))


def remaining_steps(view: LedgerView, cap: float, plan: PrivacyPlan) -> int:
    """How many more steps of this plan fit under the cap, at most ``plan.steps``."""
    return steps_left(lambda steps: steps == 0 or _needed(view, plan, steps) <= cap, plan.steps)


def mechanism_in_words(mechanism: tuple[float, float] | None) -> str:
    """The end of a sentence about what a ledger was made for."""
    if mechanism is None:
        return "for steps of any kind"
    return f"for steps of sampling rate {mechanism[0]:g} and noise multiplier {mechanism[1]:g} only"


def _needed(view: LedgerView, plan: PrivacyPlan, steps: int) -> float:
    return view.founding.needed([*view.charges, Charge(plan.event(steps), plan.steps)])


def _why_exhausted(view: LedgerView, cap: float, plan: PrivacyPlan, steps: int) -> str:
    charges, before, delta = view.charges, view.account, view.delta
    after = view.founding.account([*charges, Charge(plan.event(steps), plan.steps)])
    said = (
        f"Site {view.site!r} has spent epsilon {before.epsilon(delta):.6g} of {cap:.6g} (delta {delta};"
        f" {before.words}); {steps} more steps would make it {after.epsilon(delta):.6g} ({after.words}). There is room"
        f" for {remaining_steps(view, cap, plan)} steps."
    )
    if charges and after.rule == FILTER and (first := view.founding.first_plan(charges)) > cap:
        said += (
            f" The first plan alone fills the cap: all its {charges[0].planned} steps have epsilon {first:.6g} by the"
            " filter, so no other plan may follow it under this cap."
        )
    return said
