"""How many more steps a budget has room for."""

from __future__ import annotations

from collections.abc import Callable

_MOST_STEPS = 1_000_000


def steps_left(fits: Callable[[int], bool], at_most: int = _MOST_STEPS) -> int:
    """How many more steps there is room for.

    Args:
        fits: whether so many do; if some number does, so does every smaller one.
        at_most: where the search ends.
    """
    if not fits(0):
        return 0
    low, high = 0, 1
    while high <= at_most and fits(high):
        low, high = high, 2 * high
    high = min(high, at_most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
