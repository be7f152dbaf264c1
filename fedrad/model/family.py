"""What fedrad needs to know about a model family. ``families/`` has a file for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRALinear, LoRASpec, add_lora
from fedrad.model.block import Block


@dataclass(frozen=True)
class Stack:
    """The parts of a model, in the order in which its ``forward`` runs them.

    Attributes:
        embed: ids [B, T] -> hidden states [B, T, d].
        layers: the distinct layers by their name inside the model, in order of first use.
        order: indices into ``layers``, in the order of the pass. Shared layers (ALBERT) occur more than once.
        blocks: a layer -> its blocks, in order. Called in every pass, since LoRA replaces modules inside a layer.
        pooler: the dense layer (followed by tanh) of the pretrained pooler that the family's stock sequence classifier
            reads, or None.
        final: the norm behind the last layer of a pre-norm model.
        targets: this family's names of ``query``, ``key`` and ``value``, if they differ.
        vocabulary: of a decoder: final hidden states [..., d] -> a logit for each token [..., V]. A token of a decoder
            attends only to those before it.
    """

    embed: nn.Module
    layers: Mapping[str, nn.Module]
    order: tuple[int, ...]
    blocks: Callable[[Any], list[Block]]
    pooler: nn.Linear | None = None
    final: nn.Module | None = None
    targets: Mapping[str, str] = field(default_factory=dict)
    vocabulary: nn.Linear | None = None


@dataclass(frozen=True)
class Family:
    """One value of ``model_type`` in ``config.json``.

    Attributes:
        name: that value.
        take_apart: model as ``auto`` makes it -> its parts.
        tokenizer_files: files of its tokenizer; any one of them is enough.
        max_length: configuration -> number of positions.
        problem: configuration, tokenizer -> why they do not fit together; empty if they do.
        causal: it is a decoder, which predicts the next token.
    """

    name: str
    take_apart: Callable[[Any], Stack]
    tokenizer_files: tuple[str, ...]
    max_length: Callable[[Any], int] = lambda config: int(config.max_position_embeddings)
    problem: Callable[[Any, Any], str] = lambda config, tokenizer: ""
    causal: bool = False

    @property
    def auto(self) -> Any:
        """The class of transformers that makes its models."""
        return AutoModelForCausalLM if self.causal else AutoModel


def adapt(stack: Stack, lora: LoRASpec, generator: torch.Generator) -> dict[str, LoRALinear]:
    """Puts LoRA into the layers that ``lora`` names, in place. Returns the new modules by their names in the model.

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
