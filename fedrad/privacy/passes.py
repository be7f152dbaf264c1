"""How many passes a hospital runs, from public figures alone, so that the time of a round does not count its reports.

A step runs one forward and backward pass for each unit that was drawn. A server that sees when the answer comes would
count them, so a hospital runs a fixed number, the rest of them on a public text.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from scipy.stats import binom

# A shard may hold so much more than its declared size before the number of passes depends on it.
MARGIN = 0.1
# What is conceded, as a share of delta, for any step of so many to need more passes than were planned.
SHARE_OF_DELTA = 0.01
STEPS_COVERED = 1_000_000


def most_units(declared: int) -> int:
    """The largest true number of units that a declared size still covers."""
    return math.ceil(declared * (1 + MARGIN))


def passes_of_step(declared: int, rate: float, delta: float) -> int:
    """Passes of every step: a quantile of Binomial(``most_units(declared)``, ``rate``), at least 1.

    Guarantee: while the shard holds at most ``most_units(declared)`` units, with or without the one that is protected,
    the probability that any of 1,000,000 Poisson-sampled steps draws more units than that is at most delta / 100,
    whatever the number of units. Otherwise the number of passes is a constant, and tells nothing. (Fewer units draw
    stochastically less, and the steps' probabilities add up.) Delta as stated does not include that hundredth. It
    bounds all plans of a ledger together, so a server gains nothing by many short ones.

    Args:
        declared: the public number of units.
        rate: the plan's sampling rate, 0 .. 1.
        delta: the plan's delta.
    """
    most, conceded = most_units(declared), SHARE_OF_DELTA * delta / STEPS_COVERED
    # Not `binom.isf`, which is off by one in tails as small as these.
    return max(1, bisect_left(range(most), True, key=lambda passes: binom.sf(passes, most, rate) <= conceded))


def padded(needed: int, planned: int) -> int:
    """The number of passes to run: ``planned``, or where more are needed its next multiple."""
    return planned * max(1, math.ceil(needed / planned))
