"""FLoRA: the hospitals' factors are stacked and go into the base (Wang et al. 2024, arXiv 2409.05976).

    W0 <- W0 + [w_1 s_1 B_1, ..., w_n s_n B_n] [A_1; ...; A_n]        s_i = alpha / r_i
    A <- drawn anew from train.seed and the round        B <- 0        head <- sum_i w_i head_i

The weights go into one factor; in both they would be squared. Hospitals may have different ranks.

Travels up: A, B and the head, r_i (in + out) numbers a layer. Down: the stack, sum_i r_i (in + out) numbers, the new A,
r_i in, and the head; stacks of many rounds are recompressed (``strategies.residual``).

Exact: the base gets the mean of the products, up to float32 rounding.

Under differential privacy: as in FedEx, exactness keeps the quadratic part of the noise, divided by n only, in the
frozen weights. Each round starts from B = 0, so the directions that A has learnt are lost, and the momentum with them.

One hospital: the model's function is preserved up to rounding, but the factors move into the base and A is drawn anew,
so no run that keeps its factors can have the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedrad.model.adapter import LoRASpec
from fedrad.privacy.randomness import Stream
from fedrad.training.strategy import Contribution, Round, Tensors
from strategies.factors import combined
from strategies.mixed_ranks import MixedRanks, with_mean_head
from strategies.residual import as_plain_lora, layers_of, lora_of, with_residual


class FLoRA(MixedRanks):
    """The mean of the products goes into the base, and LoRA restarts."""

    def aggregate(self, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
        new = with_mean_head(state, sent)
        scaled = [c.weight * round.lora.alpha / c.rank for c in sent]
        for layer in layers_of(state):
            stack = combined([lora_of(c.adapter, layer) for c in sent], scaled)
            B, A = lora_of(state, layer)
            new = with_residual(new, layer, stack, round.number)
            new[f"{layer}.lora_A"] = fresh_a(round.seed, round.number, layer, round.lora.rank, A.shape[1])
            new[f"{layer}.lora_B"] = torch.zeros_like(B)
        return new

    def export(self, state: Tensors, lora: LoRASpec) -> tuple[dict[str, Tensor], LoRASpec]:
        """The base residual folded into LoRA of higher rank."""
        return as_plain_lora(state, lora)


def fresh_a(seed: int, round: int, layer: str, rank: int, inputs: int) -> Tensor:
    """A new A [rank, inputs], the same for all: uniform in +-1/sqrt(inputs), as PEFT initialises it."""
    uniform = torch.from_numpy(Stream.seeded(seed, "flora", round, layer).uniform(rank * inputs))
    return ((2 * uniform - 1) / math.sqrt(inputs)).float().reshape(rank, inputs)
