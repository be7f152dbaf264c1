"""What predictions are worth on labelled reports: the figures of sklearn for each label, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrad.evidence.bootstrap import BINS, Figures, Floats, Judged, bins_of, figures_of, interval, resampled

OVERALL = ("weighted_f1", "micro_f1", "macro_f1")
_OF_A_LABEL = ("precision", "recall", "f1", "auroc", "average_precision", "ece")


@dataclass(frozen=True)
class Figure:
    """A value and its 95% interval; None where it is undefined: an AUROC without a positive, an interval of a single
    patient."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """Of the reliability curve: reports whose probability lies between ``low`` and ``high``."""

    low: float
    high: float
    reports: int
    mean_probability: float
    share_positive: float


@dataclass(frozen=True)
class LabelScores:
    """Of one label; of a single-label task: this class against all others.

    Attributes:
        support: positive reports.
        reports: those with this label, positive or negative.
        threshold: the probability above which the label counts as said; None: the most probable class does.
        reliability: the bins that hold a report.
    """

    name: str
    support: int
    reports: int
    threshold: float | None
    tp: int
    fp: int
    fn: int
    tn: int
    precision: Figure
    recall: Figure
    f1: Figure
    auroc: Figure
    average_precision: Figure
    ece: Figure
    reliability: tuple[Bin, ...]


@dataclass(frozen=True)
class Scores:
    """All figures of a set of predictions."""

    weighted_f1: Figure
    micro_f1: Figure
    macro_f1: Figure
    labels: tuple[LabelScores, ...]
    reports: int
    patients: int
    resamples: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def scores(
    names: Sequence[str], judged: Judged, *, thresholds: Sequence[float | None], resamples: int = 2000, seed: int = 0
) -> Scores:
    """Every figure with its 95% interval, by resampling patients.

    Args:
        names: of the L labels.
        thresholds: those that ``judged.decided`` was made with.
        resamples: 0: no intervals.
        seed: of the resampling.
    """
    patients = judged.count
    alone = figures_of(judged, np.ones((1, patients)))
    drawn = resampled(judged, resamples, seed) if resamples and patients > 1 else None
    overall = {name: _figure(vars(alone)[name][0], drawn, name) for name in OVERALL}
    labels = tuple(_label(k, name, judged, thresholds[k], drawn) for k, name in enumerate(names))
    return Scores(
        **overall,
        labels=labels,
        reports=len(judged.labels),
        patients=patients,
        resamples=0 if drawn is None else resamples,
    )


def best_thresholds(labels: NDArray[np.int8], probabilities: Floats) -> list[float]:
    """For each label the threshold with the best F1 on these very reports; 1/2 where no report is positive.

    A figure at such a threshold is optimistic: it was chosen on the reports that it is computed from.
    """
    from sklearn.metrics import precision_recall_curve

    found = []
    for truth, predicted in _columns(labels, probabilities):
        if not truth.any():
            found.append(0.5)
            continue
        precision, recall, steps = precision_recall_curve(truth, predicted)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        at = steps[int(f1[:-1].argmax())]
        below = predicted[predicted < at]  # what counts is above a threshold, not at it
        found.append(float((at + below.max(initial=0.0)) / 2))
    return found


def _label(k: int, name: str, judged: Judged, threshold: float | None, drawn: Figures | None) -> LabelScores:
    from sklearn.metrics import (
        average_precision_score,
        confusion_matrix,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    kept = judged.labels[:, k] >= 0
    truth, said = judged.labels[kept, k] == 1, judged.decided[kept, k]
    predicted = judged.probabilities[kept, k]
    tn, fp, fn, tp = confusion_matrix(truth, said, labels=[False, True]).ravel() if kept.any() else (0, 0, 0, 0)
    values = dict.fromkeys(_OF_A_LABEL, float("nan"))
    if kept.any():
        parts = precision_recall_fscore_support(truth, said, average="binary", zero_division=0)
        values |= {"precision": parts[0], "recall": parts[1], "f1": parts[2]}
        off = (abs(b.share_positive - b.mean_probability) * b.reports for b in _bins(truth, predicted))
        values["ece"] = sum(off) / len(truth)
    if truth.any():
        values["average_precision"] = average_precision_score(truth, predicted)
    if truth.any() and not truth.all():
        values["auroc"] = roc_auc_score(truth, predicted)
    return LabelScores(
        name=name,
        support=int(truth.sum()),
        reports=len(truth),
        threshold=threshold,
        tp=int(tp),
        fp=int(fp),
        fn=int(fn),
        tn=int(tn),
        **{of: _figure(value, drawn, of, k) for of, value in values.items()},
        reliability=_bins(truth, predicted),
    )


def _bins(truth: NDArray[np.bool_], predicted: Floats) -> tuple[Bin, ...]:
    where = bins_of(predicted)
    return tuple(
        Bin(b / BINS, (b + 1) / BINS, int(there.sum()), float(predicted[there].mean()), float(truth[there].mean()))
        for b in range(BINS)
        if (there := where == b).any()
    )


def _columns(labels: NDArray[np.int8], probabilities: Floats) -> list[tuple[NDArray[np.bool_], Floats]]:
    kept = labels >= 0
    return [(labels[kept[:, k], k] == 1, probabilities[kept[:, k], k]) for k in range(labels.shape[1])]


def _figure(value: float, drawn: Figures | None, name: str, k: int | None = None) -> Figure:
    if drawn is None:
        return Figure(_known(value), None, None)
    values = vars(drawn)[name] if k is None else vars(drawn)[name][:, k]
    low, high = interval(values)
    return Figure(_known(value), _known(float(low)), _known(float(high)))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
