"""What strategies with different ranks at different hospitals have in common (FlexLoRA, FLoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fedrad.errors import ConfigError
from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import Contribution, Round, Strategy, Tensors, weighted_mean
from strategies.factors import truncated
from strategies.residual import layers_of, lora_of


class MixedRanks(Strategy):
    """Hospitals may have different ranks, and get the state at their own."""

    chooses_factors: ClassVar[bool] = True
    mixed_ranks: ClassVar[bool] = True
    keeps_moments: ClassVar[bool] = False
    keeps_average: bool = False

    def for_rank(self, state: Tensors, rank: int, round: Round) -> dict[str, Tensor]:
        return resized(state, rank, round.lora)


def with_mean_head(state: Tensors, sent: Sequence[Contribution]) -> dict[str, Tensor]:
    """The state with the weighted mean of the heads. LoRA stays as it is."""
    heads = [{name: c.adapter[name] for name in c.adapter if ".lora_" not in name} for c in sent]
    return {**state, **weighted_mean(heads, [c.weight for c in sent])}


def resized(state: Tensors, rank: int, lora: LoRASpec) -> dict[str, Tensor]:
    """The state with the best approximation of s B A by factors of this rank, with the scaling alpha / rank.

    If B is zero there is nothing to approximate, and the first rows of A are as good a start as A itself.

    Args:
        lora: the server's rank and alpha.

    Raises:
        ConfigError: the hospital's rank is larger than the server's.
    """
    if rank == lora.rank:
        return dict(state)
    if rank > lora.rank:
        raise ConfigError(
            f"lora.rank: {lora.rank} at the server is less than a hospital's rank {rank}; set it to {rank}"
        )
    small = dict(state)
    for layer in layers_of(state):
        product = lora_of(state, layer)
        if product.B.any():
            # (alpha / rank) B' A' = (alpha / lora.rank) B A, so B' A' is B A divided by lora.rank / rank.
            B, A = truncated(product, rank, lora.rank / rank)
        else:
            B, A = product.B[:, :rank].contiguous(), product.A[:rank].contiguous()
        small[f"{layer}.lora_A"], small[f"{layer}.lora_B"] = A, B
    return small
