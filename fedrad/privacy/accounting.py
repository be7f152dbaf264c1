"""What a sequence of noisy steps costs: epsilon by privacy loss distributions (PLD), with RDP as a cross-check.

Guarantee:
    ``epsilon(events, delta)`` is an upper bound. If a mechanism takes these Poisson-sampled Gaussian steps, all planned
    before the first of them, and publishes every intermediate result, then it is (epsilon, delta)-differentially
    private with respect to adding or removing one unit. The discretisation is pessimistic, and floating-point errors
    are bounded and added (see `losses` and `composition`).

    Accuracy: for up to 1,000 steps the grid spacing is at most a thousandth of epsilon, which adds less than 1e-3 of
    it. For more steps the grid is chosen so fine that it adds about 1e-5 of epsilon, but it never has more than 2^21
    points. This limit keeps one evaluation below 500 MB and a few seconds. With it, the excess is a part in 1,000 at
    1e6 steps in every case of tests/privacy/test_extremes.py, and possibly several times the true epsilon at 1e9. Where
    no grid of this size fits, the result is the smallest of the remaining bounds: RDP, or Gaussian steps without
    sampling.

The CLT approximation (Gaussian DP) under-reports subsampled steps, by 5x in places. It only gives `calibration` a point
to start its search from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from numpy.typing import NDArray
from scipy import special

from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy.composition import Figure, compose
from fedrad.privacy.internals import renyi_divergences
from fedrad.privacy.losses import NoisyStep, loss_range

# Every step gives up a mass of 1e-22, counted as infinite loss. Summed over all steps this stays far below this delta.
SMALLEST_DELTA = 1e-9
# More noise is charged like this much noise, and a smaller sampling rate like this rate.
LARGEST_NOISE, _SMALLEST_RATE = 1e8, 1e-15
_MOST_STEPS = 10**12
# Largest number of grid points. It bounds memory: composing takes some 100 bytes a point.
_MOST_POINTS = 2**21
# Grid spacings are powers of ten, and for many steps powers of 10^(1/3). These are three times their exponents.
_TOO_WIDE, _WIDEST_GRID, _USUAL_GRID, _FINEST_GRID, _FINEST_OF_MANY = 7, 0, -12, -18, -30
_MANY_STEPS = 1000
# With many steps the grid may add this fraction to epsilon. It is not required of an epsilon below _SMALL.
_EXCESS, _SMALL = 1e-5, 1e-5
# Below this noise multiplier no grid is fine enough, so the result is the bound by RDP or without sampling.
_SMALLEST_ON_GRID = 1e-3
# An upper bound on the rounding error of one step's Renyi divergence.
_RDP_ROUNDING = 1e-12
# Integer orders have a closed form; fractional ones near 1 do not always converge. Orders above 1024 overflow a
# binomial in scipy, and orders above 64 are needed for epsilon below 0.1.
_RDP_ORDERS = [*range(2, 41), 48, 64, 96, 128, 192, 256, 512, 1024]


class Event(NamedTuple):
    """Noisy steps of one kind: each samples with ``sampling_rate`` and adds noise of ``noise_multiplier`` x clip."""

    sampling_rate: float
    noise_multiplier: float
    steps: int


def epsilon(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    """An upper bound on the epsilon of all these steps together, at this delta.

    Args:
        events: (sampling rate, noise multiplier, steps) of each group of steps. Order and grouping do not matter.
        delta: at least 1e-9 and below 1.

    Returns:
        0.0 if there are no steps, the sampling rate is 0, or a unit is never sampled with probability 1 - delta or
        more; ``math.inf`` if a step has no noise or no finite bound can be certified; otherwise the PLD figure.

    Raises:
        PlanError: a value is outside its range.
        PrivacyError: PLD and RDP contradict each other, so neither can be trusted.
    """
    check_delta(delta)
    return _epsilon(_merge(events), float(delta))


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """One event for all steps of the same kind, sorted. This is the form that messages carry."""
    return tuple(Event(rate, noise, n) for (rate, noise), n in sorted(step_counts(events).items()))


def step_counts(events: Iterable[Event]) -> Counter[tuple[float, float]]:
    """How many steps there are of each kind (sampling rate, noise multiplier)."""
    total: Counter[tuple[float, float]] = Counter()
    for event in events:
        total[event.sampling_rate, event.noise_multiplier] += event.steps
    return total


def rdp_epsilon(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    """The same by Renyi DP (Mironov et al., arXiv 1908.10530): an independent, looser upper bound."""
    check_delta(delta)
    return _by_rdp(_merge(events), float(delta))


def check_delta(delta: float) -> None:
    """Raises `PlanError` for a delta that can't be accounted for."""
    if not SMALLEST_DELTA <= delta < 1:
        raise PlanError(f"delta must be at least {SMALLEST_DELTA} and below 1, not {delta}.")


