"""Multi-label: each label is present or not, whatever the others are. What chest reports are labelled for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fedrad.tasks.classification import Classification


@dataclass(frozen=True)
class MultiLabel(Classification):
    """L decisions for each report, each by a logit of its own."""

    name: ClassVar[str] = "multi-label"
    meaning: ClassVar[str] = "each label on its own (sigmoid)"
    expression: ClassVar[str] = "logits.sigmoid()"

    @property
    def findings(self) -> tuple[str, ...]:
        return self.labels

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Binary cross-entropy summed over the labels.

        The sum is not divided by the number of unmasked labels: a constant scale keeps the clip norm's meaning the same
        for every report.
        """
        return (binary_cross_entropy_with_logits(outputs.float(), labels, reduction="none") * mask).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Above 1/2. The threshold is fixed: one tuned on private reports would have to be paid for (P23)."""
        return probabilities > 0.5

    def prior(self, frequencies: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Always positive: for F1 the best constant answer (F1 is 2p/(1+p), against 0), so the strictest prior."""
        return np.ones(len(frequencies), dtype=np.bool_)
