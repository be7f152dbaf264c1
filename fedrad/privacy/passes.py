"""Dummy passes against a timing side channel: the number of passes in a step depends on public figures only.

A pass is one forward and backward pass of the model; a step needs one for each sampled unit. A server that measures
when the answer arrives could count them, so a hospital runs a fixed number and fills up with passes on a public text.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from scipy.stats import binom

# By how much a shard may exceed its declared size before the number of passes depends on its true size.
MARGIN = 0.1
# With at most this fraction of delta as probability, one of this many steps needs more passes than planned.
SHARE_OF_DELTA = 0.01
STEPS_COVERED = 1_000_000


def most_units(declared: int) -> int:
    """The largest true number of units that a declared size still covers."""
    return math.ceil(declared * (1 + MARGIN))


def passes_of_step(declared: int, rate: float, delta: float) -> int:
    """The number of passes in every step: a quantile of Binomial(``most_units(declared)``, ``rate``), at least 1.

    Guarantee: suppose that the shard holds at most ``most_units(declared)`` units, with or without the protected one.
    Then with probability at least 1 - delta / 100 none of 1,000,000 Poisson-sampled steps draws more units than this
    number, so the number of passes is a constant and reveals nothing. (Fewer units give stochastically smaller samples,
    and the steps' probabilities add up.) This hundredth is not included in the stated delta. It covers all plans of a
    ledger together, so a server gains nothing by many short plans.

    Args:
        declared: the public number of units.
        rate: the plan's sampling rate, 0 .. 1.
        delta: the plan's delta.
    """
    most, conceded = most_units(declared), SHARE_OF_DELTA * delta / STEPS_COVERED
    # `binom.isf` is off by one in tails as small as these.
    return max(1, bisect_left(range(most), True, key=lambda passes: binom.sf(passes, most, rate) <= conceded))


def padded(needed: int, planned: int) -> int:
    """The number of passes to run: ``planned``, or its next multiple if more are needed."""
    return planned * max(1, math.ceil(needed / planned))
