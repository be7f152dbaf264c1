"""Tokens and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from fedrad.data.report import arrow_column, label_matrix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Indices = NDArray[np.int64]

_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True)
class Tokenized:
    """n reports as token ids, concatenated.

    Attributes:
        ids: int32 [sum of lengths].
        offsets: int64 [n + 1]; report i is ``ids[offsets[i]:offsets[i + 1]]``.
        labels: [n, ...], defined by the task; for binary labels float32 [n, L], 1 where positive.
        mask: of the same shape, 0 where an entry is left out of loss and score.
        patients: int64 [n], equal for reports of one patient; as private as the reports. None if unknown, which rules
            out patient-level privacy.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    mask: NDArray[np.float32]
    patients: Indices | None = None

    @staticmethod
    def of(
        ids: Iterable[Sequence[int] | NDArray[np.int32]],
        labels: NDArray[Any],
        mask: NDArray[np.float32],
        patients: Indices | None = None,
    ) -> Tokenized:
        """From the token ids of each report."""
        pieces = [np.asarray(piece, dtype=np.int32) for piece in ids]
        return Tokenized(
            ids=np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32),
            offsets=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
            labels=labels,
            mask=mask,
            patients=patients,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each report, int64 [n]."""
        return np.diff(self.offsets)

    def select(self, indices: Indices) -> Tokenized:
        """The reports ``indices``, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return Tokenized.of(
            [self.ids[self.offsets[i] : self.offsets[i + 1]] for i in indices],
            labels=self.labels[indices],
            mask=self.mask[indices],
            patients=None if self.patients is None else self.patients[indices],
        )


class Batch(NamedTuple):
    """b reports padded to the longest, T tokens: ids, attention int64 [b, T]; labels, mask [b, ...]."""

    ids: Tensor
    attention: Tensor
    labels: Tensor
    mask: Tensor


def tokenize(ds: Dataset, indices: Indices, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenized:
    """The rows ``indices`` of a corpus as tokens, with special tokens, cut to ``max_length``.

    Texts are read in chunks; only the tokens (4 bytes each) stay in memory.
    """
    rows = ds.select(np.asarray(indices, dtype=np.int64))
    matrix = label_matrix(rows)
    pieces: list[NDArray[np.int32]] = []
    for chunk in rows.select_columns(["text"]).iter(batch_size=_TEXTS_AT_ONCE):
        encoded = tokenizer(
            chunk["text"],
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        pieces.extend(np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"])
    return Tokenized.of(
        pieces,
        labels=(matrix == 1).astype(np.float32),
        mask=(matrix != -1).astype(np.float32),
        patients=patient_numbers(rows),
    )


def patient_numbers(rows: Dataset) -> Indices:
    """Arbitrary numbers, int64 [n], equal for the rows of one patient."""
    return np.asarray(arrow_column(rows, "patient").dictionary_encode().indices).astype(np.int64)


def collate(tok: Tokenized, indices: Indices, pad_id: int, at_least: int = 1) -> Batch:
    """The reports ``indices`` as one batch, padded to the longest of them, or to ``at_least`` tokens."""
    indices = np.asarray(indices, dtype=np.int64)
    lengths = tok.lengths[indices]
    width = int(lengths.max(initial=at_least))
    attention = np.arange(width)[None, :] < lengths[:, None]
    ids = np.full((len(indices), width), pad_id, dtype=np.int64)
    for row, i in enumerate(indices):
        ids[row, : lengths[row]] = tok.ids[tok.offsets[i] : tok.offsets[i + 1]]
    return Batch(
        ids=torch.from_numpy(ids),
        attention=torch.from_numpy(attention.astype(np.int64)),
        labels=torch.from_numpy(tok.labels[indices]),
        mask=torch.from_numpy(tok.mask[indices]),
    )
