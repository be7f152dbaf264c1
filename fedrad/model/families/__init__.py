"""The model families. Every file in this folder defines one as ``FAMILY``; there is no other list."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from fedrad.errors import ModelError
from fedrad.model.family import Family, Stack

_MODULES = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _MODULES}


def family_of(name: str, config: Any) -> Family:
    """The family of a base model.

    Args:
        name: of the base model, for the message.
        config: its transformers configuration.

    Raises:
        ModelError: it belongs to none of ``FAMILIES``, or is a decoder.
    """
    if config.model_type not in FAMILIES:
        raise ModelError(f"base model {name!r} is a {config.model_type!r} model; supported: {', '.join(FAMILIES)}.")
    if config.to_dict().get("is_decoder", False):
        raise ModelError(
            f"base model {name!r} is a decoder (is_decoder in config.json); of its family, only encoders are supported."
        )
    return FAMILIES[config.model_type]


def take_apart(model: Any) -> Stack:
    """The parts of a transformers model of one of ``FAMILIES``."""
    return FAMILIES[model.config.model_type].take_apart(model)
