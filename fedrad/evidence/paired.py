"""Paired comparisons of two models on the same test reports, over one or several seeds.

F1 is not a mean over reports, so it can't be tested as one: the tests of F1 resample, and they resample patients, since
the reports of one patient are not independent (Dror et al., ACL 2018 and arXiv 1809.01448). Seeds of one test set share
its patients: a resampled patient is resampled in all of them, or the test set's own variance would be averaged away.

Pure functions. A *counts* array holds, for each of P patients and L labels, the true positives, false positives and
false negatives: int64 [P, L, 3].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

LEAST_SEEDS = 6
"""Fewer can't reach 5% in a two-sided signed-rank test: its smallest p is 2 / 2^n."""
_AT_ONCE = 1 << 22  # numbers in a block of resampled weights


@dataclass(frozen=True, eq=False)
class Seed:
    """What M models got right with one seed.

    Attributes:
        counts: of each model, int64 [M, P, L, 3].
        test_set: names the test set; seeds of one name have the same patients in the same order.
    """

    counts: Counts
    test_set: str


def patient_counts(
    decisions: NDArray[np.bool_], truth: NDArray[np.bool_], known: NDArray[np.bool_], patients: NDArray[Any]
) -> Counts:
    """Counts [P, L, 3] of decisions [n, L] against labels [n, L]; what is not known is left out. Patients are in the
    order of ``numpy.unique``."""
    cells = np.stack([decisions & truth & known, decisions & ~truth & known, ~decisions & truth & known], axis=-1)
    names, numbers = np.unique(patients, return_inverse=True)
    counts = np.zeros((len(names), *cells.shape[1:]), dtype=np.int64)
    np.add.at(counts, numbers, cells)
    return counts


def label_f1(totals: NDArray[Any]) -> Values:
    """F1 of each label, [..., L], of totals [..., L, 3]; 0 where it is 0/0."""
    tp, fp, fn = (np.asarray(totals[..., k], dtype=np.float64) for k in range(3))
    return _ratio(2 * tp, 2 * tp + fp + fn)


def weighted_f1(totals: NDArray[Any]) -> Values:
    """sum_l support_l F1_l / sum_l support_l, [...], of totals [..., L, 3]; support is tp + fn."""
    support = np.asarray(totals[..., 0] + totals[..., 2], dtype=np.float64)
    return _ratio((support * label_f1(totals)).sum(axis=-1), support.sum(axis=-1))


def _ratio(above: Values, below: Values) -> Values:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def observed(seeds: Sequence[Seed], score: Callable[[NDArray[Any]], Values] = weighted_f1) -> Values:
    """The score of each seed and model on its whole test set, [S, M, ...]."""
    return np.stack([score(seed.counts.sum(axis=1)) for seed in seeds])


