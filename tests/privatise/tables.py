"""Small tables of embeddings, with a vocabulary of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedrad.privatise.embeddings import Table, make_table


class Numbers:
    """The part of a tokenizer that a table needs; token k is called "k"."""

    is_fast, all_special_ids = True, ()

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [str(k) for k in ids]


def small_table(rows: Sequence[Sequence[float]], coarse: bool = False) -> Table:
    """A table of these embeddings."""
    return make_table("small", Numbers(len(rows)), torch.tensor(rows), coarse)


def random_table(size: int, dimension: int, coarse: bool = False) -> Table:
    """A table of Gaussian embeddings."""
    rows = torch.randn(size, dimension, generator=torch.Generator().manual_seed(0))
    return make_table("random", Numbers(size), rows, coarse)
