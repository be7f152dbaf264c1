"""Micro-batches of similar length: which reports share a forward pass.

Privacy-neutral as long as whole privacy units stay together: gradients are clipped unit by unit (each report, or the
sum over a patient's reports) and summed, so any such partition of a Poisson batch gives the same sum (up to rounding).
What a partition changes is how much padding is computed. On real report lengths, padding a batch to its longest report
computes 2.6 times the tokens that there are.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

# What starting another micro-batch costs, in tokens: many small calls against a few that are padded. Read off CPU
# profiles of encoders with 2 to 8 layers; the optimum is flat around it.
OVERHEAD = 16


def micro_batches(
    lengths: NDArray[np.int64],
    indices: Indices,
    max_tokens: int,
    overhead: int = OVERHEAD,
    units: NDArray[np.int64] | None = None,
) -> list[Indices]:
    """Cuts ``indices``, sorted by length, where the padded tokens plus ``overhead`` for each batch are fewest.

    The best cut of a sorted sequence by dynamic programming: cost(j) = min over i of cost(i) + (j - i) * length(j - 1)
    + overhead. Reports of one unit are never separated: a unit of several reports is one element of the sequence, as
    long as its longest report and counted with its number of reports. (Sorted by length, singletons have no better
    partition at all; for larger units it is the best cut of that order.)

    Args:
        lengths: tokens of every report, [n].
        indices: which of them, [b].
        max_tokens: a batch of k reports, the longest T tokens, has k * T <= max_tokens, unless it is one unit.
        overhead: cost of a batch in tokens.
        units: the unit of every report, [n]; None, if each is its own.
    Returns:
        arrays that hold every index once, units of the shortest reports first, ties by index: the same for any order
        of ``indices``.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if len(indices) == 0:
        return []
    owners = None if units is None else units[indices]
    if owners is not None and len(np.unique(owners)) < len(indices):
        return _whole_units(lengths, indices, owners, max_tokens, overhead)
    ordered = indices[np.lexsort((indices, lengths[indices]))]
    widths = np.maximum(lengths[ordered], 1)
    if widths[0] == widths[-1]:  # nothing to gain by cutting anywhere but where the budget ends
        size = max(1, max_tokens // int(widths[0]))
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]
    cuts = _cheapest_cuts(widths, np.arange(len(ordered) + 1), max_tokens, overhead)
    return [ordered[start:stop] for start, stop in pairwise(cuts)]


def _whole_units(
    lengths: NDArray[np.int64], indices: Indices, owners: NDArray[np.int64], max_tokens: int, overhead: int
) -> list[Indices]:
    _, unit, sizes = np.unique(owners, return_inverse=True, return_counts=True)
    width = np.ones(len(sizes), dtype=np.int64)
    np.maximum.at(width, unit, lengths[indices])
    first = np.full(len(sizes), np.iinfo(np.int64).max)
    np.minimum.at(first, unit, indices)
    ordered = indices[np.lexsort((indices, first[unit], width[unit]))]
    order = np.lexsort((first, width))
    ends = np.concatenate([[0], np.cumsum(sizes[order])])
    cuts = ends[_cheapest_cuts(width[order], ends, max_tokens, overhead)]
    return [ordered[start:stop] for start, stop in pairwise(cuts.tolist())]


def _cheapest_cuts(widths: NDArray[np.int64], ends: NDArray[np.int64], max_tokens: int, overhead: int) -> list[int]:
    """Where to cut m elements of ascending ``widths`` [m], of which the first i hold ``ends[i]`` reports, [m + 1]."""
    cost = np.zeros(len(ends), dtype=np.int64)
    begins = np.zeros(len(ends), dtype=np.int64)
    for stop in range(1, len(ends)):
        width = int(widths[stop - 1])  # ascending, so the last element of a batch is its longest
        first = min(stop - 1, int(np.searchsorted(ends, ends[stop] - max_tokens // width)))
        candidates = cost[first:stop] + width * (ends[stop] - ends[first:stop])
        best = int(candidates.argmin())
        cost[stop] = candidates[best] + overhead
        begins[stop] = first + best
    cuts = [len(ends) - 1]
    while cuts[-1] > 0:
        cuts.append(int(begins[cuts[-1]]))
    return cuts[::-1]
