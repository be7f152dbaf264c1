"""The server's mirror of the hospitals' ledgers. It decides nothing: every hospital refuses for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrad.errors import RefusedReply
from fedrad.federation.messages import Reply
from fedrad.privacy.accounting import Event, epsilon, step_counts

# Two machines' accountants may differ in a last digit.
_TOLERANCE = 1e-6
# More steps may be composed on a finer grid, whose figure is less pessimistic: the steps are what can't shrink.
_FINER_GRID = 1e-3


@dataclass(frozen=True)
class BudgetMirror:
    """What each site's ledger holds, as it said itself; it can only grow.

    Attributes:
        booked: epsilon by site.
        charges: the charges that it comes from, by site.

    Guarantee: none of its own. For a report of hospital i the guarantee is hospital i's (epsilon_i, delta_i), because
    the other hospitals' releases are functions of public values and of other reports (parallel composition). The figure
    of the federation is the maximum, on the assumption that no patient is in two hospitals.
    """

    booked: Mapping[str, float] = field(default_factory=dict)
    charges: Mapping[str, tuple[Event, ...]] = field(default_factory=dict)

    def book(self, reply: Reply, delta: float) -> BudgetMirror:
        """The mirror after a reply of a site whose budget is stated at ``delta``.

        Raises:
            RefusedReply: the site reports less than it did before, in total or of any kind of step, or an epsilon that
                its own charges do not compose to.
        """
        before = self.booked.get(reply.site, 0.0)
        steps, earlier = step_counts(reply.events), step_counts(self.charges.get(reply.site, ()))
        if (
            math.isnan(reply.epsilon)
            or reply.epsilon < before * (1 - _FINER_GRID)
            or any(steps[kind] < n for kind, n in earlier.items())
        ):
            raise RefusedReply(
                f"{reply.site} reports epsilon {reply.epsilon:g} after {before:g}; a budget never shrinks: its ledger"
                " was replaced or its state lost. Ask the hospital before going on."
            )
        composed = epsilon(reply.events, delta)
        if not math.isclose(reply.epsilon, composed, rel_tol=_TOLERANCE):
            raise RefusedReply(
                f"{reply.site} reports epsilon {reply.epsilon:g}, but its charges compose to {composed:g} at delta"
                f" {delta:g}. Its version of fedrad or of the accountant differs; ask the hospital before going on."
            )
        booked, charges = {**self.booked, reply.site: reply.epsilon}, {**self.charges, reply.site: reply.events}
        if reply.site not in self.booked:
            # Sorted, so that what is written does not tell in which order the replies arrived.
            booked, charges = dict(sorted(booked.items())), dict(sorted(charges.items()))
        return BudgetMirror(booked, charges)

    @property
    def maximum(self) -> float:
        """The federation's figure for disjoint patients."""
        return max(self.booked.values(), default=0.0)
