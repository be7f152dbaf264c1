"""FFA-LoRA: A is frozen (Sun et al. 2024, arXiv 2403.12313), here with orthonormal rows.

    A = A_0, drawn from train.seed at every hospital        B <- sum_i w_i B_i        head <- sum_i w_i head_i

Travels, up and down: B, r out numbers a layer, and the head.

Exact: with one A for all, sum_i w_i B_i A = (sum_i w_i B_i) A. The price is that LoRA stays in the row space of A_0.

Under differential privacy: the noise in the product is linear, with energy out s^2 |A_0|^2 / n for noise of variance
s^2 in each number, and only half as many numbers carry noise. Orthogonal rows of A_0 spread it evenly over the r
directions.

One hospital: bit for bit the centralized run that trains B and the head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import AveragingStrategy


class FFA(AveragingStrategy):
    """B and the head become their weighted means; A is frozen."""

    offered: ClassVar[bool] = True

    def shape(self, lora: LoRASpec) -> LoRASpec:
        return replace(lora, freeze_a=True, init="orthonormal")
