"""Decisions, and F1 against scikit-learn's, label masks included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from fedrad.data.batches import Tokenized
from fedrad.errors import ModelError
from fedrad.tasks.classification import Classification
from fedrad.tasks.metrics import f1_scores, scores_as_dict
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import task_named

Case = tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]


@st.composite
def cases(draw: st.DrawFn, masked: bool = False) -> Case:
    """Decisions, labels and mask [n, L], with empty, full and never decided labels among them."""
    rows, columns = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    decided, positive = (generator.random((rows, columns)) < generator.choice([0, 0.2, 0.5, 1], columns) for _ in "ab")
    mask = generator.random((rows, columns)) < 0.7 if masked else np.ones((rows, columns))
    return decided, positive.astype(np.float32), mask.astype(np.float32)


def names(case: Case) -> tuple[str, ...]:
    return tuple(f"label {k}" for k in range(case[1].shape[1]))


@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_scores_are_those_of_scikit_learn(case: Case) -> None:
    decided, labels, mask = case
    ours = f1_scores(decided, labels, mask, names(case))
    # As a two-dimensional indicator even with a single column, which scikit-learn would take as a binary problem.
    truth, guess = (np.column_stack([m.astype(int), np.zeros(len(m), int)]) for m in (labels, decided))
    columns = list(range(labels.shape[1]))

    for average, value in zip(("weighted", "micro", "macro"), ours.figures.values(), strict=True):
        theirs = f1_score(truth, guess, labels=columns, average=average, zero_division=0)
        assert value == pytest.approx(theirs, abs=1e-12), average
    theirs = f1_score(truth, guess, labels=columns, average=None, zero_division=0)
    assert list(ours.per_label.values()) == pytest.approx(list(theirs), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(case=cases(masked=True))
def test_masked_entries_do_not_count(case: Case) -> None:
    decided, labels, mask = case
    ours = f1_scores(decided, labels, mask, names(case))
    per_label, support = [], []
    for k in range(labels.shape[1]):
        kept = mask[:, k] > 0
        per_label.append(f1_score(labels[kept, k], decided[kept, k], zero_division=0) if kept.any() else 0.0)
        support.append(labels[kept, k].sum())
    kept = mask.ravel() > 0
    micro = f1_score(labels.ravel()[kept], decided.ravel()[kept], zero_division=0) if kept.any() else 0.0

    assert list(ours.per_label.values()) == pytest.approx(per_label, abs=1e-6)
    assert ours.figures["macro F1"] == pytest.approx(np.mean(per_label))
    assert ours.figures["micro F1"] == pytest.approx(micro)
    assert ours.figures["weighted F1"] == pytest.approx(np.average(per_label, weights=support) if sum(support) else 0.0)


@given(case=cases(masked=True), seed=st.integers(0, 1000))
def test_what_is_under_the_mask_changes_nothing(case: Case, seed: int) -> None:
    decided, labels, mask = case
    generator = np.random.default_rng(seed)
    other = np.where(mask > 0, labels, generator.integers(0, 2, labels.shape)).astype(np.float32)
    guess = np.where(mask > 0, decided, generator.random(labels.shape) < 0.5)

    assert f1_scores(decided, labels, mask, names(case)) == f1_scores(guess, other, mask, names(case))


@given(case=cases(masked=True))
def test_positives_are_counted_where_they_are_not_masked(case: Case) -> None:
    decided, labels, mask = case
    tokens = Tokenized(np.zeros(0, np.int32), np.zeros(len(labels) + 1, np.int64), labels, mask)
    counted = [int((labels[:, k] * mask[:, k]).sum()) for k in range(labels.shape[1])]

    assert list(f1_scores(decided, labels, mask, names(case)).positives.values()) == counted
    assert list(MultiLabel(names(case)).positives(tokens).values()) == counted


def test_the_mask_is_felt() -> None:
    """Control of the test above."""
    decided, labels = np.array([[True], [True]]), np.array([[1], [0]], dtype=np.float32)

    assert f1_scores(decided, labels, np.ones((2, 1), np.float32), ["a"]).figures["micro F1"] == pytest.approx(2 / 3)
    assert f1_scores(decided, labels, np.array([[1], [0]], dtype=np.float32), ["a"]).figures["micro F1"] == 1.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), classes=st.integers(2, 6))
def test_single_label_scores_are_those_of_scikit_learn(seed: int, rows: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), rows).astype(np.float32)
    truth = generator.integers(0, classes, rows)
    task = SingleLabel(tuple(str(k) for k in range(classes)))
    one_hot = np.eye(classes, dtype=np.float32)[truth]
    tokens = Tokenized(np.zeros(0, np.int32), np.zeros(rows + 1, np.int64), one_hot, np.ones_like(one_hot))
    found = task.evaluate(probabilities, tokens)
    ours = found.scores
    guess, columns = probabilities.argmax(axis=1), list(range(classes))

    assert (found.decisions.sum(axis=1) == 1).all()
    assert ours.figures["micro F1"] == pytest.approx((guess == truth).mean())
    assert ours.figures["weighted F1"] == pytest.approx(
        f1_score(truth, guess, labels=columns, average="weighted", zero_division=0)
    )
    assert ours.figures["macro F1"] == pytest.approx(
        f1_score(truth, guess, labels=columns, average="macro", zero_division=0)
    )


def test_a_tie_between_classes_is_one_decision() -> None:
    assert (
        SingleLabel(("a", "b", "c")).decide(np.full((2, 3), 1 / 3, dtype=np.float32)).tolist()
        == [[True, False, False]] * 2
    )


def test_labels_are_decided_at_one_half() -> None:
    probabilities = np.array([[0.2, 0.5, 0.51]], dtype=np.float32)

    assert MultiLabel(("a", "b", "c")).decide(probabilities).tolist() == [[False, False, True]]


@given(case=cases())
def test_no_other_constant_answer_beats_the_label_prior(case: Case) -> None:
    _, labels, mask = case
    prior = np.tile(MultiLabel(names(case)).prior(labels.mean(axis=0).astype(np.float64)), (len(labels), 1))
    best = f1_scores(prior > 0.5, labels, mask, names(case))
    for k in range(labels.shape[1]):
        other = prior.copy()
        other[:, k] = False
        assert (
            f1_scores(other > 0.5, labels, mask, names(case)).figures["weighted F1"]
            <= best.figures["weighted F1"] + 1e-12
        )
    for name, share in zip(names(case), labels.mean(axis=0), strict=True):
        assert best.per_label[name] == pytest.approx(2 * share / (1 + share), abs=1e-5)


def test_the_label_prior_of_classes_is_the_most_frequent_one() -> None:
    task = SingleLabel(("a", "b", "c"))
    assert task.decide(task.prior(np.array([0.2, 0.5, 0.3]))[None]).tolist() == [[False, True, False]]


def test_names_must_fit_the_columns() -> None:
    with pytest.raises(ValueError, match="zip"):
        f1_scores(np.ones((2, 2), bool), np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), ["a"])


def test_what_files_say_where_nothing_was_evaluated() -> None:
    task = MultiLabel(("a",))
    found = f1_scores(np.ones((1, 1), bool), np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), task.labels)

    assert (found.name, found.main) == ("weighted F1", 1.0)
    assert tuple(found.figures) == task.figures
    assert found.as_dict() == {"weighted_f1": 1.0, "micro_f1": 1.0, "macro_f1": 1.0, "per_label": {"a": 1.0}}
    assert scores_as_dict(found, task.figures) == found.as_dict()
    nothing = {"weighted_f1": None, "micro_f1": None, "macro_f1": None, "per_label": {}}
    assert scores_as_dict(None, task.figures) == nothing


@pytest.mark.parametrize("task", [MultiLabel(()), MultiLabel(("a", "a")), SingleLabel(("a",)), SingleLabel(())])
def test_labels_that_no_head_can_have_are_refused(task: Classification) -> None:
    with pytest.raises(ModelError, match="labels with different names"):
        task.outputs()


@pytest.mark.parametrize("task", [MultiLabel(("a", "b")), SingleLabel(("a", "b"))])
def test_a_task_is_found_by_its_name(task: Classification) -> None:
    assert task_named(task.name, ["a", "b"]) == task
    assert task_named(task.name, ["b", "a"]) != task
    assert len({MultiLabel(("a", "b")), SingleLabel(("a", "b"))}) == 2  # never equal: their losses differ
    with pytest.raises(ModelError, match="only multi-label, single-label"):
        task_named("multilabel", ["a", "b"])
