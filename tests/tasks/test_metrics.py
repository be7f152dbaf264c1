"""F1 against scikit-learn's, label masks included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from fedrad.data.batches import Tokenized
from fedrad.tasks.metrics import decide, label_prior_decisions, positives_in, score

Case = tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]


@st.composite
def cases(draw: st.DrawFn, masked: bool = False) -> Case:
    """Decisions, labels and mask [n, L], with empty, full and never decided labels among them."""
    rows, columns = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    decided, positive = (generator.random((rows, columns)) < generator.choice([0, 0.2, 0.5, 1], columns) for _ in "ab")
    mask = generator.random((rows, columns)) < 0.7 if masked else np.ones((rows, columns))
    return decided, positive.astype(np.float32), mask.astype(np.float32)


def names(case: Case) -> list[str]:
    return [f"label {k}" for k in range(case[1].shape[1])]


@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_scores_are_those_of_scikit_learn(case: Case) -> None:
    decided, labels, mask = case
    ours = score(decided, labels, mask, names(case))
    # As a two-dimensional indicator even with a single column, which scikit-learn would take as a binary problem.
    truth, guess = (np.column_stack([m.astype(int), np.zeros(len(m), int)]) for m in (labels, decided))
    columns = list(range(labels.shape[1]))

    for average, value in (("weighted", ours.weighted_f1), ("micro", ours.micro_f1), ("macro", ours.macro_f1)):
        theirs = f1_score(truth, guess, labels=columns, average=average, zero_division=0)
        assert value == pytest.approx(theirs, abs=1e-12), average
    theirs = f1_score(truth, guess, labels=columns, average=None, zero_division=0)
    assert list(ours.per_label.values()) == pytest.approx(list(theirs), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(case=cases(masked=True))
def test_masked_entries_do_not_count(case: Case) -> None:
    decided, labels, mask = case
    ours = score(decided, labels, mask, names(case))
    per_label, support = [], []
    for k in range(labels.shape[1]):
        kept = mask[:, k] > 0
        per_label.append(f1_score(labels[kept, k], decided[kept, k], zero_division=0) if kept.any() else 0.0)
        support.append(labels[kept, k].sum())
    kept = mask.ravel() > 0
    micro = f1_score(labels.ravel()[kept], decided.ravel()[kept], zero_division=0) if kept.any() else 0.0

    assert list(ours.per_label.values()) == pytest.approx(per_label, abs=1e-6)
    assert ours.macro_f1 == pytest.approx(np.mean(per_label))
    assert ours.micro_f1 == pytest.approx(micro)
    assert ours.weighted_f1 == pytest.approx(np.average(per_label, weights=support) if sum(support) else 0.0)


@given(case=cases(masked=True), seed=st.integers(0, 1000))
def test_what_is_under_the_mask_changes_nothing(case: Case, seed: int) -> None:
    decided, labels, mask = case
    generator = np.random.default_rng(seed)
    other = np.where(mask > 0, labels, generator.integers(0, 2, labels.shape)).astype(np.float32)
    guess = np.where(mask > 0, decided, generator.random(labels.shape) < 0.5)

    assert score(decided, labels, mask, names(case)) == score(guess, other, mask, names(case))


@given(case=cases(masked=True))
def test_positives_are_counted_where_they_are_not_masked(case: Case) -> None:
    decided, labels, mask = case
    tokens = Tokenized(np.zeros(0, np.int32), np.zeros(len(labels) + 1, np.int64), labels, mask)
    counted = [int((labels[:, k] * mask[:, k]).sum()) for k in range(labels.shape[1])]

    assert list(score(decided, labels, mask, names(case)).positives.values()) == counted
    assert list(positives_in(tokens, names(case)).values()) == counted


def test_the_mask_is_felt() -> None:
    """Control of the test above."""
    decided, labels = np.array([[True], [True]]), np.array([[1], [0]], dtype=np.float32)

    assert score(decided, labels, np.ones((2, 1), np.float32), ["a"]).micro_f1 == pytest.approx(2 / 3)
    assert score(decided, labels, np.array([[1], [0]], dtype=np.float32), ["a"]).micro_f1 == 1.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), classes=st.integers(2, 6))
def test_single_label_scores_are_those_of_scikit_learn(seed: int, rows: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), rows).astype(np.float32)
    truth = generator.integers(0, classes, rows)
    decided = decide(probabilities, single_label=True)
    one_hot = np.eye(classes, dtype=np.float32)[truth]
    ours = score(decided, one_hot, np.ones_like(one_hot), [str(k) for k in range(classes)])
    guess, columns = probabilities.argmax(axis=1), list(range(classes))

    assert (decided.sum(axis=1) == 1).all()
    assert ours.micro_f1 == pytest.approx((guess == truth).mean())
    assert ours.weighted_f1 == pytest.approx(
        f1_score(truth, guess, labels=columns, average="weighted", zero_division=0)
    )
    assert ours.macro_f1 == pytest.approx(f1_score(truth, guess, labels=columns, average="macro", zero_division=0))


def test_a_tie_between_classes_is_one_decision() -> None:
    assert decide(np.full((2, 3), 1 / 3, dtype=np.float32), single_label=True).tolist() == [[True, False, False]] * 2


def test_labels_are_decided_at_one_half() -> None:
    probabilities = np.array([[0.2, 0.5, 0.51]], dtype=np.float32)

    assert decide(probabilities, single_label=False).tolist() == [[False, False, True]]


@given(case=cases())
def test_no_other_constant_answer_beats_the_label_prior(case: Case) -> None:
    _, labels, mask = case
    prior = label_prior_decisions(labels.mean(axis=0).astype(np.float64), len(labels), single_label=False)
    best = score(prior, labels, mask, names(case))
    for k in range(labels.shape[1]):
        other = prior.copy()
        other[:, k] = False
        assert score(other, labels, mask, names(case)).weighted_f1 <= best.weighted_f1 + 1e-12
    for name, share in zip(names(case), labels.mean(axis=0), strict=True):
        assert best.per_label[name] == pytest.approx(2 * share / (1 + share), abs=1e-5)


def test_the_label_prior_of_classes_is_the_most_frequent_one() -> None:
    decided = label_prior_decisions(np.array([0.2, 0.5, 0.3]), 4, single_label=True)

    assert decided.tolist() == [[False, True, False]] * 4


def test_names_must_fit_the_columns() -> None:
    with pytest.raises(ValueError, match="zip"):
        score(np.ones((2, 2), bool), np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), ["a"])
