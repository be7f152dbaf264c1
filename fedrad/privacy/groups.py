"""Group privacy: the epsilon of a patient with k reports at a hospital, or with reports at two hospitals.

Guarantee:
    `group_epsilon` is an upper bound. If the ledger's unit is the report, everything published from these steps is
    (epsilon, delta)-differentially private with respect to adding or removing k reports of one shard at once. A step
    samples Binomial(k, rate) of the k reports, and j sampled reports, each clipped, move the sum by at most j clip
    norms. So a step is dominated by a Gaussian mechanism whose sensitivity is j with that probability (mixture of
    Gaussians, arXiv 2407.07737). Its loss is discretised pessimistically (connect the dots, arXiv 2207.04380) and then
    composed.
    If the ledger's rule is the filter (``filter.FILTER``), `account_epsilon` uses the Renyi divergences of the same
    discretised losses. It is as valid as the filter for adaptively chosen plans, because a step is a post-processing of
    its dominating pair (Blackwell); the probability of an infinite loss is subtracted from delta.
    The result is far below generic group privacy: k epsilon at a delta that grows by exp((k - 1) epsilon).

    It does not turn report-level training into patient-level training, because nothing bounds k. `PrivacyPlan` with
    ``unit="patient"`` needs no such bound.

`_Step` computes what dp_accounting's ``MixtureGaussianPrivacyLoss`` does, 20 to 60 times as fast; the tests compare
them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Context
from functools import lru_cache, reduce
from itertools import combinations

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld.pld_pmf import PLDPmf
from numpy.typing import NDArray
from scipy import optimize, special, stats

from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy import accounting
from fedrad.privacy.accounting import Event
from fedrad.privacy.composition import smallest_epsilon
from fedrad.privacy.filter import FILTER, ORDERS, Account, composed_epsilon, reading
from fedrad.privacy.internals import losses_of

Floats = NDArray[np.float64]

# Probability at either end of a step's distribution that counts as infinite loss.
_TAIL = math.exp(-50) / 2
# The same for every composition.
_CUT = 1e-15
# As in `accounting`, grid spacings are powers of ten, at most a thousandth of the result. These are their exponents.
_WIDEST_GRID, _FINEST_GRID = -2, -6
_MOST_POINTS = 2e6
_MOST_ATOMS = 1e4  # grid points of a step if only moments of its loss are needed


def group_epsilon(events: Iterable[tuple[float, float, int]], delta: float, k: int) -> float:
    """The epsilon of k reports of one shard together, at this delta, if the unit of the events is the report.

    By PLD, for steps that were fixed in advance; `account_epsilon` uses the ledger's own rule.

    Args:
        events: (sampling rate, noise multiplier, steps), as for ``accounting.epsilon``.
        delta: at least 1e-9 and below 1.
        k: number of reports; with 1 the result is ``accounting.epsilon``.

    Returns:
        ``math.inf`` if nothing can be promised at this delta.

    Raises:
        PlanError: a value is outside its range.
        PrivacyError: the result is below that of a single report, so neither can be trusted.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise PlanError(f"A group has one report or more, not {k}.")
    every = [Event(float(rate), float(noise), int(steps)) for rate, noise, steps in events]
    one = accounting.epsilon(every, delta)
    if k == 1 or one == math.inf:
        return one
    noisy = accounting.merged(e for e in every if e.sampling_rate > 0 and e.steps > 0 and e.noise_multiplier < math.inf)
    return _group_epsilon(noisy, float(delta), k, one) if noisy else 0.0


