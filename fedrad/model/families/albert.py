"""ALBERT (Lan et al. 2020, arXiv 1909.11942): layers that share weights, and small embeddings."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedrad.model.block import Block, SelfAttention, mlp
from fedrad.model.family import Family, Stack


def blocks(group: Any) -> list[Block]:
    """The blocks of a group of layers. Published checkpoints have one group."""
    return [
        Block(
            SelfAttention(
                layer.attention.query,
                layer.attention.key,
                layer.attention.value,
                layer.attention.dense,
                layer.attention.num_attention_heads,
            ),
            mlp(layer.ffn, layer.activation, layer.ffn_output),
            after_attention=layer.attention.LayerNorm,
            after_mlp=layer.full_layer_layer_norm,
        )
        for layer in group.albert_layers
    ]


def take_apart(model: Any) -> Stack:
    """The parts of an ``AlbertModel``."""
    groups = {f"encoder.albert_layer_groups.{i}": g for i, g in enumerate(model.encoder.albert_layer_groups)}
    count = model.config.num_hidden_layers
    per_group = count / model.config.num_hidden_groups
    embed = nn.Sequential(model.embeddings, model.encoder.embedding_hidden_mapping_in)
    return Stack(embed, groups, tuple(int(i / per_group) for i in range(count)), blocks, model.pooler)


FAMILY = Family("albert", take_apart, ("tokenizer.json", "spiece.model"))
