"""The sizes of a model's trainable parts from its configuration alone: no weights are read, nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import AutoConfig, AutoModel

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec, add_lora
from fedrad.model.base import locate
from fedrad.model.layers import FAMILIES, take_apart


@dataclass(frozen=True)
class Shapes:
    """What an adapter would be put around.

    Attributes:
        hidden: d, what the head reads.
        adapted: (inputs, outputs) of each linear layer that gets an adapter.
    """

    hidden: int
    adapted: tuple[tuple[int, int], ...]


def shapes_of(name: str, revision: str, lora: LoRASpec) -> Shapes:
    """The shapes that ``build`` would meet with this base model.

    Args:
        name: as for ``load_base``; of a hub id only a configuration that is in the cache.

    Raises:
        ModelError: there is no such configuration on this machine, or it has no layers of these names.
    """
    source = locate(name)
    try:
        config = AutoConfig.from_pretrained(
            source, revision=revision or "main", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the configuration of base model {name!r} is not on this machine ({type(error).__name__}), and planning"
            " downloads nothing: name a local folder, or use the model once."
        ) from None
    if config.model_type not in FAMILIES:
        raise ModelError(f"base model {name!r} is a {config.model_type!r} model; supported: {', '.join(FAMILIES)}.")
    with torch.device("meta"):  # shapes without memory
        stack = take_apart(AutoModel.from_config(config))
        if not 0 <= lora.layers <= len(stack.order):
            raise ModelError(f"the last {lora.layers} layers can't be adapted: {name!r} has {len(stack.order)}.")
        names = list(stack.layers)
        chosen = names if stack.shared else names[-lora.layers :]  # names[-0:] is all of them
        adapted = add_lora(
            {layer: stack.layers[layer] for layer in chosen}, replace(lora, init="kaiming"), torch.Generator("cpu")
        )
    sizes = tuple((module.base.in_features, module.base.out_features) for module in adapted.values())
    return Shapes(config.hidden_size, sizes)
