"""The bootstrap clustered by patient: what a score could have been on other patients of the same kind.

A resample draws as many patients as there are, with replacement, each with all of their reports, so that reports of one
person count as one piece of evidence. It is a vector of weights, one for each report: every figure below is a function
of weights, and is computed for hundreds of resamples at once.

Source: Field and Welsh 2007, "Bootstrapping clustered data" (doi:10.1111/j.1467-9868.2007.00593.x), the cluster
bootstrap; percentile intervals as in Efron and Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 10
"""Of equal width, for calibration."""
_NUMBERS_AT_ONCE = 1 << 23  # of a block of weights, 64 MB


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

    Precision, recall and F1 are 0 where they divide by 0, as ``zero_division=0`` has it in sklearn.
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
    blocks = [figures_of(judged, weights) for weights in _resamples(judged.count, resamples, seed)]
    return Figures(**{field.name: np.concatenate([vars(b)[field.name] for b in blocks]) for field in fields(Figures)})


def interval(values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """The percentile interval over the first axis, of the resamples in which the figure is defined; NaN if none is."""
    outside = (1 - level) / 2
    undefined = np.isnan(values).all(axis=0)
    low, high = np.nanquantile(np.where(undefined, 0.0, values), (outside, 1 - outside), axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def figures_of(judged: Judged, weights: Floats) -> Figures:
    """The figures in which patient p counts ``weights[r, p]`` times; float [R, P]."""
    counted, true = judged.labels >= 0, judged.labels == 1
    said = judged.decided
    cells = [said & true, said & ~true & counted, ~said & true]
    tp, fp, fn = (weights @ _by_patient(judged, cell.astype(np.float64)) for cell in cells)
    f1, support = _ratio(2 * tp, 2 * tp + fp + fn), tp + fn
    auroc, average_precision = _ranked(judged, weights)
    return Figures(
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, support),
        f1=f1,
        auroc=auroc,
        average_precision=average_precision,
        ece=_calibration_error(judged, weights),
        weighted_f1=_ratio((support * f1).sum(axis=1), support.sum(axis=1)),
        micro_f1=_ratio(2 * tp.sum(axis=1), (2 * tp + fp + fn).sum(axis=1)),
        macro_f1=f1.mean(axis=1),
    )


def bins_of(probabilities: Floats) -> NDArray[np.int64]:
    """The bin of each probability, of ``BINS`` of equal width; 1 is in the last."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def _resamples(patients: int, resamples: int, seed: int) -> Iterator[Floats]:
    generator = np.random.default_rng(seed)
    rows = max(1, _NUMBERS_AT_ONCE // max(1, patients))
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = generator.integers(patients, size=(block, patients)) + patients * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * patients).reshape(block, patients).astype(np.float64)


def _by_patient(judged: Judged, values: Floats) -> Floats:
    """Sums over each patient's reports: [n, K] to [P, K]."""
    sums = np.zeros((judged.count, values.shape[1]))
    np.add.at(sums, judged.patients, values)
    return sums


def _ranked(judged: Judged, weights: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve, by trapezoids, and average precision; each [R, L]."""
    shape = (len(weights), judged.labels.shape[1])
    auroc, average_precision = np.full(shape, np.nan), np.full(shape, np.nan)
    for k in range(shape[1]):
        kept = np.flatnonzero(judged.labels[:, k] >= 0)
        order = kept[np.argsort(-judged.probabilities[kept, k], kind="stable")]
        if not len(order):
            continue
        ties = np.flatnonzero(np.diff(judged.probabilities[order, k], append=-np.inf))  # the last of equal scores
        weight = weights[:, judged.patients[order]]
        everything = np.cumsum(weight, axis=1)[:, ties]
        positive = np.cumsum(weight * (judged.labels[order, k] == 1), axis=1)[:, ties]
        negative = everything - positive
        gained, passed = np.diff(positive, prepend=0.0), np.diff(negative, prepend=0.0)
        area = (passed * (positive - gained / 2)).sum(axis=1)
        auroc[:, k] = _ratio(area, positive[:, -1] * negative[:, -1], np.nan)
        precision = _ratio(positive, everything)
        average_precision[:, k] = _ratio((gained * precision).sum(axis=1), positive[:, -1], np.nan)
    return auroc, average_precision


def _calibration_error(judged: Judged, weights: Floats) -> Floats:
    """Expected calibration error [R, L]: the mean over the bins of |share of positives - mean probability|, each bin
    by its number of reports (Guo et al. 2017, arXiv:1706.04599)."""
    counted = judged.labels >= 0
    off = np.where(counted, judged.probabilities - (judged.labels == 1), 0.0)
    bins = bins_of(judged.probabilities)
    error = np.zeros((len(weights), judged.labels.shape[1]))
    for b in range(BINS):
        error += np.abs(weights @ _by_patient(judged, np.where(bins == b, off, 0.0)))
    return _ratio(error, weights @ _by_patient(judged, counted.astype(np.float64)), np.nan)


def _ratio(above: Floats, below: Floats, otherwise: float = 0.0) -> Floats:
    return np.divide(above, below, out=np.full(np.shape(above), otherwise), where=below > 0)
