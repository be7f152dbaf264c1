"""Scores of a model on a test set.

Test sets are public or simulated: nothing computed here on a hospital's private reports is ever sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

F1_FIGURES = ("weighted F1", "micro F1", "macro F1")
TOP_3 = "top 3"


@dataclass(frozen=True)
class Scores:
    """Scores on a test set.

    Attributes:
        figures: value by name. The first is the main one.
        per_label: F1 of each label.
        positives: reports of the test set in which each label is positive.
    """

    figures: Mapping[str, float]
    per_label: Mapping[str, float]
    positives: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the main figure."""
        return next(iter(self.figures))

    @property
    def main(self) -> float:
        """Value of the main figure."""
        return self.figures[self.name]

    def as_dict(self) -> dict[str, object]:
        """As in result files: ``{"weighted_f1": 0.9, ..., "per_label": {...}}``."""
        return _in_files(self.figures) | {"per_label": dict(self.per_label)}


def scores_as_dict(scores: Scores | None, figures: Sequence[str]) -> dict[str, object]:
    """As ``Scores.as_dict``; without scores, None for each of ``figures``."""
    return _in_files(dict.fromkeys(figures)) | {"per_label": {}} if scores is None else scores.as_dict()


def _in_files(figures: Mapping[str, float | None]) -> dict[str, object]:
    return {name.lower().replace(" ", "_"): value for name, value in figures.items()}


@dataclass(frozen=True)
class Evaluation:
    """A model's decisions on a test set, one row per report, and their scores."""

    scores: Scores
    decisions: NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """Baselines for the final scores. All come from the test set.

    Attributes:
        before: scores of the initial model, warm or cold, before the first noisy step.
        prior: scores of the label prior, which gives every report the same answer.
        reports: size of the test set.
        changed: number of decisions that differ from the initial model's.
    """

    before: Scores
    prior: Scores
    reports: int
    changed: int


def f1_scores(
    decisions: NDArray[np.bool_],
    labels: NDArray[np.float32],
    mask: NDArray[np.float32],
    names: Sequence[str],
) -> Scores:
    """F1 of decisions [n, L] against labels [n, L] in {0, 1}; entries with mask 0 are left out.

    Weighted F1 = sum_l support_l F1_l / sum_l support_l, where support_l counts the positives of label l. A label
    without positives counts as 0 in macro F1. Division by zero gives 0, as in ``sklearn.metrics.f1_score`` with
    ``zero_division=0``.
    """
    counted, positive = mask > 0, labels > 0.5
    tp = (decisions & positive & counted).sum(axis=0).astype(np.float64)
    fp = (decisions & ~positive & counted).sum(axis=0).astype(np.float64)
    fn = (~decisions & positive & counted).sum(axis=0).astype(np.float64)
    f1 = _ratio(2 * tp, 2 * tp + fp + fn)
    support = tp + fn
    weighted = float(_ratio((support * f1).sum(), support.sum()))
    micro = float(_ratio(2 * tp.sum(), (2 * tp + fp + fn).sum()))
    macro = float(f1.mean()) if len(f1) else 0.0
    return Scores(
        figures=dict(zip(F1_FIGURES, (weighted, micro, macro), strict=True)),
        per_label={name: round(float(value), 6) for name, value in zip(names, f1, strict=True)},
        positives={name: int(count) for name, count in zip(names, support, strict=True)},
    )


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
