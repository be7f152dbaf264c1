"""What a sequence of noisy steps costs: epsilon by privacy loss distributions (PLD), with RDP as a cross-check.

Guarantee:
    ``epsilon(events, delta)`` is an upper bound: a mechanism that took these Poisson-sampled Gaussian steps, as planned
    before the first of them and with every intermediate result published, is (epsilon, delta)-differentially private
    when one unit is added or removed. Grids are pessimistic, and what floating point may lose is bounded and added:
    `losses` and `composition` say how.

    Up to 1,000 steps the grid is a thousandth of the figure or finer, which adds less than 1e-3 of it. With more steps
    it is made so fine that it adds about 1e-5 of the figure, and where it would have more than 2^21 points, as fine as
    these allow: a part in 1,000 at 1e6 steps in every case of tests/privacy/test_extremes.py, and possibly several
    times the true epsilon at 1e9. That many points keep a figure below 500 MB and a few seconds. Beyond what a grid can
    hold, the figure is the smallest of the bounds that remain: RDP's, or that of steps without sampling.

The CLT approximation (Gaussian DP) under-reports subsampled steps, by 5x in places. It only starts the search in
`calibration`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from numpy.typing import NDArray
from scipy import special

from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy.composition import Figure, compose
from fedrad.privacy.internals import renyi_divergences
from fedrad.privacy.losses import NoisyStep, loss_range

# Each step counts 1e-22 as certain loss: however many there are, that is far below this.
SMALLEST_DELTA = 1e-9
# More noise, and rarer sampling, are charged like these.
LARGEST_NOISE, _SMALLEST_RATE = 1e8, 1e-15
_MOST_STEPS = 10**12
# No distribution has more points than this on its grid: what bounds memory (some 100 bytes a point while composing).
_MOST_POINTS = 2**21
# Grids are powers of ten, and of 10^(1/3) for many steps; this is three times their exponents.
_TOO_WIDE, _WIDEST_GRID, _USUAL_GRID, _FINEST_GRID, _FINEST_OF_MANY = 7, 0, -12, -18, -30
_MANY_STEPS = 1000
# The share of epsilon that the grid may add to it with many steps, and the epsilon below which that isn't asked for.
_EXCESS, _SMALL = 1e-5, 1e-5
# Below this noise multiplier, sampling is disregarded or RDP taken: a grid fine enough would have too many points.
_SMALLEST_ON_GRID = 1e-3
# More than a Renyi divergence of one step is off by rounding.
_RDP_ROUNDING = 1e-12
# Whole orders have a closed form; fractional ones near 1 do not always converge. Orders above 1024 overflow a binomial
# in scipy, and orders above 64 are needed for epsilon below 0.1.
_RDP_ORDERS = [*range(2, 41), 48, 64, 96, 128, 192, 256, 512, 1024]


class Event(NamedTuple):
    """Noisy steps of one kind: each samples with ``sampling_rate`` and adds noise of ``noise_multiplier`` x clip."""

    sampling_rate: float
    noise_multiplier: float
    steps: int


def epsilon(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    """The epsilon that all these steps together have spent at this delta, from above.

    Args:
        events: (sampling rate, noise multiplier, steps) of each group of steps, in any order and split.
        delta: between 1e-9 and 1, exclusive.

    Returns:
        0.0 for no steps (or a sampling rate of 0) and where the unit is in none of them with probability 1 - delta,
        ``math.inf`` where steps took no noise or no finite figure can be certified, otherwise the PLD figure.

    Raises:
        PlanError: a value is outside its range.
        PrivacyError: PLD and RDP contradict each other, so neither can be trusted.
    """
    check_delta(delta)
    return _epsilon(_merge(events), float(delta))


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Steps of the same kind as one event, sorted: a ledger as a message carries it."""
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
    return _rdp(_merge(events), float(delta))


def check_delta(delta: float) -> None:
    if not SMALLEST_DELTA <= delta < 1:
        raise PlanError(f"delta must be at least {SMALLEST_DELTA} and below 1, not {delta}.")


