"""Probabilities and scores: of the right report, in the right row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrad.data.batches import collate
from fedrad.tasks.metrics import decide, label_prior_decisions, score
from fedrad.training.evaluation import Evaluation, compare, evaluate, probabilities
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny


def inputs_of(single_label: bool, targets: str = "query,value", micro_tokens: int = 128) -> Inputs:
    setup = set_up(
        small.experiment(lora__targets=targets, train__micro_tokens=micro_tokens), small.LABELS, single_label
    )
    return prepare(tiny.randomise(setup.classifier), small.tokens(25), setup.pad_id)


@pytest.mark.parametrize("single_label", [False, True])
@pytest.mark.parametrize("targets", ["", "query,value"])
@pytest.mark.parametrize("micro_tokens", [1, 100, 10_000])
def test_every_row_is_its_report_s(single_label: bool, targets: str, micro_tokens: int) -> None:
    inputs = inputs_of(single_label, targets, micro_tokens)
    found = probabilities(inputs.classifier, inputs, single_label=single_label)

    assert found.shape == (25, len(small.LABELS))
    assert found.std(axis=0).min() > 1e-3  # rows can be told apart
    for row in range(25):
        batch = collate(inputs.tokens, np.array([row]), inputs.pad_id)
        with torch.no_grad():
            logits = inputs.classifier(batch.ids, batch.attention)[0]
        expected = logits.softmax(-1) if single_label else logits.sigmoid()
        assert np.allclose(found[row], expected.numpy(), atol=1e-5)


def test_classes_sum_to_one() -> None:
    inputs = inputs_of(True)
    found = probabilities(inputs.classifier, inputs, single_label=True)

    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("single_label", [False, True])
def test_scores_are_of_these_probabilities(single_label: bool) -> None:
    inputs = inputs_of(single_label)
    found = probabilities(inputs.classifier, inputs, single_label=single_label)
    expected = score(decide(found, single_label=single_label), inputs.tokens.labels, inputs.tokens.mask, small.LABELS)

    found_scores = evaluate(inputs.classifier, inputs, small.LABELS, single_label=single_label).scores
    assert found_scores == expected


@pytest.mark.parametrize("single_label", [False, True])
def test_the_start_and_the_prior_stand_beside_the_result(single_label: bool) -> None:
    inputs = inputs_of(single_label)
    labels, mask = inputs.tokens.labels, inputs.tokens.mask
    start = evaluate(inputs.classifier, inputs, small.LABELS, single_label=single_label)
    other = ~start.decisions if not single_label else np.roll(start.decisions, 1, axis=1)
    compared = compare(
        start, Evaluation(score(other, labels, mask, small.LABELS), other), inputs, single_label=single_label
    )
    prior = label_prior_decisions(labels.mean(axis=0, dtype=np.float64), len(labels), single_label=single_label)

    assert compared.before == start.scores
    assert compared.prior == score(prior, labels, mask, small.LABELS)
    assert compared.changed == (start.decisions != other).sum() > 0
    assert compare(start, start, inputs, single_label=single_label).changed == 0


def test_evaluating_changes_nothing() -> None:
    inputs = inputs_of(False)
    before = {name: tensor.clone() for name, tensor in inputs.classifier.state_dict().items()}
    evaluate(inputs.classifier, inputs, small.LABELS, single_label=False)

    assert small.same(inputs.classifier.state_dict(), before)
    assert all(parameter.grad is None for parameter in inputs.classifier.parameters())
