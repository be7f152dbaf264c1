"""One noisy step's privacy loss distribution, and many such steps: dp_accounting's figures without its repeated work.

Guarantee:
    `NoisyStep` holds the pessimistic connect-the-dots discretisation (Doroshenko et al., arXiv 2207.04380) of a
    Poisson-sampled Gaussian, in both directions (a unit removed, a unit added), and ``composed`` is dp_accounting's own
    composition of it: the same distributions, the same truncation (1e-15 of mass, given to the infinite loss), the same
    transforms. What differs from calling dp_accounting is the order of a few floating-point operations.
    tests/privacy/test_composition.py compares the two.

Why it exists: a federation asks for the epsilon of every hospital in every round. dp_accounting computes the moments
that bound a composition's tails anew each time (three quarters of the time, and they do not depend on the number of
steps), and walks point by point in Python through every distribution that it makes or reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from dp_accounting.pld.pld_pmf import DensePLDPmf, PLDPmf, compose_pmfs, create_pmf_pessimistic_connect_dots_fixed_gap
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float64]

# What dp_accounting moves to the infinite loss in each composition, so that the tails end somewhere.
_TAIL = 1e-15
# The orders of the Chernoff bounds, in units of 1 / (number of grid points), upwards and downwards.
_ORDERS = np.arange(1, 21)


@dataclass(frozen=True, eq=False)
class _Direction:
    """The loss of one step when a unit is removed (or added), on the grid.

    Attributes:
        pmf: masses by loss.
        rising: log E exp(k i / n) for k in ``_ORDERS``, where i is the index of the loss among the n grid points.
        falling: log E exp(-k i / n).
    """

    pmf: PLDPmf
    rising: Floats
    falling: Floats

    @staticmethod
    def of(rate: float, sigma: float, width: float, adjacency: AdjacencyType) -> _Direction:
        loss = GaussianPrivacyLoss(sigma, sampling_prob=rate, adjacency_type=adjacency)
        bounds = loss.connect_dots_bounds()
        low, high = math.floor(bounds.epsilon_lower / width), math.ceil(bounds.epsilon_upper / width)
        deltas = _hockey_sticks(loss, np.arange(low, high + 1) * width)
        pmf = create_pmf_pessimistic_connect_dots_fixed_gap(width, low, high, deltas)
        if not isinstance(pmf, DensePLDPmf):  # few points; dp_accounting composes them in its own way, fast enough
            return _Direction(pmf, np.empty(0), np.empty(0))
        growth = np.exp(np.arange(pmf.size) / pmf.size)
        return _Direction(pmf, _log_moments(pmf._probs, growth), _log_moments(pmf._probs, 1 / growth))

    def composed(self, steps: int) -> PLDPmf:
        """The loss of ``steps`` steps: `DensePLDPmf.self_compose` with the moments that are already known."""
        if not isinstance(self.pmf, DensePLDPmf):
            return self.pmf.self_compose(steps, _TAIL)
        masses = self.pmf._probs
        size, room = len(masses), math.log(2 / _TAIL)
        orders = _ORDERS / size
        first = max(0, math.floor(np.max(-(steps * self.falling + room) / orders)))
        last = min((size - 1) * steps, math.ceil(np.min((steps * self.rising + room) / orders)))
        length = last - first + 1
        points = fft.next_fast_len(max(length, size), real=True)
        # The transform wraps around at `points`; what it wraps is below _TAIL and booked as infinite here.
        around = fft.irfft(fft.rfft(masses, points) ** steps, points)
        infinite = _TAIL - math.expm1(steps * math.log1p(-self.pmf._infinity_mass))
        lowest = self.pmf._lower_loss * steps + first
        return DensePLDPmf(self.pmf._discretization, lowest, np.roll(around, -first)[:length], infinite, True)


@dataclass(frozen=True, eq=False)
class NoisyStep:
    """One Poisson-sampled Gaussian step, ready to be composed with itself any number of times."""

    removed: _Direction
    added: _Direction

    @staticmethod
    def of(rate: float, sigma: float, width: float) -> NoisyStep:
        """The step that samples with ``rate`` and adds noise ``sigma`` x clip, on a grid of this width of losses."""
        removed = _Direction.of(rate, sigma, width, AdjacencyType.REMOVE)
        # Without sampling the two directions are one.
        return NoisyStep(removed, removed if rate == 1 else _Direction.of(rate, sigma, width, AdjacencyType.ADD))

    def composed(self, steps: int) -> Composition:
        """This many of it."""
        removed = self.removed.composed(steps)
        return Composition(removed, removed if self.added is self.removed else self.added.composed(steps))


@dataclass(frozen=True, eq=False)
class Composition:
    """The loss of several steps, when a unit is removed and when one is added."""

    removed: PLDPmf
    added: PLDPmf

    def then(self, other: Composition) -> Composition:
        """These steps and the others, which must be on the same grid."""
        removed = compose_pmfs(self.removed, other.removed, _TAIL)
        if self.added is self.removed and other.added is other.removed:
            return Composition(removed, removed)
        return Composition(removed, compose_pmfs(self.added, other.added, _TAIL))

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at this delta: the larger of the two directions, which do not dominate each other."""
        one = _epsilon(self.removed, delta)
        return one if self.added is self.removed else max(one, _epsilon(self.added, delta))


