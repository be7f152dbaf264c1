"""Predictions and scores on a public or simulated test set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrad.model.buckets import micro_batches
from fedrad.tasks.metrics import Evaluation
from fedrad.training.inputs import Inputs
from fedrad.training.questions import Questions


@torch.no_grad()
def predictions(inputs: Inputs | Questions) -> NDArray[Any]:
    """The current model's predictions for n reports: [n, K], as ``Task.predict`` returns them."""
    model, task = inputs.classifier, inputs.task
    out = np.empty((len(inputs), len(task.columns)), dtype=task.dtype)
    for indices in micro_batches(inputs.lengths, np.arange(len(inputs)), model.kernels.micro_tokens):
        batch = inputs.batch(indices)
        with model.arithmetic():
            out[indices] = task.predict(model, batch.hidden, batch.attention, batch.ids, batch.mask)
    return out


def evaluate(inputs: Inputs | Questions) -> Evaluation:
    """Evaluates the current model on these reports."""
    return inputs.task.evaluate(predictions(inputs), inputs.tokens)
