"""How alike short texts are to the embedded encoder, all-MiniLM-L6-v2: what papers report as semantic similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from fedrad.model.base import load_base
from fedrad.settings import EMBEDDED

_TEXTS = 256  # in a pass


@torch.no_grad()
def embedded(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors [n, 384], as sentence-transformers computes them: the mean over the tokens, normalised."""
    base = load_base(EMBEDDED)
    found = [np.empty((0, base.hidden), dtype=np.float32)]
    for start in range(0, len(texts), _TEXTS):
        part = list(texts[start : start + _TEXTS])
        batch = base.tokenizer(part, padding=True, truncation=True, max_length=base.max_length, return_tensors="pt")
        states = base.module(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        found.append(normalize((states * weight).sum(1) / weight.sum(1), dim=1).numpy())
    return np.concatenate(found)
