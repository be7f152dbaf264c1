"""Scores of one answer a report, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedrad.evidence.classes import class_scores, same_text
from fedrad.model.similarity import embedded

NAMES = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
PROBABILITIES = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.5, 0.3, 0.2, 0.0]])


def test_figures_are_those_that_one_counts() -> None:
    found = class_scores(np.array([0, 1, 2, 3]), PROBABILITIES, NAMES, abstain_below=0.5)
    assert (found.exact_match, found.top_3) == (0.25, 0.75)
    assert found.similarity == pytest.approx((1 + 0.6 + 0 - 1) / 4)
    assert found.similarity_of_wrong == pytest.approx((0.6 + 0 - 1) / 3)
    assert (found.answered, found.exact_match_of_answered) == (0.5, 0.5)
    assert "exact match is 0.25" in found.flattery


def test_where_nothing_is_wrong_or_answered_there_is_no_figure() -> None:
    found = class_scores(np.array([0]), PROBABILITIES[:1], NAMES, abstain_below=0.9)
    assert (found.similarity_of_wrong, found.answered, found.exact_match_of_answered) == (None, 0.0, None)


def test_a_wrong_protocol_with_a_similar_name_is_nearly_right_to_an_embedding() -> None:
    """Why similarity is never shown alone."""
    right, near, far = embedded(["CTA Brain", "CTA Brain/Neck", "CT Cystogram"])
    assert np.linalg.norm(right) == pytest.approx(1, abs=1e-5)
    assert right @ near > 0.8
    assert right @ far < 0.5
    assert same_text(["ct brain ", "CT Brain/Neck"], ["CT Brain", "CT Brain"]) == 0.5
