"""BERT (Devlin et al. 2019, arXiv 1810.04805), MiniLM among them."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedrad.model.block import Block, SelfAttention, mlp
from fedrad.model.family import Family, Stack


def blocks(layer: Any) -> list[Block]:
    """The one block of a layer."""
    attention, behind = layer.attention.self, layer.attention.output
    return [
        Block(
            SelfAttention(attention.query, attention.key, attention.value, behind.dense, attention.num_attention_heads),
            mlp(layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense),
            after_attention=behind.LayerNorm,
            after_mlp=layer.output.LayerNorm,
        )
    ]


def stack(model: Any, embed: nn.Module, pooler: nn.Linear | None = None) -> Stack:
    """The parts of a model with BERT's layers."""
    layers = {f"encoder.layer.{i}": layer for i, layer in enumerate(model.encoder.layer)}
    return Stack(embed, layers, tuple(range(len(layers))), blocks, pooler)


def take_apart(model: Any) -> Stack:
    """The parts of a ``BertModel``."""
    return stack(model, model.embeddings, None if model.pooler is None else model.pooler.dense)


FAMILY = Family("bert", take_apart, ("tokenizer.json", "vocab.txt"))
