"""Single-label: each report has exactly one class, such as an imaging protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.tasks.classification import Classification


@dataclass(frozen=True)
class SingleLabel(Classification):
    """One of L classes for each report."""

    name: ClassVar[str] = "single-label"
    least: ClassVar[int] = 2
    meaning: ClassVar[str] = "one class of several (softmax)"
    expression: ClassVar[str] = "logits.softmax(-1)"

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy."""
        return -(labels * torch.log_softmax(outputs.float(), dim=-1) * mask).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The most probable class."""
        return np.asarray(np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None])

    def prior(self, frequencies: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The most frequent class."""
        return np.asarray(np.arange(len(frequencies)) == int(frequencies.argmax()))
