"""Qwen3 (Yang et al. 2025, arXiv 2505.09388): Llama's layers with a norm of queries and keys in each head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedrad.model.families import llama
from fedrad.model.family import Stack


def norms(part: Any) -> tuple[Any, Any]:
    """Those of queries and keys."""
    return part.q_norm, part.k_norm


def take_apart(model: Any) -> Stack:
    """The parts of a ``Qwen3ForCausalLM``."""
    return llama.take_apart(model, norms)


FAMILY = replace(llama.FAMILY, name="qwen3", take_apart=take_apart)
