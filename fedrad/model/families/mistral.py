"""Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama's layers; its sliding window bounds the length of a text."""

from __future__ import annotations

from dataclasses import replace

from fedrad.model.families import llama

FAMILY = replace(llama.FAMILY, name="mistral")