def _hockey_sticks(loss: GaussianPrivacyLoss, epsilons: Floats) -> Floats:
    """delta at each epsilon: `GaussianPrivacyLoss.get_delta_for_epsilon`, for all points at once.

    The loss falls with x, so delta = P(upper <= x) - exp(epsilon) P(lower <= x) where the loss at x is epsilon.
    """
    rate, variance = loss.sampling_prob, loss.standard_deviation**2
    adding = loss.adjacency_type == AdjacencyType.ADD
    deltas = np.zeros_like(epsilons)
    if rate == 1:
        inside, unsampled = np.full(len(epsilons), True), epsilons
    else:
        # With sampling, removing a unit lowers no loss below log(1 - rate), and adding one raises none above its minus.
        edge = math.log1p(-rate)
        sign = -1.0 if adding else 1.0
        inside = sign * epsilons > edge
        if not adding:
            deltas[~inside] = -np.expm1(epsilons[~inside])
        signed = sign * epsilons[inside]
        # The loss of the unsampled Gaussian there: log(1 + (exp(epsilon) - 1) / rate), and mirrored for adding.
        raised = signed - math.log(rate)
        with np.errstate(divide="ignore"):  # at the edge itself it is -inf
            unsampled = sign * (raised + np.log1p(-np.minimum(np.exp(math.log(1 / rate - 1) - raised), 1.0)))
    cut = (0.5 if adding else -0.5) - unsampled * variance
    deltas[inside] = loss.mu_upper_cdf(cut) - np.exp(epsilons[inside] + loss.mu_lower_log_cdf(cut))
    return np.clip(deltas, 0.0, 1.0)


def _log_moments(masses: Floats, growth: Floats) -> Floats:
    """log of the masses' sums weighted by growth ** k, for k in ``_ORDERS``. Weights stay within exp(+-20)."""
    weighted, moments = masses, []
    for _ in _ORDERS:
        weighted = weighted * growth
        moments.append(math.log(float(weighted.sum())))
    return np.array(moments)


def _epsilon(pmf: PLDPmf, delta: float) -> float:
    """The smallest epsilon >= 0 whose hockey-stick divergence is at most delta; inf if there is none.

    From the largest loss downwards: with the mass U above a point and L, the same mass weighted by exp(-loss), the
    divergence at epsilon is U - exp(epsilon) L until the next loss, so the answer is log((U - delta) / L) at the first
    point where that is above the next loss.
    """
    if not isinstance(pmf, DensePLDPmf):
        return float(pmf.get_epsilon_for_delta(delta))
    masses = pmf._probs[::-1]
    losses = (pmf._lower_loss + np.arange(pmf.size)[::-1]) * pmf._discretization
    if losses[0] > 700:  # exp(-loss) would be no normal number; dp_accounting has a rule for that
        return float(pmf.get_epsilon_for_delta(delta))
    if pmf._infinity_mass > delta:
        return math.inf
    positive = int(np.count_nonzero(losses >= 0))  # no epsilon below 0 is of interest
    masses, losses = masses[:positive], losses[:positive]
    upper = np.cumsum(np.concatenate([[pmf._infinity_mass], masses]))
    lower = np.cumsum(np.concatenate([[0.0], masses * np.exp(-losses)]))
    # Row i holds the mass of the i largest losses; its next loss is losses[i], and 0 after the last.
    with np.errstate(divide="ignore", invalid="ignore"):
        candidates = np.log((upper - delta) / lower)
    found = np.flatnonzero((upper > delta) & (lower > 0) & (candidates >= np.append(losses, 0.0)))
    return float(max(candidates[found[0]], 0.0)) if len(found) else 0.0
