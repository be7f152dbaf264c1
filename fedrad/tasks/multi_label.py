"""Multi-label: each label is present or not, independently of the others, as in chest reports."""

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
    """L binary decisions for each report, one per logit."""

    name: ClassVar[str] = "multi-label"
    meaning: ClassVar[str] = "each label on its own (sigmoid)"
    expression: ClassVar[str] = "logits.sigmoid()"

    @property
    def findings(self) -> tuple[str, ...]:
        return self.labels

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Binary cross-entropy summed over the labels.

        The sum is not divided by the number of unmasked labels, so that the clip norm means the same for every report.
        """
        return (binary_cross_entropy_with_logits(outputs.float(), labels, reduction="none") * mask).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Above 1/2. A threshold tuned on private reports would cost privacy (P23)."""
        return probabilities > 0.5

    def prior(self, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Always positive: the constant answer with the best F1, 2p/(1+p)."""
        return np.ones(len(frequencies))
