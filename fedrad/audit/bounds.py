"""From guesses about canaries to a lower bound of epsilon, at a stated confidence, after one run.

m canaries (records that nobody needs) are each put into the data with probability 1/2, independently. An adversary sees
what the mechanism releases, guesses for r of the canaries whether they are in, and is right v times. A mechanism that
gives little away lets nobody be right often; how often is what the two papers bound.

Both bounds are for adding or removing one unit, and both hold for one run that decides all canaries at once:

    Steinke, Nasr, Jagielski: Privacy auditing with one (1) training run. NeurIPS 2023, arXiv 2305.08846.
    Mahloujifar, Melis, Chaudhuri: Auditing f-differential privacy in one run. arXiv 2410.22235.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import betaincinv, ndtr, ndtri

_LARGEST = 50.0  # epsilon and mu that no audit of fewer than 1e9 canaries reaches


@dataclass(frozen=True)
class Guesses:
    """What an adversary achieved.

    Attributes:
        canaries: m, each of which was in the data with probability 1/2.
        made: r, the number of guesses; no guess is made about the others.
        correct: v of them were right.

    Raises:
        ValueError: the numbers contradict each other.
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries or self.made < 1:
            raise ValueError(f"{self.correct} right of {self.made} guesses about {self.canaries} canaries")


def guess(scores: NDArray[np.float64], inside: NDArray[np.bool_], made: int) -> Guesses:
    """Guesses "in" for the largest scores and "out" for the smallest, half of ``made`` each.

    Args:
        scores: of each canary [m], larger where it looks more like having been trained on.
        inside: whether it was, [m].
        made: r, even, and fixed before the scores were seen: a number that was picked by its success would make the
            confidence of the bounds untrue.
    """
    order, half = np.argsort(scores, kind="stable"), made // 2
    correct = int(inside[order[len(order) - half :]].sum() + (~inside[order[:half]]).sum())
    return Guesses(len(scores), 2 * half, correct)


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are at most, if the mechanism is (epsilon, delta)-DP.

    Steinke et al., Theorem 5.2 with the sum of its appendix D: with B ~ Binomial(r, e^epsilon / (1 + e^epsilon)),

        P[B >= v] + 2 m delta max_{1 <= i <= v} P[v > B >= v - i] / i
    """
    m, r, v = guesses.canaries, guesses.made, guesses.correct
    at_least = stats.binom.sf(np.arange(-1, v), r, 1 / (1 + math.exp(-epsilon)))  # P[B >= 0], ..., P[B >= v]
    gaps = at_least[v - 1 :: -1] - at_least[v] if v else np.zeros(0)  # P[v > B >= v - i], i = 1, ..., v
    worst = float((gaps / np.arange(1, v + 1)).max(initial=0.0))
    return min(1.0, float(at_least[v]) + 2 * m * delta * worst)


def epsilon_bound(guesses: Guesses, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon that the guesses refute: the mechanism is not (epsilon, delta)-DP for any smaller one.

    Guarantee: for a mechanism that is (epsilon, delta)-DP, and guesses that are a function of what it released, the
    bound is above epsilon with a probability of at most 1 - ``confidence``. Nothing is assumed about the mechanism.
    The bound can't exceed logit((1 - confidence)^(1/r)), however much the mechanism leaks.

    Source: Steinke et al., Theorem 5.2, inverted: the supremum of the epsilons with ``p_value`` <= 1 - confidence.
    """
    return _largest_refuted(lambda epsilon: p_value(guesses, epsilon, delta) <= 1 - confidence)


def gaussian_bound(guesses: Guesses, delta: float, confidence: float = 0.95) -> float:
    """The epsilon at ``delta`` of the largest mu for which the guesses refute that the mechanism is mu-GDP.

    Guarantee: as ``epsilon_bound``, for mechanisms whose trade-off curve is at least that of a Gaussian with the same
    epsilon at ``delta``. That is exact for Gaussian noise without sampling and a good approximation for many sampled
    steps; for any other mechanism the bound may be too high. In return it is much closer.

    Source: Mahloujifar et al., Algorithm 2 (`refutes`), over the Gaussian trade-off curves of Dong, Roth and Su
    (arXiv 1905.02383), Corollary 1 for epsilon.
    """
    mu = _largest_refuted(lambda mu: refutes(guesses, lambda x: float(ndtr(ndtri(x) - mu)), confidence))
    return gaussian_epsilon(mu, delta)


def pair_bound(scores: NDArray[np.float64], inside: NDArray[np.bool_], delta: float, confidence: float) -> float:
    """The epsilon at ``delta`` of the largest mu for which too many pairs have the larger score inside.

    Of a mu-GDP mechanism, a canary that is in scores above one that is out with a probability of at most
    Phi(mu / sqrt 2), the area below the ROC curve of the best test. The k-th canary that is in is paired with the k-th
    that is out; the number of pairs in order is binomial, and its lower limit (Clopper and Pearson 1934) is solved for
    mu. So every canary counts, not only those with the most extreme scores, and half of the noise is seen.

    Guarantee: as ``gaussian_bound``, if what is seen of one canary is independent of what is seen of the others. That
    holds on the path as it should be for gradient canaries, each of which has a coordinate, and so noise, of its own,
    and is sampled by itself. It does not hold for text canaries, which share the model's numbers.

    Args:
        scores, inside: as for ``guess``.
    """
    pairs = min(int(inside.sum()), int((~inside).sum()))
    right = int((scores[inside][:pairs] > scores[~inside][:pairs]).sum())
    if right == 0:
        return 0.0
    least = float(betaincinv(right, pairs - right + 1, 1 - confidence))
    return gaussian_epsilon(max(0.0, math.sqrt(2) * float(ndtri(least))), delta)


def refutes(guesses: Guesses, curve: Callable[[float], float], confidence: float = 0.95) -> bool:
    """Whether so many right guesses are too unlikely under a trade-off curve.

    Mahloujifar et al., Algorithm 2, with a membership game of two outcomes for each canary. Starting from the
    probabilities that would be just consistent with a success of probability 1 - ``confidence``, the recursion follows
    how much probability the mechanism must have had on fewer right guesses; more than there is refutes the curve.

    Args:
        curve: x -> f(1 - x) for the (symmetric) trade-off function f: the smallest type II error at significance
            1 - x. For mu-GDP it is Phi(Phi^-1(x) - mu).
    """
    m, r, v = guesses.canaries, guesses.made, guesses.correct
    beta = 1 - confidence
    inside, outside = beta * v / m, beta * (r - v) / m
    for i in range(v - 1, -1, -1):
        larger = max(outside, curve(min(inside, 1.0)))
        inside += i / (r - i) * (larger - outside)
        outside = larger
    return inside + outside > r / m


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of a mu-GDP mechanism at delta: Dong, Roth and Su (arXiv 1905.02383), Corollary 1, inverted."""

    def excess(epsilon: float) -> float:
        below = math.exp(min(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu), 0.0))
        return float(stats.norm.cdf(mu / 2 - epsilon / mu)) - below - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, mu * (mu / 2 - float(ndtri(delta))) + 1))


def _largest_refuted(refuted: Callable[[float], bool]) -> float:
    """By bisection to 1e-4, from below; 0 if nothing is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