def _merge(events: Iterable[tuple[float, float, int]]) -> tuple[Event, ...]:
    """Checks the events, drops those that cost nothing and merges the rest, so that equal runs give equal tuples."""
    kept: list[Event] = []
    for rate, sigma, steps in events:
        if not 0 <= rate <= 1:
            raise PlanError(f"A sampling rate must be between 0 and 1, not {rate}.")
        if not sigma >= 0:
            raise PlanError(f"A noise multiplier must be 0 or more, not {sigma}.")
        if not 0 <= steps <= _MOST_STEPS or steps != int(steps):
            raise PlanError(f"The number of steps must be a whole number between 0 and {_MOST_STEPS}, not {steps}.")
        if rate > 0 and steps > 0 and sigma != math.inf:
            kept.append(Event(max(float(rate), _SMALLEST_RATE), min(float(sigma), LARGEST_NOISE), int(steps)))
    kinds = merged(kept)
    # Gaussian steps without sampling compose exactly to one: mu^2 = sum of steps / sigma^2.
    full = [e for e in kinds if e.sampling_rate == 1 and e.noise_multiplier > 0]
    rest = [e for e in kinds if e not in full]
    if full:
        squares = math.fsum(e.steps / e.noise_multiplier / e.noise_multiplier for e in full)
        rest.append(Event(1.0, 1 / math.sqrt(squares), 1))
    return tuple(rest)


@lru_cache(maxsize=4096)
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    if any(e.noise_multiplier == 0 for e in events):
        return math.inf
    if _never_sampled(events, delta):
        return 0.0
    best = ceiling = _quick_bound(events, delta)
    if any(e.noise_multiplier < _SMALLEST_ON_GRID for e in events):
        return best
    steps = sum(e.steps for e in events)
    many = steps > _MANY_STEPS
    room = _narrowest(_reach(events), many)
    # A wider grid suffices for large epsilons (1e-3 for 5 to 50): it adds less than 1e-4 of epsilon.
    third = max(_USUAL_GRID, room, min(_grid(best / 5000, many), _WIDEST_GRID))
    while third <= _TOO_WIDE:
        value, span, order = _pld(events, delta, third)
        best = min(best, value)
        figure = max(best, _SMALL) if many else best
        width = min(figure / 1000, math.sqrt(12 * _EXCESS * figure / (steps * order)) if many else math.inf)
        fine = min(max(_grid(width, many), _FINEST_OF_MANY if many else _FINEST_GRID), _WIDEST_GRID)
        if fine >= third and 1.001 * ceiling + 10 * _width(third) < value < math.inf:
            raise PrivacyError(
                f"The accountants disagree (PLD {value}, RDP {ceiling}), so no epsilon can be certified for {events}."
            )
        room = max(room, _narrowest(span, many))
        following = max(fine, room)
        if following == third or (following > third and value < math.inf):
            break
        third = following
    return best


