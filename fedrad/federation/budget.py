"""The server's mirror of the hospitals' ledgers. It decides nothing: every hospital refuses for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrad.errors import RefusedReply
from fedrad.federation.messages import Reply


@dataclass(frozen=True)
class BudgetMirror:
    """Epsilon booked by each site, as it said itself; it can only grow.

    Guarantee: none of its own. For a report of hospital i the guarantee is hospital i's (epsilon_i, delta), because the
    other hospitals' releases are functions of public values and of other reports (parallel composition). The figure of
    the federation is the maximum, on the assumption that no patient is in two hospitals.
    """

    booked: Mapping[str, float] = field(default_factory=dict)

    def book(self, reply: Reply) -> BudgetMirror:
        """The mirror after a reply.

        Raises:
            RefusedReply: the site reports less than it did before, or something that is not an epsilon.
        """
        before = self.booked.get(reply.site, 0.0)
        if math.isnan(reply.epsilon) or reply.epsilon < before:
            raise RefusedReply(
                f"{reply.site} reports epsilon {reply.epsilon:g} after {before:g}; a budget never shrinks: its ledger"
                " was replaced or its state lost. Ask the hospital before going on."
            )
        # Sorted, so that what is written does not tell in which order the replies arrived.
        return BudgetMirror(dict(sorted({**self.booked, reply.site: reply.epsilon}.items())))

    @property
    def maximum(self) -> float:
        """The federation's figure for disjoint patients."""
        return max(self.booked.values(), default=0.0)
