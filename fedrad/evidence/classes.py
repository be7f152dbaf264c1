"""What one answer a report is worth: exact match, the three most probable, abstention, and similarity beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class ClassScores:
    """Shares and means over n reports of one class each.

    Attributes:
        exact_match: share of reports whose most probable class is theirs.
        top_3: share whose class is among the three most probable.
        similarity: mean cosine between the names of the most probable class and of the true one.
        similarity_of_wrong: the same over the wrong answers alone; None: there are none.
        abstain_below: the probability below which no answer is given.
        answered: share of reports that are answered then.
        exact_match_of_answered: share of these that are right; None: none is answered.
        generated_exact_match, generated_similarity: of what a decoder wrote freely; None: nothing.
    """

    exact_match: float
    top_3: float
    similarity: float
    similarity_of_wrong: float | None
    abstain_below: float
    answered: float
    exact_match_of_answered: float | None
    generated_exact_match: float | None = None
    generated_similarity: float | None = None

    @property
    def flattery(self) -> str:
        """Why similarity is no accuracy, with this model's own figures."""
        wrong = self.similarity_of_wrong
        alone = "" if wrong is None else f": the wrong answers alone have {wrong:.2f}"
        return (
            f"Similarity of names flatters{alone}. A protocol with a similar name is another examination; exact match"
            f" is {self.exact_match:.2f}."
        )


def class_scores(
    classes: NDArray[np.int64], probabilities: Floats, names: Floats, *, abstain_below: float = 0.0
) -> ClassScores:
    """Scores of predictions.

    Args:
        classes: number of the true class, [n].
        probabilities: [n, L].
        names: unit vectors [L, k] that stand for the classes' names.
    """
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    said = ranked[:, 0]
    right, sure = said == classes, probabilities.max(axis=1) >= abstain_below
    alike = (names[said] * names[classes]).sum(axis=1)
    return ClassScores(
        exact_match=float(right.mean()),
        top_3=float((ranked[:, :3] == classes[:, None]).any(axis=1).mean()),
        similarity=float(alike.mean()),
        similarity_of_wrong=None if right.all() else float(alike[~right].mean()),
        abstain_below=abstain_below,
        answered=float(sure.mean()),
        exact_match_of_answered=float(right[sure].mean()) if sure.any() else None,
    )


def same_text(written: Sequence[str], names: Sequence[str]) -> float:
    """Share of texts that are their names, apart from case and surrounding white space."""
    return float(np.mean([text.strip().lower() == name.lower() for text, name in zip(written, names, strict=True)]))