def _never_sampled(events: tuple[Event, ...], delta: float) -> bool:
    """Whether a unit is never sampled with probability 1 - delta or more. Epsilon is then 0."""
    if any(e.sampling_rate == 1 for e in events):
        return False
    return -math.expm1(math.fsum(e.steps * math.log1p(-e.sampling_rate) for e in events)) <= delta * (1 - 1e-9)


def quick_bound(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    """A fast upper bound: by RDP, or as if every step sampled every unit."""
    return _quick_bound(_merge(events), delta)


def _quick_bound(events: tuple[Event, ...], delta: float) -> float:
    return min(_by_rdp(events, delta, _RDP_ROUNDING), _unsampled(events, delta))


def _unsampled(events: tuple[Event, ...], delta: float) -> float:
    """A bound as if every step sampled every unit: the Gaussian tail alone is delta at the loss mu^2 / 2 + mu z."""
    mu = math.sqrt(math.fsum(e.steps / e.noise_multiplier / e.noise_multiplier for e in events)) * (1 + 1e-12)
    figure = mu * (mu / 2 - float(special.ndtri(delta)))
    return max(figure, 0.0) if mu < 1e150 else math.inf


def _reach(events: Sequence[Event]) -> float:
    """The width of the widest loss range of a single step."""
    ranges = [loss_range(e.sampling_rate, e.noise_multiplier) for e in events]
    return max(high - low for low, high in ranges)


def coarse_bound(event: Event, delta: float, width: float) -> float:
    """A faster upper bound, on a grid of about this spacing, for starting a search."""
    events, many = _merge([event]), event.steps > _MANY_STEPS
    third = max(_grid(width, many), _narrowest(_reach(events), many), _FINEST_OF_MANY if many else _FINEST_GRID + 3)
    if third > _TOO_WIDE:
        return quick_bound([event], delta)
    return min(_pld(events, delta, third).epsilon, quick_bound([event], delta))


def _width(third: int) -> float:
    return float(10.0 ** (third / 3))


def _grid(width: float, many: bool) -> int:
    """The widest grid spacing that is at most ``width``: a whole decade unless there are many steps."""
    decades = math.log10(max(width, 1e-300)) + 1e-12
    return math.floor(3 * decades) if many else 3 * math.floor(decades)


def _narrowest(range_of_losses: float, many: bool) -> int:
    """The finest grid on which this range of losses has at most `_MOST_POINTS` points."""
    decades = math.log10(range_of_losses / (0.98 * _MOST_POINTS))
    return math.ceil(3 * decades) if many else 3 * math.ceil(decades)


def _step(rate: float, sigma: float, third: int) -> NoisyStep:
    """A step's loss distribution. Cached, since every round needs it; few large ones, since each may take 32 MB."""
    low, high = loss_range(rate, sigma)
    return (_small_step if high - low <= 1e5 * _width(third) else _large_step)(rate, sigma, _width(third))


_small_step = lru_cache(maxsize=64)(NoisyStep.of)
_large_step = lru_cache(maxsize=3)(NoisyStep.of)


def _pld(events: Sequence[Event], delta: float, third: int) -> Figure:
    parts = [(_step(e.sampling_rate, e.noise_multiplier, third), e.steps) for e in events]
    return compose(parts, _width(third), delta, _MOST_POINTS)


def _by_rdp(events: tuple[Event, ...], delta: float, rounding: float = 0.0) -> float:
    if not events:
        return 0.0
    if any(e.noise_multiplier == 0 for e in events):
        return math.inf
    total = np.zeros(len(_RDP_ORDERS))
    for rate, sigma, steps in events:
        total += steps * (_rdp_of_one(rate, sigma) + rounding)
    return float(compute_epsilon(_RDP_ORDERS, total, delta)[0])


@lru_cache(maxsize=1024)
def _rdp_of_one(rate: float, sigma: float) -> NDArray[np.float64]:
    """Renyi divergence of one step at each order. Cached, since it takes a while; those of several steps add up."""
    if sigma < 1e-100:
        return np.full(len(_RDP_ORDERS), math.inf)
    return renyi_divergences(_RDP_ORDERS, rate, sigma)
