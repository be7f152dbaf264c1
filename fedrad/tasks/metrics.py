"""F1 scores over masked labels: weighted (by support), micro and macro.

Counts come from public or simulated test sets only; nothing here is ever computed on a hospital's private reports and
sent away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # `fedrad ledger` shows figures without torch
    from fedrad.data.batches import Tokenized


@dataclass(frozen=True)
class Scores:
    """F1 of a test set. A label without a positive counts 0 in macro F1 and has no weight in weighted F1.

    Attributes:
        per_label: F1 of each label.
        positives: reports of the test set in which each label is positive.
    """

    weighted_f1: float
    micro_f1: float
    macro_f1: float
    per_label: dict[str, float]
    positives: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {
            "weighted_f1": self.weighted_f1,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "per_label": dict(self.per_label),
        }


def scores_as_dict(scores: Scores | None) -> dict[str, object]:
    """The same with null for every figure where nothing was evaluated."""
    if scores is None:
        return {"weighted_f1": None, "micro_f1": None, "macro_f1": None, "per_label": {}}
    return scores.as_dict()


@dataclass(frozen=True)
class Comparison:
    """What the final scores are to be read beside. All of it comes from the test set, nothing from a training report.

    Attributes:
        before: scores of the start, warm or cold, before the first noisy step.
        prior: scores of the label-prior predictor, which reads no text: every label is positive, or every report is of
            the test set's most frequent class.
        reports: reports in the test set.
        changed: decisions, of a label for a report, in which the result differs from the start.
    """

    before: Scores
    prior: Scores
    reports: int
    changed: int


def decide(probabilities: NDArray[np.float32], *, single_label: bool) -> NDArray[np.bool_]:
    """Decisions [n, L]: above 1/2 for each label, or the one most probable class.

    The threshold is fixed: one tuned on private reports would have to be paid for (P23).
    """
    if single_label:
        return np.asarray(np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None])
    return probabilities > 0.5


def score(
    decisions: NDArray[np.bool_],
    labels: NDArray[np.float32],
    mask: NDArray[np.float32],
    names: Sequence[str],
) -> Scores:
    """F1 scores of decisions [n, L] against labels [n, L] in {0, 1}; entries with mask 0 are left out.

    Weighted F1 = sum_l support_l F1_l / sum_l support_l, with support_l the positives of label l. Zero division gives
    0, as ``sklearn.metrics.f1_score(zero_division=0)`` does.
    """
    counted, positive = mask > 0, labels > 0.5
    tp = (decisions & positive & counted).sum(axis=0).astype(np.float64)
    fp = (decisions & ~positive & counted).sum(axis=0).astype(np.float64)
    fn = (~decisions & positive & counted).sum(axis=0).astype(np.float64)
    f1 = _ratio(2 * tp, 2 * tp + fp + fn)
    support = tp + fn
    return Scores(
        weighted_f1=float(_ratio((support * f1).sum(), support.sum())),
        micro_f1=float(_ratio(2 * tp.sum(), (2 * tp + fp + fn).sum())),
        macro_f1=float(f1.mean()) if len(f1) else 0.0,
        per_label={name: round(float(value), 6) for name, value in zip(names, f1, strict=True)},
        positives={name: int(count) for name, count in zip(names, support, strict=True)},
    )


def positives_in(tokens: Tokenized, names: Sequence[str]) -> dict[str, int]:
    """How many reports are positive for each label, masked ones left out."""
    counts = ((tokens.labels > 0.5) & (tokens.mask > 0)).sum(axis=0)
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def label_prior_decisions(prevalence: NDArray[np.float64], rows: int, *, single_label: bool) -> NDArray[np.bool_]:
    """What the label-prior predictor decides: it reads no text, so every row gets the same, F1-best, decision.

    For F1 the best constant answer for a label is always "positive" (its F1 is 2p/(1+p), against 0), which makes this
    the strictest prior baseline; for single-label it is the most frequent class.
    """
    if single_label:
        return np.tile(np.arange(len(prevalence)) == int(prevalence.argmax()), (rows, 1))
    return np.ones((rows, len(prevalence)), dtype=np.bool_)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
