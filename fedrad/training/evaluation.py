"""Probabilities and scores on a public or simulated test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrad.model.buckets import micro_batches
from fedrad.model.encoder import ReportClassifier
from fedrad.tasks.metrics import Comparison, Scores, decide, label_prior_decisions, score
from fedrad.training.inputs import Inputs


@torch.no_grad()
def probabilities(classifier: ReportClassifier, inputs: Inputs, *, single_label: bool) -> NDArray[np.float32]:
    """Probabilities [n, L]: a sigmoid for each label, or a softmax over the classes."""
    out = np.empty((len(inputs), inputs.tokens.labels.shape[1]), dtype=np.float32)
    for indices in micro_batches(inputs.lengths, np.arange(len(inputs)), classifier.kernels.micro_tokens):
        batch = inputs.batch(indices)
        with classifier.arithmetic():
            logits = classifier.suffix(batch.hidden, batch.attention).float()
        out[indices] = (torch.softmax(logits, dim=-1) if single_label else torch.sigmoid(logits)).cpu().numpy()
    return out


@dataclass(frozen=True)
class Evaluation:
    """What a classifier decides on a test set, bool [n, L], and how that scores."""

    scores: Scores
    decisions: NDArray[np.bool_]


def evaluate(classifier: ReportClassifier, inputs: Inputs, names: Sequence[str], *, single_label: bool) -> Evaluation:
    """The classifier, as it stands, on these reports."""
    decided = decide(probabilities(classifier, inputs, single_label=single_label), single_label=single_label)
    return Evaluation(score(decided, inputs.tokens.labels, inputs.tokens.mask, names), decided)


def compare(before: Evaluation, after: Evaluation, inputs: Inputs, *, single_label: bool) -> Comparison:
    """The start and the label prior beside the result, on the test set that both were evaluated on."""
    labels, mask = inputs.tokens.labels, inputs.tokens.mask
    frequencies = (labels * mask).mean(axis=0, dtype=np.float64)
    prior = label_prior_decisions(frequencies, len(labels), single_label=single_label)
    return Comparison(
        before=before.scores,
        prior=score(prior, labels, mask, list(after.scores.per_label)),
        reports=len(labels),
        changed=int(((before.decisions != after.decisions) & (mask > 0)).sum()),
    )
