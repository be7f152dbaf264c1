"""RoBERTa (Liu et al. 2019, arXiv 1907.11692): BERT with other positions and a byte-level vocabulary."""

from __future__ import annotations

import json
from typing import Any

from fedrad.model.families import bert
from fedrad.model.family import Family, Stack


def take_apart(model: Any) -> Stack:
    """The parts of a ``RobertaModel``. Its stock classifiers train a dense layer of their own and read no pooler."""
    return bert.stack(model, model.embeddings)


def max_length(config: Any) -> int:
    """Positions are counted from padding id + 1."""
    return int(config.max_position_embeddings - config.pad_token_id - 1)


def problem(config: Any, tokenizer: Any) -> str:
    """Another padding id would shift every position."""
    if config.pad_token_id == tokenizer.pad_token_id:
        return ""
    return (
        f"pad_token_id is {json.dumps(config.pad_token_id)} in config.json, and its tokenizer pads with"
        f" {tokenizer.pad_token_id}. RoBERTa counts positions from that id: put the one that the model was pretrained"
        " with in both."
    )


FILES = ("tokenizer.json", "vocab.json with merges.txt")
FAMILY = Family("roberta", take_apart, FILES, max_length, problem)
