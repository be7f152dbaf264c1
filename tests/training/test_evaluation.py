"""Predictions and scores: of the right report, in the right row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrad.data.batches import collate
from fedrad.tasks.classification import Classification
from fedrad.tasks.metrics import Evaluation, f1_scores
from fedrad.tasks.single_label import SingleLabel
from fedrad.training.evaluation import evaluate, predictions
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny

SINGLE = SingleLabel(small.LABELS)
BOTH = pytest.mark.parametrize("task", [small.TASK, SINGLE])


def inputs_of(task: Classification, targets: str = "query,value", micro_tokens: int = 128) -> Inputs:
    setup = set_up(small.experiment(lora__targets=targets, train__micro_tokens=micro_tokens), task)
    tiny.randomise(setup.classifier)
    return prepare(setup, small.tokens(25))


@BOTH
@pytest.mark.parametrize("targets", ["", "query,value"])
@pytest.mark.parametrize("micro_tokens", [1, 100, 10_000])
def test_every_row_is_its_report_s(task: Classification, targets: str, micro_tokens: int) -> None:
    inputs = inputs_of(task, targets, micro_tokens)
    found = predictions(inputs)

    assert found.shape == (25, len(small.LABELS))
    assert found.std(axis=0).min() > 1e-3  # rows can be told apart
    for row in range(25):
        batch = collate(inputs.tokens, np.array([row]), inputs.pad_id)
        with torch.no_grad():
            logits = inputs.classifier(batch.ids, batch.attention)[0]
        expected = logits.softmax(-1) if task == SINGLE else logits.sigmoid()
        assert np.allclose(found[row], expected.numpy(), atol=1e-5)


def test_classes_sum_to_one() -> None:
    assert np.allclose(predictions(inputs_of(SINGLE)).sum(axis=1), 1, atol=1e-6)


@BOTH
def test_scores_are_of_these_predictions(task: Classification) -> None:
    inputs = inputs_of(task)
    decided = task.decide(predictions(inputs))

    found, f1 = evaluate(inputs).scores, f1_scores(decided, inputs.tokens.labels, inputs.tokens.mask, small.LABELS)
    assert found.figures.items() >= f1.figures.items()
    assert tuple(found.figures) == task.figures
    assert (found.per_label, found.positives) == (f1.per_label, f1.positives)


@BOTH
def test_the_start_and_the_prior_stand_beside_the_result(task: Classification) -> None:
    inputs = inputs_of(task)
    labels, mask = inputs.tokens.labels, inputs.tokens.mask
    start = evaluate(inputs)
    other = np.roll(start.decisions, 1, axis=1) if task == SINGLE else ~start.decisions
    end = Evaluation(f1_scores(other, labels, mask, small.LABELS), other)
    compared = task.compare(start, end, inputs.tokens)
    prior = np.tile(task.prior(labels.mean(axis=0, dtype=np.float64)), (len(labels), 1))

    assert compared.before == start.scores
    assert compared.prior == task.scores(prior, inputs.tokens)
    assert compared.prior.figures.items() >= f1_scores(task.decide(prior), labels, mask, small.LABELS).figures.items()
    assert compared.changed == (start.decisions != other).sum() > 0
    assert task.compare(start, start, inputs.tokens).changed == 0


def test_evaluating_changes_nothing() -> None:
    inputs = inputs_of(small.TASK)
    before = {name: tensor.clone() for name, tensor in inputs.classifier.state_dict().items()}
    evaluate(inputs)

    assert small.same(inputs.classifier.state_dict(), before)
    assert all(parameter.grad is None for parameter in inputs.classifier.parameters())