def _merge(events: Iterable[tuple[float, float, int]]) -> tuple[Event, ...]:
    """Equal (rate, noise) joined, free steps dropped, sorted: the same tuple however a run was split."""
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
    merged = [
        Event(rate, sigma, sum(e.steps for e in group))
        for (rate, sigma), group in groupby(sorted(kept), key=lambda e: (e.sampling_rate, e.noise_multiplier))
    ]
    # Unsampled Gaussians compose exactly to one: mu^2 = sum of steps / sigma^2.
    full = [e for e in merged if e.sampling_rate == 1 and e.noise_multiplier > 0]
    rest = [e for e in merged if e not in full]
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
    # Large epsilons get by with a wider grid (5 to 50: 1e-3): the figure grows by less than 1e-4 of itself.
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
    """Whether the unit is in no step at all with a probability of 1 - delta or more: then epsilon is 0."""
    if any(e.sampling_rate == 1 for e in events):
        return False
    return -math.expm1(math.fsum(e.steps * math.log1p(-e.sampling_rate) for e in events)) <= delta * (1 - 1e-9)


def quick_bound(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    """An upper bound that is quickly had: by RDP, or as if every step sampled every unit."""
    return _quick_bound(_merge(events), delta)


def _quick_bound(events: tuple[Event, ...], delta: float) -> float:
    return min(_converted(events, delta, _RDP_ROUNDING), _unsampled(events, delta))


def _unsampled(events: tuple[Event, ...], delta: float) -> float:
    """As if every step sampled every unit: P(N(mu) > y) alone is delta at the loss mu^2 / 2 + mu z."""
    mu = math.sqrt(math.fsum(e.steps / e.noise_multiplier / e.noise_multiplier for e in events)) * (1 + 1e-12)
    figure = mu * (mu / 2 - float(special.ndtri(delta)))
    return max(figure, 0.0) if mu < 1e150 else math.inf


def _reach(events: Sequence[Event]) -> float:
    """The widest range of losses of a single step."""
    ranges = [loss_range(e.sampling_rate, e.noise_multiplier) for e in events]
    return max(high - low for low, high in ranges)


def coarse_bound(event: Event, delta: float, width: float) -> float:
    """An upper bound on a grid of about this width, which is quicker: to start a search with."""
    events, many = _merge([event]), event.steps > _MANY_STEPS
    third = max(_grid(width, many), _narrowest(_reach(events), many), _FINEST_OF_MANY if many else _FINEST_GRID + 3)
    if third > _TOO_WIDE:
        return quick_bound([event], delta)
    return min(_pld(events, delta, third).epsilon, quick_bound([event], delta))


def _width(third: int) -> float:
    return float(10.0 ** (third / 3))


def _grid(width: float, many: bool) -> int:
    """The widest grid that is not wider than this; whole decades unless there are many steps."""
    decades = math.log10(max(width, 1e-300)) + 1e-12
    return math.floor(3 * decades) if many else 3 * math.floor(decades)


def _narrowest(range_of_losses: float, many: bool) -> int:
    """The finest grid on which the losses are no more points than there is room for."""
    decades = math.log10(range_of_losses / (0.98 * _MOST_POINTS))
    return math.ceil(3 * decades) if many else 3 * math.ceil(decades)


def _step(rate: float, sigma: float, third: int) -> NoisyStep:
    """Kept: hospitals ask for the same step in every round. Few of the large ones: each may take 32 MB."""
    low, high = loss_range(rate, sigma)
    return (_small_step if high - low <= 1e5 * _width(third) else _large_step)(rate, sigma, _width(third))


_small_step = lru_cache(maxsize=64)(NoisyStep.of)
_large_step = lru_cache(maxsize=3)(NoisyStep.of)


def _pld(events: Sequence[Event], delta: float, third: int) -> Figure:
    parts = [(_step(e.sampling_rate, e.noise_multiplier, third), e.steps) for e in events]
    return compose(parts, _width(third), delta, _MOST_POINTS)


def _rdp(events: tuple[Event, ...], delta: float) -> float:
    return _converted(events, delta, 0.0)


def _converted(events: tuple[Event, ...], delta: float, rounding: float) -> float:
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
    """The divergence of one step at each order. Steps add up; what one costs takes a while to find."""
    if sigma < 1e-100:
        return np.full(len(_RDP_ORDERS), math.inf)
    return renyi_divergences(_RDP_ORDERS, rate, sigma)
