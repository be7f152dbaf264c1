"""A certificate's epsilon, computed again: by the rule that it names, and from below by dp-accounting alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import Account

# Two machines' accountants may differ in a last digit.
_TOLERANCE = 1e-6
# Beyond these the lower bound takes too long.
_MOST_STEPS, _MOST_KINDS = 100_000, 64
_FINEST, _WIDEST = 1e-6, 1e-2
# Composing needs this many standard deviations of the loss on the grid, in about so many points.
_MOST_POINTS = 5e6


def figure_trouble(account: Account, delta: float, claimed: float | None) -> str:
    """Why a claimed epsilon is not that of these charges; empty if it is. None stands for no finite one.

    Raises: as ``accounting.epsilon``.
    """
    composed = account.epsilon(delta)
    claim = math.inf if claimed is None else claimed
    if composed == claim or math.isclose(composed, claim, rel_tol=_TOLERANCE):
        return ""
    return f"it claims {claim:.6g} at delta {delta}, but its charges compose to {composed:.6g} ({account.words})"


def least_epsilon(events: Sequence[Event], delta: float) -> float | None:
    """Below this epsilon no true claim can be: dp-accounting's privacy loss distributions, rounded down.

    It shares no arithmetic with ``accounting``: a fault there would have to be in dp-accounting as well.

    Returns:
        None where there is no noise, or where it would take too long.
    """
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    steps = sum(event.steps for event in events)
    if any(event.noise_multiplier == 0 for event in events) or steps > _MOST_STEPS or len(events) > _MOST_KINDS:
        return None
    # Rounding down loses half an interval a step: this keeps that below some percent of the figure.
    rough = max(Account(tuple(events)).epsilon(delta), 1e-4)
    interval = min(max(rough / (20 * steps), _FINEST, 4 * rough / _MOST_POINTS), _WIDEST)
    parts = [
        from_gaussian_mechanism(
            event.noise_multiplier,
            pessimistic_estimate=False,
            value_discretization_interval=interval,
            sampling_prob=event.sampling_rate,
            use_connect_dots=False,
        ).self_compose(event.steps)
        for event in events
    ]
    return float(reduce(lambda left, right: left.compose(right), parts).get_epsilon_for_delta(delta))
