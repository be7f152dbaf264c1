"""The linear probe: no LoRA, only the head is trained, on the features of the frozen base model.

    head <- sum_i w_i head_i

Travels, up and down: the head, labels (d + 1) numbers.

Exact: the logits are linear in the head, so the mean head gives the mean of the logits.

Under differential privacy: it trains the fewest numbers (except for a small Fed-SB), and the features carry no noise.
At small epsilon that can outweigh what LoRA learns in private steps; docs/utility.md has figures.

One hospital: bit for bit the centralized run with an empty lora.targets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import AveragingStrategy


class Head(AveragingStrategy):
    """The head becomes its weighted mean."""

    needs_lora: ClassVar[bool] = False
    chooses_factors: ClassVar[bool] = True
    offered: ClassVar[bool] = True

    def shape(self, lora: LoRASpec) -> LoRASpec:
        return replace(lora, targets=())
