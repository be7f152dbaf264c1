"""Fed-SB: only the core R of B R A is trained (Singhal et al. 2025, arXiv 2502.15436).

    A, B: frozen, orthonormal, the same for all        R <- sum_i w_i R_i        head <- sum_i w_i head_i

Travels, up and down: R, r^2 numbers a layer whatever its width, and the head.

Exact: B R A is linear in R, so sum_i w_i B R_i A = B (sum_i w_i R_i) A. The price is that LoRA stays in a subspace
that is chosen before training. The authors take it from gradients of private data, which would cost privacy. Here it is
public: random, or the largest singular vectors of the frozen weights (``strategy.subspace``).

Under differential privacy: the noise is linear, and its norm grows with r instead of the square root of the width.
Noise in the main directions of the weights does most harm (docs/strategies.md), so random directions are the default.

One hospital: bit for bit the centralized run that trains R and the head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import AveragingStrategy, Tensors
from strategies.residual import layers_of, lora_of


class FedSB(AveragingStrategy):
    """R and the head become their weighted means; A and B are frozen."""

    chooses_factors: ClassVar[bool] = True
    offered: ClassVar[bool] = True

    def shape(self, lora: LoRASpec) -> LoRASpec:
        return replace(lora, core=True, init="base" if self.settings.subspace == "base" else "orthonormal")

    def export(self, state: Tensors, lora: LoRASpec) -> tuple[dict[str, Tensor], LoRASpec]:
        """Plain LoRA of the same rank and scaling, with B R in place of B."""
        plain = {name: tensor for name, tensor in state.items() if not name.endswith(".lora_R")}
        for layer in layers_of(state):
            B, core = lora_of(state, layer).B, state[f"{layer}.lora_R"]
            plain[f"{layer}.lora_B"] = (B.double() @ core.double()).float()
        return plain, replace(lora, core=False, init="kaiming")
