"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108): BERT's block under other names, without a pooler."""

from __future__ import annotations

from typing import Any

from fedrad.model.block import Block, SelfAttention, mlp
from fedrad.model.families import bert
from fedrad.model.family import Family, Stack


def blocks(layer: Any) -> list[Block]:
    """The one block of a layer."""
    attention, feed = layer.attention, layer.ffn
    return [
        Block(
            SelfAttention(attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin, attention.n_heads),
            mlp(feed.lin1, feed.activation, feed.lin2),
            after_attention=layer.sa_layer_norm,
            after_mlp=layer.output_layer_norm,
        )
    ]


def take_apart(model: Any) -> Stack:
    """The parts of a ``DistilBertModel``."""
    layers = {f"transformer.layer.{i}": layer for i, layer in enumerate(model.transformer.layer)}
    names = {"query": "q_lin", "key": "k_lin", "value": "v_lin"}
    return Stack(model.embeddings, layers, tuple(range(len(layers))), blocks, targets=names)


FAMILY = Family("distilbert", take_apart, bert.FAMILY.tokenizer_files)
