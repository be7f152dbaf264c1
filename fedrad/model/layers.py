"""The parts that a report walks through: embeddings, encoder layers, pooling, head.

The layers are those of transformers, run by our own loop (``block.py``), so that the encoder can be cut in two: a
frozen lower part that is run once per report, and an upper part that is run in every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedrad.errors import ModelError
from fedrad.model.adapter import SampleLinear
from fedrad.model.block import blocks_of, run_block, run_block_first_token

FAMILIES = ("bert", "albert", "roberta", "distilbert")


@dataclass(frozen=True)
class Stack:
    """An encoder taken apart.

    Attributes:
        family: ``config.model_type``.
        embed: ids [B, T] -> hidden states [B, T, d].
        layers: the distinct layers by their name inside the encoder, in order of first use.
        order: which of them runs when. Layers that are shared (ALBERT) occur more than once.
        pooler: the dense layer of the pretrained pooler (followed by tanh) that the family's stock sequence classifier
            reads, or None where there is none.
    """

    family: str
    embed: nn.Module
    layers: dict[str, nn.Module]
    order: tuple[int, ...]
    pooler: nn.Linear | None

    @property
    def shared(self) -> bool:
        """Whether some layer is used more than once."""
        return len(set(self.order)) < len(self.order)


def take_apart(encoder: Any) -> Stack:
    """The parts of a transformers encoder, in the order in which its own ``forward`` runs them.

    Raises:
        ModelError: the family is none of ``FAMILIES``.
    """
    config = encoder.config
    match config.model_type:
        case "bert" | "roberta":
            # Stock RoBERTa classifiers train a dense layer of their own and ignore the pretrained pooler.
            pooler = encoder.pooler.dense if config.model_type == "bert" and encoder.pooler is not None else None
            layers = {f"encoder.layer.{i}": layer for i, layer in enumerate(encoder.encoder.layer)}
            return Stack(config.model_type, encoder.embeddings, layers, tuple(range(len(layers))), pooler)
        case "distilbert":
            layers = {f"transformer.layer.{i}": layer for i, layer in enumerate(encoder.transformer.layer)}
            return Stack(config.model_type, encoder.embeddings, layers, tuple(range(len(layers))), None)
        case "albert":
            groups = encoder.encoder.albert_layer_groups
            layers = {f"encoder.albert_layer_groups.{i}": group for i, group in enumerate(groups)}
            per_group = config.num_hidden_layers / config.num_hidden_groups
            order = tuple(int(i / per_group) for i in range(config.num_hidden_layers))
            embed = nn.Sequential(encoder.embeddings, encoder.encoder.embedding_hidden_mapping_in)
            return Stack(config.model_type, embed, layers, order, encoder.pooler)
        case other:
            raise ModelError(f"model type {other!r} is not supported; supported: {', '.join(FAMILIES)}.")


class Layers(nn.Module):
    """Some consecutive encoder layers: hidden [B, T, d], attention [B, T] -> hidden [B, T, d].

    Attributes:
        first_token_only: the last layer computes the first token and nothing else: -> [B, 1, d].
        eager_up_to: attention runs by plain matrix products for up to so many tokens, by torch's fused kernel above.
    """

    def __init__(
        self,
        family: str,
        layers: Iterable[nn.Module],
        order: tuple[int, ...],
        *,
        first_token_only: bool,
        eager_up_to: int,
    ) -> None:
        super().__init__()
        self.family = family
        self.layers = nn.ModuleList(layers)
        self.order = order
        self.first_token_only = first_token_only
        self.eager_up_to = eager_up_to

    def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
        blocks = [block for index in self.order for block in blocks_of(self.family, self.layers[index])]
        if not blocks:
            return hidden
        hidden = hidden.to(blocks[0].norm_output.weight.dtype)
        mask = (1 - attention[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        eager = hidden.shape[1] <= self.eager_up_to
        for block in blocks[:-1]:
            hidden = run_block(block, hidden, mask, eager=eager)
        if self.first_token_only:
            return run_block_first_token(blocks[-1], hidden, mask)
        return run_block(blocks[-1], hidden, mask, eager=eager)


class Readout(nn.Module):
    """Hidden states [B, T, d] -> features [B, k]: ``(pooled - centre) @ basis.T``, or ``(pooled - centre) * scale``
    with k = d where there is no basis.

    ``centre`` and ``scale`` [d] and ``basis`` [k, d] are constants that come from public text only. Without ``pooler``
    the pooled vector is the mean over the tokens that are not padding; with it, tanh(pooler(first token)), as in Devlin
    et al. 2019.
    """

    centre: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, pooler: nn.Linear | None, hidden_size: int, directions: int = 0) -> None:
        super().__init__()
        self.pooler = pooler
        self.directions = directions
        self.register_buffer("centre", torch.zeros(hidden_size))
        if directions:
            self.register_buffer("basis", torch.eye(directions, hidden_size))
        else:
            self.register_buffer("scale", torch.ones(hidden_size))

    def constants(self) -> dict[str, Tensor]:
        """The public constants by name."""
        return (
            {"centre": self.centre, "basis": self.basis}
            if self.directions
            else {"centre": self.centre, "scale": self.scale}
        )

    def pool(self, hidden: Tensor, attention: Tensor) -> Tensor:
        """The pooled vector [B, d], neither centred nor scaled; float32 also under autocast."""
        dtype = self.centre.dtype
        if self.pooler is not None:
            return torch.tanh(self.pooler(hidden[:, 0].to(self.pooler.weight.dtype))).to(dtype)
        weight = attention.unsqueeze(-1).to(dtype)
        return (hidden.to(dtype) * weight).sum(1) / weight.sum(1).clamp(min=1.0)

    def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
        centred = self.pool(hidden, attention) - self.centre
        return linear(centred, self.basis) if self.directions else centred * self.scale


class Prefix(nn.Module):
    """Everything below the lowest adapted layer; never differentiated.

    ids [B, T], attention [B, T] -> hidden states [B, T, d]; with ``readout`` (head-only training): features [B, k].
    """

    def __init__(self, embed: nn.Module, layers: Layers, readout: Readout | None) -> None:
        super().__init__()
        self.embed = embed
        self.layers = layers
        self.readout = readout

    @torch.no_grad()
    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        hidden: Tensor = self.layers(self.embed(ids), attention)
        return hidden if self.readout is None else self.readout(hidden, attention)


class Suffix(nn.Module):
    """All that is trained, and the frozen layers between: what ``Prefix`` gave, attention [B, T] -> logits [B, L]."""

    def __init__(self, layers: Layers, readout: Readout | None, head: SampleLinear) -> None:
        super().__init__()
        self.layers = layers
        self.readout = readout
        self.head = head

    def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
        features = hidden if self.readout is None else self.readout(self.layers(hidden, attention), attention)
        logits: Tensor = self.head(features)
        return logits.to(self.head.weight.dtype)
