"""Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): Llama's layers with biases of queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from fedrad.model.families import llama

FAMILY = replace(llama.FAMILY, name="qwen2")
