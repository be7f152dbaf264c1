"""What fedrad must know of a kind of base model to run it, adapt it and check it. ``families/`` has a file for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRALinear, LoRASpec, add_lora
from fedrad.model.block import Block


@dataclass(frozen=True)
class Stack:
    """A model taken apart, in the order in which its own ``forward`` runs the parts.

    Attributes:
        embed: ids [B, T] -> hidden states [B, T, d].
        layers: the distinct layers by their name inside the model, in order of first use.
        order: which of them runs when. Layers that are shared (ALBERT) occur more than once.
        blocks: a layer -> its blocks, in order. Asked in every pass, since LoRA exchanges modules inside a layer.
        pooler: the dense layer of the pretrained pooler (followed by tanh) that the family's stock sequence classifier
            reads, or None where there is none.
        final: the norm behind the last layer, which pre-norm models have.
        targets: what ``query``, ``key`` and ``value`` are called here, where they have other names.
    """

    embed: nn.Module
    layers: Mapping[str, nn.Module]
    order: tuple[int, ...]
    blocks: Callable[[Any], list[Block]]
    pooler: nn.Linear | None = None
    final: nn.Module | None = None
    targets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One value of ``model_type`` in ``config.json``.

    Attributes:
        name: that value.
        take_apart: of the model that ``AutoModel`` makes.
        tokenizer_files: what its tokenizer is read from; any one of them is enough.
        max_length: configuration -> most tokens that it has positions for.
        problem: configuration, tokenizer -> why they do not belong together; empty if they do.
    """

    name: str
    take_apart: Callable[[Any], Stack]
    tokenizer_files: tuple[str, ...]
    max_length: Callable[[Any], int] = lambda config: int(config.max_position_embeddings)
    problem: Callable[[Any, Any], str] = lambda config, tokenizer: ""


def adapt(stack: Stack, lora: LoRASpec, generator: torch.Generator) -> dict[str, LoRALinear]:
    """Puts LoRA into the layers that ``lora`` names, in place; the new modules by their names inside the model.

    Raises:
        ModelError: targets, layers, rank, alpha or init that this model can't have.
    """
    total = len(stack.order)
    if not 0 <= lora.layers <= total:
        raise ModelError(f"the last {lora.layers} layers can't be adapted: the model has {total}; 0 means all.")
    names = list(stack.layers)
    shared = len(names) < total
    chosen = names if shared else names[-lora.layers :]  # names[-0:] is all of them
    own_names = tuple(stack.targets.get(target, target) for target in lora.targets)
    return add_lora({name: stack.layers[name] for name in chosen}, replace(lora, targets=own_names), generator)
