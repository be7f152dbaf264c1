"""A server's LoRA at a hospital's own rank."""

from __future__ import annotations

from torch import Tensor

from fedrad.errors import ConfigError
from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import Tensors
from strategies.factors import truncated
from strategies.residual import layers_of, lora_of


def resized(state: Tensors, rank: int, lora: LoRASpec) -> dict[str, Tensor]:
    """The state with the best approximation of s B A by factors of this rank under its own scaling alpha / rank.

    Where B is zero, there is nothing to approximate: the first rows of A are as good a start as A is.

    Args:
        lora: the server's rank and alpha.

    Raises:
        ConfigError: the hospital's rank is larger than the server's, whose factors have no more to give.
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