def account_epsilon(account: Account, delta: float, k: int) -> float:
    """`group_epsilon` of a whole ledger, by its own rule.

    Raises: as ``group_epsilon``.
    """
    if account.rule != FILTER:
        return group_epsilon(account.events, delta, k)
    one = account.epsilon(delta)
    if k == 1 or one == math.inf:
        return one
    divergences, infinite = np.zeros(len(ORDERS)), 0.0
    for rate, sigma, steps in account.events:
        if rate > 0 and steps > 0:
            of_step, lost = _Step(rate, sigma, k).divergences()
            divergences, infinite = divergences + steps * of_step, infinite + steps * lost
    # A group's losses are up to k times as large, so smaller orders suit it. The weights stay fixed in advance.
    value = reading(divergences, delta - infinite, [max(account.order // k, 2)])
    if value < 0.999 * one:
        raise PrivacyError(f"{k} reports can't have a smaller epsilon ({value}) than one ({one}); trust neither.")
    return value


# One figure takes tenths of a second, and a simulation may have a hundred different ledgers.
_MOST_LEDGERS = 12


def patients_in_words(
    unit: str,
    ledgers: Sequence[Account],
    delta: float,
    counts: Sequence[int] = (2, 5, 10),
    *,
    pairs: bool = True,
) -> str:
    """What a run guarantees to patients, in sentences for a privacy statement.

    Figures are rounded up. Each is the largest over the hospitals; which hospital that is depends on k, because
    hospitals with equal epsilons for one report may differ twofold for ten. With more than 12 different ledgers, only
    the 6 with the largest epsilons and the 6 with the largest sampling rates are considered, and the text says so.

    Args:
        unit: the plans' unit, "report" or "patient".
        ledgers: the account of each hospital.
        delta: for all figures.
        counts: the numbers of reports per patient to state, if the unit is the report.
        pairs: whether to state the epsilon of a patient at two hospitals.

    Raises:
        PlanError: a value is outside its range, or the unit is another one.
    """
    if unit not in ("report", "patient"):
        raise PlanError(f'There is nothing to say about patients where the unit is "{unit}".')
    distinct = sorted(set(ledgers))
    ones = {account: account.epsilon(delta) for account in distinct}
    whose, two = "hospital", "two hospitals, whichever they are,"
    if len(distinct) > _MOST_LEDGERS:
        half = _MOST_LEDGERS // 2
        weakest = sorted(distinct, key=lambda account: ones[account])[-half:]
        often = sorted(distinct, key=lambda a: (max((e.sampling_rate for e in a.events), default=0.0), ones[a]))[-half:]
        distinct = sorted({*weakest, *often})
        whose = f"hospital among the {half} kinds with the largest epsilons and the {half} that sample most often"
        two = f"two of these kinds of hospitals ({len(distinct)} of {len(ones)})"
    if unit == "patient":
        said = "A patient counts once at a hospital, however many reports they have there."
    else:
        worst = {k: max((account_epsilon(account, delta, k) for account in distinct), default=0.0) for k in counts}
        each = ", ".join(f"{k} reports have {_in_words(value)}" for k, value in worst.items())
        where = f"a {whose}" if len(distinct) < 2 else f"one {whose}, whichever it is,"
        said = f"It protects one report; a patient's reports at {where} have less together: at delta {delta:g}, {each}."
    if pairs and len(ledgers) > 1:
        kinds = Counter(ledgers)
        twice = [(account, account) for account in distinct if kinds[account] > 1]
        both = max(composed_epsilon(pair, delta) for pair in [*combinations(distinct, 2), *twice])
        somebody = "Somebody with a report" if unit == "report" else "Somebody who is a patient"
        said += f" {somebody} at each of {two} has {_in_words(both)}."
    return said


def _in_words(value: float) -> str:
    if value == math.inf:
        return "no guarantee"
    return f"epsilon {float(Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(value))):g}"


@lru_cache(maxsize=1024)
def _group_epsilon(events: tuple[Event, ...], delta: float, k: int, one: float) -> float:
    steps = [(_Step(rate, noise, k), count) for rate, noise, count in events]
    narrowest = max(math.ceil(math.log10(step.largest_loss / _MOST_POINTS)) for step, _ in steps)
    exponent = max(min(_grid(one * k / 1000), _WIDEST_GRID), narrowest)
    while True:
        width = 10.0**exponent
        composed = [[pmf.self_compose(count, _CUT) for pmf in step.masses(width)] for step, count in steps]
        value = max(_epsilon_of(reduce(_compose, one), delta, width) for one in zip(*composed, strict=True))
        if 1000 * 10.0**exponent <= value or exponent <= max(_FINEST_GRID, narrowest):
            break
        exponent = max(min(exponent - 1, _grid(value / 1000)), _FINEST_GRID, narrowest)
    if value < 0.999 * one:
        raise PrivacyError(f"{k} reports can't have a smaller epsilon ({value}) than one ({one}); trust neither.")
    return value


def _grid(width: float) -> int:
    return math.floor(math.log10(max(width, 10.0**_FINEST_GRID)) + 1e-12)


def _compose(left: PLDPmf, right: PLDPmf) -> PLDPmf:
    return left.compose(right, _CUT)


def _epsilon_of(pmf: PLDPmf, delta: float, width: float) -> float:
    losses, masses, infinite = losses_of(pmf)
    return smallest_epsilon(masses / delta, losses, width, infinite / delta)


class _Step:
    """One step for a group: the sum moves by s ~ Binomial(k, rate) clip norms, under noise of standard deviation sigma.

    Without the group the noised sum is y ~ N(0, sigma^2), with it y ~ N(s, sigma^2). The log ratio of the densities is
    g(y) = log E exp((s y - s^2 / 2) / sigma^2), increasing and convex. The privacy loss of removing the group is g(y)
    under the second distribution; that of adding it is -g(y) under the first.
    """

    def __init__(self, rate: float, sigma: float, k: int) -> None:
        weights = stats.binom.pmf(np.arange(k + 1), k, rate)
        self._s = np.flatnonzero(weights > 0).astype(np.float64)
        self._p = weights[weights > 0] / weights.sum()
        self._sigma = sigma
        self._end = -sigma * float(special.ndtri(_TAIL))
        farthest = self._end + float(self._s[-1])
        self._last = float(optimize.brentq(lambda y: math.log(self._above(np.array([y]))[0] / _TAIL), 0, farthest + 1))
        ends = self._ratio(np.array([-self._end, self._last, self._end]))
        self._removal = float(ends[0]), float(ends[1])
        self._addition = -float(ends[2]), -float(ends[0])

    @property
    def largest_loss(self) -> float:
        """The width of the range of losses that is kept."""
        return max(high - low for low, high in (self._removal, self._addition))

    def divergences(self) -> tuple[Floats, float]:
        """The larger Renyi divergence of finite losses at each of ``ORDERS``; the probability of an infinite loss."""
        both, infinite = [], 0.0
        for pmf in self.masses(self.largest_loss / _MOST_ATOMS):
            losses, masses, lost = losses_of(pmf)
            with np.errstate(divide="ignore"):
                logs = np.log(masses)
            both.append([special.logsumexp(logs + (order - 1) * losses) for order in ORDERS] / (ORDERS - 1))
            infinite = max(infinite, lost)
        return np.maximum(both[0], both[1]), infinite

    def masses(self, width: float) -> list[PLDPmf]:
        """Pessimistic loss distributions on a grid of this spacing, for removing and for adding the group."""
        both = []
        for (low, high), hockey_stick in ((self._removal, self._removed), (self._addition, self._added)):
            first, last = math.floor(low / width), math.ceil(high / width)
            epsilons = np.arange(first, last + 1, dtype=np.float64) * width
            deltas = np.clip(hockey_stick(epsilons), 0.0, 1.0)
            falling = np.maximum.accumulate(deltas[::-1])[::-1]  # rounding must not make them increase
            both.append(pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(width, first, last, falling))
        return both

    def _removed(self, epsilons: Floats) -> Floats:
        """P(g > epsilon with the group) - exp(epsilon) P(g > epsilon without)."""
        y = self._inverse(epsilons)
        return self._above(y) - np.exp(epsilons + special.log_ndtr(-y / self._sigma))

    def _added(self, epsilons: Floats) -> Floats:
        """P(-g > epsilon without the group) - exp(epsilon) P(-g > epsilon with it)."""
        y = self._inverse(-epsilons)
        below = special.ndtr((y[:, None] - self._s) / self._sigma) @ self._p
        return special.ndtr(y / self._sigma) - np.exp(epsilons) * below

    def _above(self, y: Floats) -> Floats:
        """P(sum with the group > y)."""
        return special.ndtr((self._s - y[:, None]) / self._sigma) @ self._p

    def _ratio(self, y: Floats) -> Floats:
        return special.logsumexp(self._exponents(y), axis=1)

    def _exponents(self, y: Floats) -> Floats:
        return np.log(self._p) + (self._s * y[:, None] - self._s**2 / 2) / self._sigma**2

    def _inverse(self, targets: Floats) -> Floats:
        """y with g(y) = target, by Newton's method between two points of a table; -inf if g is larger everywhere.

        The remaining error has a second-order effect, because the hockey-stick divergence is largest at the exact y.
        """
        table = np.linspace(-1.5 * self._end, 1.5 * max(self._end, self._last), 20_001)
        known = self._ratio(table)
        place = np.clip(np.searchsorted(known, targets), 1, len(table) - 1)
        low, high = table[place - 1], table[place]
        y = np.interp(targets, known, table)
        for _ in range(4):
            terms = self._exponents(y)
            value = special.logsumexp(terms, axis=1)
            slope = np.exp(terms - value[:, None]) @ self._s / self._sigma**2
            y = np.clip(y - (value - targets) / np.maximum(slope, 1e-300), low, high)
        return np.where(targets <= known[0], -np.inf, y)
