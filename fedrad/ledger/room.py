"""Whether a cap leaves room for more steps, on top of what a ledger says: the rules, apart from all files."""

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
            f"{ledger} states epsilon at delta {view.delta}, and that is fixed. "
            f"Set the site's delta back to {view.delta} instead of {delta}."
        )
    was = view.founding.mechanism
    if mechanism is not None and was != mechanism:
        raise LedgerError(
            f"{ledger} was founded {mechanism_in_words(was)}, and that"
            f" is fixed; the site now asks for one {mechanism_in_words(mechanism)}. Set batch, declared-size"
            " and noise-multiplier back to what they were."
        )


def check_room(view: LedgerView, cap: float, plan: PrivacyPlan, steps: int, ledger: str) -> None:
    """Refuses steps of this plan that must not be charged.

    Args:
        ledger: which one it is, in words.

    Raises:
        BudgetExhausted: the steps would exceed the cap.
        LedgerError: the ledger counts another unit, or was founded for another mechanism.
    """
    if view.rows and view.rows[-1].unit != plan.unit:
        raise LedgerError(
            f"{ledger} counts by {view.rows[-1].unit}, and this plan by {plan.unit}: no epsilon is true of both. Keep"
            " one privacy.unit for all runs of a site."
        )
    fixed, kind = view.founding.mechanism, (plan.sampling_rate, plan.noise_multiplier)
    if fixed is not None and kind != fixed:
        raise LedgerError(
            f"{ledger} was founded {mechanism_in_words(fixed)}; this plan is one {mechanism_in_words(kind)}."
        )
    if _needed(view, plan, steps) > cap:
        raise BudgetExhausted(_why_exhausted(view, cap, plan, steps))


def remaining_steps(view: LedgerView, cap: float, plan: PrivacyPlan) -> int:
    """How many more steps of this plan the cap has room for, at most ``plan.steps``."""
    return steps_left(lambda steps: steps == 0 or _needed(view, plan, steps) <= cap, plan.steps)


def mechanism_in_words(mechanism: tuple[float, float] | None) -> str:
    """What a ledger was founded for."""
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
            f" The first plan fills the cap by itself: in full, its {charges[0].planned} steps have epsilon"
            f" {first:.6g} by the filter, so no other plan may follow it under this cap."
        )
    return said
