"""The sizes of a model's trainable parts, from its configuration. Reads no weights and downloads nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import AutoConfig

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import locate
from fedrad.model.families import family_of
from fedrad.model.family import adapt


@dataclass(frozen=True)
class Shapes:
    """Sizes that decide the size of an adapter.

    Attributes:
        hidden: d, the width of a hidden state.
        adapted: (inputs, outputs) of each linear layer that gets an adapter.
    """

    hidden: int
    adapted: tuple[tuple[int, int], ...]


def shapes_of(name: str, revision: str, lora: LoRASpec) -> Shapes:
    """The shapes that ``build`` would use with this base model.

    Args:
        name: as for ``load_base``; the configuration of a hub id must be in the cache.

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
    family = family_of(name, config)
    with torch.device("meta"):  # shapes without memory
        stack = family.take_apart(family.auto.from_config(config))
        adapted = adapt(stack, replace(lora, init="kaiming"), torch.Generator("cpu"))
    sizes = tuple((module.base.in_features, module.base.out_features) for module in adapted.values())
    return Shapes(config.hidden_size, sizes)