def bootstrap(
    seeds: Sequence[Seed],
    draws: int,
    generator: np.random.Generator,
    score: Callable[[NDArray[Any]], Values] = weighted_f1,
) -> Values:
    """Hierarchical bootstrap: seeds, then patients; the mean over the drawn seeds of each model's score.

    In a draw, all models and all seeds of a test set see the same patients, so differences of columns are paired.

    Returns:
        [draws, M, ...].
    """
    patients = {seed.test_set: seed.counts.shape[1] for seed in seeds}
    share = np.full(len(seeds), 1 / len(seeds))
    block = max(1, _AT_ONCE // max(patients.values()))
    parts = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        chosen = generator.multinomial(len(seeds), share, size) / len(seeds)
        weights = {
            name: generator.multinomial(count, np.full(count, 1 / count), size).astype(np.float64)
            for name, count in patients.items()
        }
        part: Any = 0.0
        for number, seed in enumerate(seeds):
            models = [weights[seed.test_set] @ counts.reshape(len(counts), -1) for counts in seed.counts]
            totals = np.stack(models, axis=1).reshape(size, len(models), *seed.counts.shape[2:])
            scores = score(totals)
            part = part + scores * chosen[:, number].reshape(-1, *[1] * (scores.ndim - 1))
        parts.append(part)
    return np.concatenate(parts)


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    low, high = np.quantile(np.asarray(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p(differences: Values) -> float:
    """Two-sided p of "no difference": 2 min(P(d* <= 0), P(d* >= 0)), at least 2 / (B + 1)."""
    return min(1.0, 2 * min(_tail(differences <= 0), _tail(differences >= 0)))


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests against a margin that was chosen before.

    Attributes:
        no_loss: p of "the second loses the margin or more": small means that it does not.
        no_gain: p of "the second gains the margin or more".
    """

    no_loss: float
    no_gain: float

    @property
    def p(self) -> float:
        """p of "they differ by the margin or more"."""
        return max(self.no_loss, self.no_gain)


def equivalence(differences: Values, margin: float) -> Equivalence:
    """TOST on bootstrapped differences, second minus first. Its p is below 5% where the 90% percentile interval lies
    within the margin."""
    return Equivalence(no_loss=_tail(differences <= -margin), no_gain=_tail(differences >= margin))


def _tail(hits: NDArray[np.bool_]) -> float:
    return float((1 + hits.sum()) / (1 + len(hits)))


def randomisation_p(seeds: Sequence[Seed], draws: int, generator: np.random.Generator) -> float:
    """Paired approximate randomisation: each patient's predictions change sides with probability 1/2, in all seeds of
    the test set at once. Two-sided, in the mean over seeds of the difference of weighted F1.

    Exact, over all 2^P ways, where there are no more of them than ``draws``.

    Args:
        seeds: of two models.
    """
    first: dict[str, int] = {}  # where each test set's patients start among all
    total = 0
    for seed in seeds:
        if seed.test_set not in first:
            first[seed.test_set] = total
            total += seed.counts.shape[1]

    def difference(one: NDArray[Any], other: NDArray[Any], axis: int = -1) -> Values:
        swapped = np.moveaxis(one >= total, axis, -1).astype(np.float64)
        part: Any = 0.0
        for seed in seeds:
            start, (a, b) = first[seed.test_set], seed.counts
            mine = swapped[..., start : start + len(a)]
            moved = (mine @ (b - a).reshape(len(a), -1)).reshape(*mine.shape[:-1], *a.shape[1:])
            part = part + weighted_f1(b.sum(axis=0) - moved) - weighted_f1(a.sum(axis=0) + moved)
        return part / len(seeds)

    units = np.arange(total)
    found = stats.permutation_test(
        (units, units + total),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        batch=max(1, _AT_ONCE // total),
        rng=generator,
    )
    return float(found.pvalue)


@dataclass(frozen=True)
class McNemar:
    """Decisions that one model gets right and the other wrong, over all seeds.

    Attributes:
        only_first, only_second: how many.
        first_ahead, second_ahead: in how many seeds one is right more often than the other.
        exact: the chance that random swaps of the two models bring them as far apart, or further.
        mid: the same with half the probability of the observed distance (Fagerland et al. 2013): less conservative.
    """

    only_first: int
    only_second: int
    first_ahead: int
    second_ahead: int
    exact: float
    mid: float


def mcnemar(seeds: Sequence[NDArray[np.integer[Any]]], clusters: Sequence[NDArray[Any]]) -> McNemar:
    """McNemar's test of two models' correctness, exact, for decisions that come in clusters.

    Under the null hypothesis the two models are exchangeable within a cluster: with probability 1/2 they change sides,
    in all of its reports and seeds at once. A cluster's sum of differences then keeps its size and takes a random sign,
    so the distribution of the total is a convolution of binomials. With one seed, and clusters of one report, this is
    the exact test of McNemar (1947). It says nothing about F1, and nothing about seeds that were not run: it is about
    these models and other patients.

    Args:
        seeds: of each seed, for each report [n]: 1 if the second model alone is right, -1 if the first alone, else 0.
        clusters: of each seed, to which cluster each report belongs [n]; equal names are one cluster in all seeds.
    """
    differences, names = np.concatenate(seeds).astype(np.int64), np.concatenate(clusters)
    _, numbers = np.unique(names, return_inverse=True)
    sums = np.zeros(numbers.max(initial=-1) + 1, dtype=np.int64)
    np.add.at(sums, numbers, differences)
    chances = np.ones(1)  # of the total, from -(n - 1) / 2 to (n - 1) / 2 in steps of 1
    for size, count in zip(*np.unique(np.abs(sums[sums != 0]), return_counts=True), strict=True):
        spread = np.zeros(2 * size * count + 1)
        spread[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, spread)
    distance = np.abs(np.arange(len(chances)) - len(chances) // 2)
    observed = abs(int(differences.sum()))
    further, as_far = float(chances[distance > observed].sum()), float(chances[distance == observed].sum())
    ahead = [int(np.sign(seed.sum())) for seed in seeds]
    return McNemar(
        only_first=int((differences < 0).sum()),
        only_second=int((differences > 0).sum()),
        first_ahead=ahead.count(-1),
        second_ahead=ahead.count(1),
        exact=min(1.0, further + as_far),
        mid=min(1.0, further + as_far / 2) if sums.any() else 1.0,
    )


def holm(p: ArrayLike) -> Values:
    """Holm's step-down adjustment of p values, in their order: controls the chance of any false claim."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def signed_rank_p(differences: ArrayLike) -> float:
    """Wilcoxon's signed-rank test of one difference a seed, two-sided; not a number where all are 0."""
    values = np.asarray(differences, dtype=np.float64)
    if not values.any():
        return math.nan
    return float(stats.wilcoxon(values).pvalue)


def smallest_signed_rank_p(seeds: int) -> float:
    """The smallest p that so many seeds can give: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - seeds))


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean over seeds; not a number for one seed."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2:
        return math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers))
    return float(numbers.mean() - half), float(numbers.mean() + half)
