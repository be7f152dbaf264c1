"""An upper bound on the epsilon of many composed steps.

Guarantee:
    `compose` returns at least the epsilon of the composition. The loss distributions of the steps are pessimistic
    (`losses`). Composing them by FFT has two sources of error; both are bounded and added:

    - Rounding. The error of the Fourier transforms is bounded term by term and added to every mass (`_convolved`). The
      distribution is exponentially tilted first, so that the masses near the result are the largest and the error is
      small relative to delta, not only relative to 1. Without a tilt, 1e6 steps at delta 1e-9 came out 7.7e-4 of delta
      too low.
    - Truncation. The mass above the window is bounded by its moments and counted as infinite loss. Mass that wraps
      around only increases other masses.

Why not dp_accounting's composition: it has no such bounds, and it recomputes the moments in every call, which takes
three quarters of its time. tests/privacy/test_composition.py compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft, signal

from fedrad.privacy.losses import OCTAVES, Direction, Floats, NoisyStep

_UNIT = float(np.finfo(np.float64).eps)
# The window may leave out this fraction of delta above it, and this much tilted mass below it.
_LEFT_OUT = 1e-10
# Rounding may add this fraction of delta; otherwise the distribution is tilted more.
_NEGLIGIBLE = 1e-8
# The number of steps that this allowance counts with lies between these: the spectrum of few steps decays slowly.
_FEW, _MANY = 30, 1000


class Figure(NamedTuple):
    """The result of a composition.

    Attributes:
        epsilon: an upper bound.
        span: the range of losses that the transform covers.
        order: of the moment that bounds the tail best. The grid adds about steps x width^2 x order / 12 to epsilon.
    """

    epsilon: float
    span: float
    order: float


def compose(parts: Sequence[tuple[NoisyStep, int]], width: float, delta: float, most_points: int) -> Figure:
    """An upper bound on the epsilon of the composition at this delta.

    Args:
        parts: steps on the same grid, each with how often it is taken.
        width: the grid spacing.
        delta: above 0.
        most_points: if the transform would need more points, epsilon is infinite.
    """
    removed = _composed([(step.removed, count) for step, count in parts], width, delta, most_points)
    if all(step.added is step.removed for step, _ in parts):
        return removed
    added = _composed([(step.added, count) for step, count in parts], width, delta, most_points)
    return Figure(*map(max, zip(removed, added, strict=True)))


def _composed(parts: Sequence[tuple[Direction, int]], width: float, delta: float, most_points: int) -> Figure:
    steps, log_delta, room = sum(n for _, n in parts), math.log(1 / delta), math.log(1 / _LEFT_OUT)
    infinite = _LEFT_OUT - math.expm1(math.fsum(n * math.log1p(-one.infinite) for one, n in parts)) / delta
    orders, rising, falling = _moments(parts)
    # Chernoff: the loss exceeds the smallest of `bounds` with probability delta at most. The tilt is the smallest order
    # for which the rounding error is small relative to delta.
    bounds = (rising + log_delta) / orders
    order = float(orders[int(np.argmin(bounds))])
    excess = rising + log_delta - orders * float(np.min(bounds))
    allowed = math.log(_NEGLIGIBLE / (min(max(steps, _FEW), _MANY) * _error(most_points)))
    chosen = int(np.flatnonzero(excess <= max(allowed, 0.0) + 1e-9)[-1])
    # The window ends where little of delta is left above it, and begins where little tilted mass is left below it. The
    # transform is so long that hardly any tilted mass wraps around. If that takes much more than the window, as with
    # rare large losses, a smaller tilt does better.
    least, most = (sum(n * edge(one) for one, n in parts) for edge in (Direction.first, Direction.last))
    end = min(math.ceil(np.min(bounds + room / orders) / width), most)
    longest = max(len(one.masses) for one, _ in parts)
    finer = orders[chosen] * 2.0 ** (np.arange(3, -4, -1) / 4)
    tilts = np.concatenate([orders[:chosen], finer, orders[chosen + 1 :]])
    moments = [sum(n * one.moment(float(b), width) for one, n in parts) for b in finer]
    logs = np.concatenate([rising[:chosen], moments, rising[chosen + 1 :]])
    for i in range(chosen + 3, chosen + 7):
        tilt, moment = float(tilts[i]), float(logs[i])
        lower = np.concatenate([tilts[i + 1 :], [0.0], -orders])
        gaps = moment - np.concatenate([logs[i + 1 :], [0.0], falling]) - room
        start = min(max(math.floor(np.max(gaps / (tilt - lower)) / width), least), end)
        around = min(math.ceil(np.min((logs[:i] - moment + room) / (tilts[:i] - tilt)) / width), most)
        span = max(max(end, around) - start + 1, longest)
        if span <= 2 * max(end - start + 1, longest):
            break
    if span > most_points:
        return Figure(math.inf, span * width, order)
    masses = _convolved(parts, tilt * width, start, end, fft.next_fast_len(span, real=True))
    places = np.arange(start, end + 1, dtype=np.float64) * width
    slack = 1e-9 + 1e-12 * steps  # relative: of the tilt, of the sums
    masses *= np.exp(np.minimum(moment + log_delta - tilt * places + slack, 700.0))
    return Figure(smallest_epsilon(masses, places, width, infinite), span * width, order)


def _moments(parts: Sequence[tuple[Direction, int]]) -> tuple[Floats, Floats, Floats]:
    """Descending orders, and log E exp(order x loss) and log E exp(-order x loss) of the total loss at each of them."""
    top = min(one.top for one, _ in parts)
    shared = OCTAVES - max(one.top - top for one, _ in parts)
    rising: Floats = np.sum([n * one.rising[one.top - top :][:shared] for one, n in parts], axis=0)
    falling: Floats = np.sum([n * one.falling[one.top - top :][:shared] for one, n in parts], axis=0)
    orders: Floats = np.exp2(np.arange(top, top - shared, -1, dtype=np.float64))
    return orders, rising, falling


def _convolved(parts: Sequence[tuple[Direction, int]], tilt: float, start: int, end: int, points: int) -> Floats:
    """Upper bounds on the tilted masses of the total loss at the grid points start...end.

    Error bound: each coefficient of a transform is computed from the tilted masses, which sum to 1, by a tree of
    additions and products with roots of unity, so its error is at most `error`. The error of a product of coefficients
    a_i is at most prod(|a_i| + error) x sum(error / (|a_i| + error)). Each resulting mass is the mean of such products.
    """
    error = _error(points)
    logarithm, phase = np.zeros(points // 2 + 1), np.zeros(points // 2 + 1)
    largest, relative = np.zeros(points // 2 + 1), np.full(points // 2 + 1, error)
    shift = -start
    for one, count in parts:
        exponents = tilt * np.arange(len(one.masses))
        tilted = one.masses * np.exp(exponents - exponents[-1])
        tilted /= tilted.sum()
        if len(parts) == count == 1:
            return tilted[start - one.lowest : end - one.lowest + 1]
        # Centred at its mean, so that the phases of the large coefficients are small and lose nothing to rounding.
        middle = round(float(tilted @ np.arange(len(tilted))))
        around = np.zeros(points)
        around[: len(tilted)] = tilted
        coefficients = fft.rfft(np.roll(around, -middle))
        size = np.abs(coefficients)
        logarithm += count * np.log(np.maximum(size, 1e-300))
        phase += count * np.angle(coefficients)
        size += error
        largest += count * np.log(size)
        relative += count * error / size
        shift += count * (one.lowest + middle)
    bound = np.exp(largest) * relative
    allowance = (2 * float(bound.sum()) - float(bound[0])) / points
    masses = fft.irfft(np.exp(logarithm) * np.exp(1j * phase), points)
    return np.maximum(np.roll(masses, shift % points)[: end - start + 1] + allowance, 0.0)


def _error(points: int) -> float:
    """The error of one Fourier coefficient of masses that sum to 1: one complex product and one sum at each level."""
    return 8 * _UNIT * (math.log2(points) + 2)


def smallest_epsilon(masses: Floats, places: Floats, width: float, infinite: float) -> float:
    """The smallest epsilon >= 0 with hockey-stick divergence at most 1, for masses in units of delta.

    At a grid point the divergence is U - V: the mass above the point, minus the same mass weighted by exp(point -
    loss). dp_accounting's own function overflows near epsilon 709 and returns infinity for finite values.
    """
    if infinite >= 1:
        return math.inf
    above = np.concatenate([[0.0], np.cumsum(masses[::-1])[:-1]])[::-1]
    weighted = signal.lfilter([0.0, math.exp(-width)], [1.0, -math.exp(-width)], masses[::-1])[::-1]
    error = _UNIT * len(masses)  # of the sums, relative
    above, weighted = above * (1 + error), weighted * (1 - error)
    enough = above - weighted + infinite <= 1
    first = int(np.argmax(enough))  # true at the largest loss at least
    if first == 0:
        return max(float(places[0]), 0.0)
    # Between this point and the one below, the divergence is U - exp(epsilon - point) V with this point's mass in both.
    inside = (above[first] + masses[first] - 1 + infinite) / (weighted[first] + masses[first])
    found = float(places[first]) + math.log(inside) if inside > 0 else -math.inf
    return max(min(found, float(places[first])), float(places[first - 1]), 0.0)
