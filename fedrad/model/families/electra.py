"""ELECTRA (Clark et al. 2020, arXiv 2003.10555): BERT with small embeddings, without a pooler."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedrad.model.families import bert
from fedrad.model.family import Family, Stack


def take_apart(model: Any) -> Stack:
    """The parts of an ``ElectraModel``. Its stock classifiers train a dense layer of their own."""
    embed = model.embeddings
    if model.config.embedding_size != model.config.hidden_size:
        embed = nn.Sequential(embed, model.embeddings_project)
    return bert.stack(model, embed)


FAMILY = Family("electra", take_apart, bert.FAMILY.tokenizer_files)
