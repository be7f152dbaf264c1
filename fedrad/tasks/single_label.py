"""Single-label: each report has exactly one class, such as an imaging protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.data.batches import Tokenized
from fedrad.tasks.classification import Classification
from fedrad.tasks.metrics import F1_FIGURES, TOP_3, Scores


@dataclass(frozen=True)
class SingleLabel(Classification):
    """One of L classes for each report."""

    name: ClassVar[str] = "single-label"
    least: ClassVar[int] = 2
    meaning: ClassVar[str] = "one class of several (softmax)"
    expression: ClassVar[str] = "logits.softmax(-1)"
    figures: ClassVar[tuple[str, ...]] = (*F1_FIGURES, TOP_3)

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy."""
        return -(labels * torch.log_softmax(outputs.float(), dim=-1) * mask).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The most probable class."""
        return np.asarray(np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None])

    def scores(self, predictions: NDArray[Any], tokens: Tokenized) -> Scores:
        """F1, of which micro F1 is the share of exact matches, and how often the class is among the three most
        probable."""
        found = super().scores(predictions, tokens)
        labels, _ = self.matrices(tokens)
        three = np.argsort(-np.asarray(predictions), axis=1, kind="stable")[:, :3]
        share = float(np.take_along_axis(labels, three, axis=1).sum(axis=1).mean())
        return replace(found, figures={**found.figures, TOP_3: share})

    def prior(self, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
        """The most frequent class first."""
        return frequencies
