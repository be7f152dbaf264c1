"""The bootstrap clustered by patient: what a score could have been on other patients of the same kind.

A resample draws as many patients as there are, with replacement, each with all of their reports, so that reports of one
person count as one piece of evidence. It is a weight for each patient: every figure below is a function of weights, and
is computed for many resamples at once.

Source: Field and Welsh 2007, "Bootstrapping clustered data" (doi:10.1111/j.1467-9868.2007.00593.x), the cluster
bootstrap; percentile intervals as in Efron and Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS: Final = 10
"""Of equal width, for calibration."""
_AT_ONCE = 64  # resamples: what they need of a few thousand reports then stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Judged:
    """n reports, what was predicted for L labels, and what is true.

    Attributes:
        labels: int8 [n, L]: 1, 0, or -1 for an entry that is left out.
        probabilities: float [n, L].
        decided: bool [n, L]: what the model is taken to say.
        patients: int [n], numbers from 0 without a gap, the same for the reports of one patient.
    """

    labels: NDArray[np.int8]
    probabilities: Floats
    decided: NDArray[np.bool_]
    patients: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many patients there are."""
        return int(self.patients.max(initial=-1)) + 1


@dataclass(frozen=True, eq=False)
class Figures:
    """Every figure under R vectors of weights: of each label [R, L], and overall [R]. NaN where it is undefined.

    Recall and F1 are undefined without a positive report, precision where nothing is said. Overall F1 is as sklearn has
    it with ``zero_division=0``; only that labels whose positives all stayed out of a resample do not count in its mean.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    auroc: Floats
    average_precision: Floats
    ece: Floats
    weighted_f1: Floats
    micro_f1: Floats
    macro_f1: Floats


def resampled(judged: Judged, resamples: int, seed: int) -> Figures:
    """The figures of so many resamples, drawn by ``seed``."""
    ready = _ready(judged)
    blocks = [_figures(ready, weights) for weights in _resamples(judged.count, resamples, seed)]
    return Figures(**{field.name: np.concatenate([vars(b)[field.name] for b in blocks]) for field in fields(Figures)})


def figures_of(judged: Judged, weights: Floats) -> Figures:
    """The figures in which patient p counts ``weights[r, p]`` times; whole numbers, [R, P]."""
    return _figures(_ready(judged), np.ascontiguousarray(weights.T, dtype=np.float32))


def interval(values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """The percentile interval over the first axis, of the resamples in which the figure is defined; NaN if none is."""
    outside = (1 - level) / 2
    undefined = np.isnan(values).all(axis=0)
    low, high = np.nanquantile(np.where(undefined, 0.0, values), (outside, 1 - outside), axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def bins_of(probabilities: Floats) -> NDArray[np.int64]:
    """The bin of each probability, of ``BINS`` of equal width; 1 is in the last."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The reports that have a label, m of them with the p positive ones, by descending probability.

    Attributes:
        patients: of the m reports.
        positive: the places of the positive reports, [p].
        first, last: of each of them: how many reports come before those of the same probability, and with these. [p]
    """

    patients: NDArray[np.int64]
    positive: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Ready:
    """All that does not depend on the weights.

    Attributes:
        sums: for each patient what adds up, [K, P]: tp, fp, fn and counted reports of each label, then, for each bin,
            probability less truth.
        ranked: of each label.
        absent: bool [L], labels without a positive report.
    """

    sums: Floats
    ranked: tuple[_Ranked, ...]
    absent: NDArray[np.bool_]


def _ready(judged: Judged) -> _Ready:
    counted, true, said = judged.labels >= 0, judged.labels == 1, judged.decided
    off = np.where(counted, judged.probabilities - true, 0.0)
    bins = bins_of(judged.probabilities)
    parts = [said & true, said & ~true & counted, ~said & true, counted]
    parts += [np.where(bins == b, off, 0.0) for b in range(BINS)]
    sums = np.zeros((judged.count, len(parts) * judged.labels.shape[1]))
    np.add.at(sums, judged.patients, np.concatenate(parts, axis=1))
    ranked = (_rank(judged, k) for k in range(judged.labels.shape[1]))
    return _Ready(np.ascontiguousarray(sums.T), tuple(ranked), ~true.any(axis=0))


def _rank(judged: Judged, k: int) -> _Ranked:
    kept = np.flatnonzero(judged.labels[:, k] >= 0)
    order = kept[np.argsort(-judged.probabilities[kept, k], kind="stable")]
    falling = -judged.probabilities[order, k]
    positive = np.flatnonzero(judged.labels[order, k] == 1)
    first, last = (np.searchsorted(falling, falling[positive], side=side) for side in ("left", "right"))
    return _Ranked(judged.patients[order], positive, first, last)


def _resamples(patients: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """How often each patient is drawn, in blocks [P, r]."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        block = min(_AT_ONCE, resamples - start)
        drawn = generator.integers(patients, size=(block, patients)) * block + np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * patients).reshape(patients, block).astype(np.float32)


def _figures(ready: _Ready, weights: NDArray[np.float32]) -> Figures:
    """Under the weights [P, r], whole numbers: float32 counts them without rounding up to 16 million."""
    labels = len(ready.ranked)
    tp, fp, fn, counted, *off = np.split((ready.sums @ weights).T, len(ready.sums) // max(1, labels), axis=1)
    f1, support = _ratio(2 * tp, 2 * tp + fp + fn), tp + fn
    areas = [_areas(ranked, weights) for ranked in ready.ranked]
    return Figures(
        precision=_ratio(tp, tp + fp, np.nan),
        recall=_ratio(tp, support, np.nan),
        f1=np.where(support > 0, f1, np.nan),
        auroc=np.stack([auroc for auroc, _ in areas], axis=1),
        average_precision=np.stack([average for _, average in areas], axis=1),
        ece=_ratio(sum(map(np.abs, off), np.zeros_like(tp)), counted, np.nan),
        weighted_f1=_ratio((support * f1).sum(axis=1), support.sum(axis=1)),
        micro_f1=_ratio(2 * tp.sum(axis=1), (2 * tp + fp + fn).sum(axis=1)),
        macro_f1=f1.sum(axis=1) / ((support > 0) | ready.absent).sum(axis=1),
    )


def _areas(ranked: _Ranked, weights: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Area under the ROC curve, ties counting half, and average precision; each [r]."""
    weight = weights[ranked.patients]
    before = np.zeros((len(weight) + 1, weight.shape[1]), dtype=np.float32)
    np.cumsum(weight, axis=0, out=before[1:])
    mine = weight[ranked.positive]
    found = np.zeros((len(mine) + 1, mine.shape[1]), dtype=np.float32)
    np.cumsum(mine, axis=0, out=found[1:])
    # Positive reports are counted at the places where those of one probability begin and end.
    first, last = (np.searchsorted(ranked.positive, place) for place in (ranked.first, ranked.last))
    positive, negative = found[-1].astype(np.float64), (before[-1] - found[-1]).astype(np.float64)
    passed = (before[ranked.first] - found[first] + before[ranked.last] - found[last]) / 2
    area = positive * negative - np.einsum("pr,pr->r", mine, passed, dtype=np.float64)
    precision = _ratio(found[last].astype(np.float64), before[ranked.last].astype(np.float64))
    average = np.einsum("pr,pr->r", mine, precision, dtype=np.float64)
    return _ratio(area, positive * negative, np.nan), _ratio(average, positive, np.nan)


def _ratio(above: Floats, below: Floats, otherwise: float = 0.0) -> Floats:
    return np.divide(above, below, out=np.full(np.shape(above), otherwise), where=below > 0)
