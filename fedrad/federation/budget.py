"""The server's mirror of the hospitals' ledgers. It decides nothing: every hospital refuses for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrad.errors import RefusedReply
from fedrad.federation.messages import Reply
from fedrad.privacy.accounting import step_counts
from fedrad.privacy.filter import FILTER, Account

# Two machines' accountants may differ in a last digit.
_TOLERANCE = 1e-6
# More steps may be composed on a finer grid, whose figure is less pessimistic: the steps are what can't shrink.
_FINER_GRID = 1e-3


@dataclass(frozen=True)
class BudgetMirror:
    """What each site's ledger holds, as it said itself; it can only grow.

    Attributes:
        booked: epsilon by site.
        charges: what it comes from, by site: the charges, and the rule that counts them.

    Guarantee: none of its own. For a report of hospital i the guarantee is hospital i's (epsilon_i, delta_i), because
    the other hospitals' releases are functions of public values and of other reports (parallel composition). The figure
    of the federation is the maximum, on the assumption that no patient is in two hospitals.
    """

    booked: Mapping[str, float] = field(default_factory=dict)
    charges: Mapping[str, Account] = field(default_factory=dict)

    def book(self, reply: Reply, delta: float) -> BudgetMirror:
        """The mirror after a reply of a site whose budget is stated at ``delta``.

        Raises:
            RefusedReply: the site reports less than it did before, in total or of any kind of step, went back from the
                filter to a rule that costs less, or reports an epsilon that its own charges do not compose to.
        """
        before, known = self.booked.get(reply.site, 0.0), self.charges.get(reply.site, Account(()))
        steps, earlier = step_counts(reply.events), step_counts(known.events)
        shrunk = reply.epsilon < before * (1 - _FINER_GRID) or any(steps[kind] < n for kind, n in earlier.items())
        if known.rule == FILTER:  # once more than one plan was followed, that is so for ever
            shrunk |= (reply.rule, reply.order) != (known.rule, known.order)
        if math.isnan(reply.epsilon) or shrunk:
            raise RefusedReply(
                f"{reply.site} reports epsilon {reply.epsilon:g} after {before:g}; a budget never shrinks: its ledger"
                " was replaced or its state lost. Ask the hospital before going on."
            )
        composed = reply.account.epsilon(delta)
        if not math.isclose(reply.epsilon, composed, rel_tol=_TOLERANCE):
            raise RefusedReply(
                f"{reply.site} reports epsilon {reply.epsilon:g}, but its charges compose to {composed:g} at delta"
                f" {delta:g} ({reply.account.words}). Its version of fedrad or of the accountant differs; ask the"
                " hospital before going on."
            )
        booked, charges = {**self.booked, reply.site: reply.epsilon}, {**self.charges, reply.site: reply.account}
        if reply.site not in self.booked:
            # Sorted, so that what is written does not tell in which order the replies arrived.
            booked, charges = dict(sorted(booked.items())), dict(sorted(charges.items()))
        return BudgetMirror(booked, charges)

    @property
    def maximum(self) -> float:
        """The federation's figure for disjoint patients."""
        return max(self.booked.values(), default=0.0)
