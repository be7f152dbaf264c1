"""The privacy loss distribution of one noisy step on a grid, pessimistic including rounding errors.

Guarantee:
    `Direction.of` dominates a Poisson-sampled Gaussian step (unit removed, or unit added): its hockey-stick divergence
    is at least that of the step at every epsilon, even though it is computed in floating point. It is the pessimistic
    connect-the-dots discretisation (Doroshenko et al., arXiv 2207.04380) of a divergence that is first raised by its
    possible error: a few units in the last place of the tail probability (`_gaussian`), and the rounding of the masses
    (`_connected`). Together these move the mean loss of a step by about 1e-14.

Differences from dp_accounting: at epsilons below 0, divergences are stored as their excess over 1 - exp(epsilon),
because differences of numbers near 1 leave rounding noise that a million steps add up; and no Python loop runs over the
grid points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Change = Literal["removed", "added"]

_UNIT = float(np.finfo(np.float64).eps)
# Gaussian tails beyond this many standard deviations (mass 1e-22) count as infinite loss above and as no gain below.
_REACH = -float(special.ndtri(math.exp(-50) / 2))
# Moments are kept for this many orders, each half of the previous one. The largest order times the range of losses is
# at most _LARGEST_EXPONENT, whose exponential does not overflow.
OCTAVES, _LARGEST_EXPONENT = 40, 512.0


@dataclass(frozen=True, eq=False)
class Direction:
    """The loss of one step when a unit is removed (or added), on a grid.

    Attributes:
        lowest: the smallest loss, in grid points.
        masses: probabilities of the losses ``lowest``, ``lowest + 1``, ... grid points.
        infinite: probability of an infinite loss.
        top: the largest order of the moments is 2^top.
        rising: log E exp(order x loss), for the orders 2^top, 2^(top - 1), ...
        falling: log E exp(-order x loss), for the same orders.
    """

    lowest: int
    masses: Floats
    infinite: float
    top: int
    rising: Floats
    falling: Floats

    @staticmethod
    def of(rate: float, sigma: float, width: float, change: Change) -> Direction:
        """The distribution on a grid of this spacing. Memory: some 100 bytes a point while it is made, then 8."""
        smallest, largest = loss_range(rate, sigma, change)
        low, high = min(math.floor(smallest / width), -1), max(math.ceil(largest / width), 1)
        gains = np.arange(low, 1, dtype=np.float64) * width
        costs = np.arange(high + 1, dtype=np.float64) * width
        if change == "removed":
            delta, rest = _above(rate, sigma, costs), _below(rate, sigma, gains)
        else:
            delta = _below(rate, sigma, -costs).times(np.exp(costs))
            rest = _above(rate, sigma, -gains).times(np.exp(gains))
        masses, infinite = _connected(delta, rest, width)
        used = np.flatnonzero(masses)
        low, masses = low + int(used[0]), np.ascontiguousarray(masses[used[0] : used[-1] + 1])
        return Direction(low, masses, infinite, *_moments(low, masses, width))

    def first(self) -> int:
        """The smallest loss, in grid points."""
        return self.lowest

    def last(self) -> int:
        """The largest finite loss, in grid points."""
        return self.lowest + len(self.masses) - 1

    def moment(self, order: float, width: float) -> float:
        """log E exp(order x loss), for an order above 0."""
        weights = np.exp(-order * width * np.arange(len(self.masses) - 1, -1, -1))
        return math.log(float(self.masses @ weights)) + order * width * self.last()


def loss_range(rate: float, sigma: float, change: Change = "removed") -> tuple[float, float]:
    """The smallest and the largest finite loss of a step."""
    largest = (_REACH + 0.5 / sigma) / sigma
    unsampled = math.log1p(-rate) if rate < 1 else -math.inf
    low, high = (float(np.logaddexp(unsampled, math.log(rate) + loss)) for loss in (-largest, largest))
    return (low, high) if change == "removed" else (-high, -low)


class _Curve(NamedTuple):
    """Values on the grid, and a bound on the error of each."""

    values: Floats
    errors: Floats

    def times(self, factor: Floats) -> _Curve:
        return _Curve(self.values * factor, self.errors * factor)


# With probability `rate`, the unit moves a Gaussian of standard deviation sigma by 1. Let H(v) be the divergence of the
# Gaussian without sampling at v, and exp(x) = 1 - rate + rate exp(v). Removing the unit has delta(x) = rate H(v). Below
# 0 this is close to 1 - exp(x), and its excess over that is rate exp(v) H(-v). Adding the unit exchanges the two
# distributions: its delta(x) is exp(x) times the excess of removing at -x, and the reverse.
def _above(rate: float, sigma: float, x: Floats) -> _Curve:
    """delta(x) of removing, for x >= 0."""
    v = np.where(
        x < 30,
        np.log1p(np.expm1(np.minimum(x, 30.0)) / rate),
        x + np.log1p(-(1 - rate) * np.exp(-x)) - math.log(rate),
    )
    values, tail, relative = _gaussian(v, sigma)
    return _Curve(rate * values, rate * tail * relative)


def _below(rate: float, sigma: float, x: Floats) -> _Curve:
    """delta(x) - (1 - exp(x)) of removing, for x <= 0."""
    odds = np.maximum(np.expm1(x) / rate, -1.0)
    with np.errstate(divide="ignore"):  # at and below the smallest loss, v is -inf
        v = np.log1p(odds)
    values, tail, relative = _gaussian(-v, sigma)
    return _Curve(rate * (1 + odds) * values, rate * tail * ((1 + odds) * relative + 4 * _UNIT))


def _gaussian(v: Floats, sigma: float) -> tuple[Floats, Floats, Floats]:
    """H(v) = P(N(1) > y) - exp(v) P(N(0) > y), where the loss at y is v; P(N(1) > y); the relative error of that."""
    v = np.minimum(v, 1e200)
    y = v * sigma - 0.5 / sigma
    tail = special.ndtr(-y)
    values = np.maximum(tail - np.exp(np.minimum(v + special.log_ndtr(-y - 1 / sigma), 0.0)), 0.0)
    # The errors of the tails, of the exponential of a logarithm, and of v.
    return values, tail, _UNIT * (8 + np.minimum(np.abs(y), 100.0) ** 2 + np.abs(v))


def _connected(delta: _Curve, rest: _Curve, width: float) -> tuple[Floats, float]:
    """Masses at the grid points and of the infinite loss; their divergence is nowhere below the given one.

    Between grid points the divergence is linear in exp(epsilon). Its slope is the tail of the second distribution, and
    masses are differences of slopes. Slopes are in units of exp(-epsilon); below 0 their difference to that unit is
    stored instead. Each is first raised by its possible error and by the possible rounding of all masses above it.

    Args:
        delta: the divergence at 0 and above.
        rest: at 0 and below, the divergence minus (1 - exp(epsilon)).
        width: the grid spacing.
    """
    growth = math.expm1(width)
    slopes = (delta.values[:-1] - delta.values[1:] + delta.errors[:-1] + delta.errors[1:]) / growth
    lacks = np.maximum((np.diff(rest.values) - rest.errors[:-1] - rest.errors[1:]) / growth, 0.0)
    sums = np.cumsum(slopes[::-1])[::-1]
    lacks = np.maximum(lacks - 4 * _UNIT * (np.cumsum(lacks[::-1])[::-1] + float(sums[0]) + 1), 0.0)
    slopes = slopes + 4 * _UNIT * sums
    gains = lacks[1:] - (1 + growth) * lacks[:-1]
    costs = (1 + growth) * slopes - np.append(slopes[1:], 0.0)
    middle = 1 - (1 + growth) * lacks[-1] - slopes[0]
    masses = np.maximum(np.concatenate([[0.0], gains, [middle], costs]), 0.0)
    infinite = float(delta.values[-1] + delta.errors[-1])
    masses[0] = max(1 - infinite - float(masses.sum()), 0.0)
    return masses, infinite


def _moments(lowest: int, masses: Floats, width: float) -> tuple[int, Floats, Floats]:
    size = max(len(masses) - 1, 1)
    top = math.floor(math.log2(_LARGEST_EXPONENT / (size * width)))
    # exp(order (loss - largest loss)). In reverse order it is exp(-order (loss - smallest loss)).
    weights = np.exp(-(2.0**top) * width * np.arange(len(masses) - 1, -1, -1))
    rising, falling = np.empty(OCTAVES), np.empty(OCTAVES)
    for octave in range(OCTAVES):
        order = 2.0 ** (top - octave)
        rising[octave] = math.log(float(masses @ weights)) + order * (lowest + len(masses) - 1) * width
        falling[octave] = math.log(float(masses @ weights[::-1])) - order * lowest * width
        weights = np.sqrt(weights)
    return top, rising, falling


@dataclass(frozen=True, eq=False)
class NoisyStep:
    """One Poisson-sampled Gaussian step, ready to be composed any number of times."""

    removed: Direction
    added: Direction

    @staticmethod
    def of(rate: float, sigma: float, width: float) -> NoisyStep:
        """The step that samples with ``rate`` and adds noise ``sigma`` x clip, on a grid of this spacing."""
        removed = Direction.of(rate, sigma, width, "removed")
        # Without sampling both directions are equal.
        return NoisyStep(removed, removed if rate == 1 else Direction.of(rate, sigma, width, "added"))
