"""Gradient canaries: records of a shard whose gradient is chosen, so that a white-box adversary sees them best.

Each canary has a trainable number of its own, beside those of the head, and its loss is a multiple of that number. So
its gradient is the strongest there is: all of the clip norm in one coordinate that nobody else uses (the Dirac canary
of Nasr et al. 2023, arXiv 2302.07956). For the training loop these are ordinary reports of an ordinary shard, of two
tokens each, and one more tensor of the head: sampled, clipped together with everything else, noised and charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedrad.data.batches import Indices, Tokenized
from fedrad.model.adapter import SampleLinear
from fedrad.tasks.multi_label import MultiLabel
from fedrad.training.setup import Setup

CANARIES = "head.canaries"
# How much longer than the clip norm a canary's gradient is: clipping must do something, or its absence isn't noticed.
EXCESS = 10.0


class CanaryHead(SampleLinear):
    """A head with m more outputs, which are its trainable numbers ``canaries`` [m], whatever the input."""

    def __init__(self, head: SampleLinear, canaries: int) -> None:
        super().__init__(head.in_features, head.out_features)
        self.weight, self.bias = head.weight, head.bias
        self.canaries = nn.Parameter(torch.zeros(canaries))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), self.canaries.expand(len(x), self.canaries.shape[-1])], dim=1)


@dataclass(frozen=True)
class CanaryTask(MultiLabel):
    """The multi-label task, where labels and mask have one more column: the number of the canary, from 1; 0: a report.

    Attributes:
        norm: of a canary's gradient.
    """

    norm: float = 1.0
    canaries: int = 1

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Of a report as ever; of canary j, ``norm`` times its own output."""
        count, number = len(self.labels), labels[:, -1].long()
        reports = super().losses(outputs[:, :count], labels[:, :count], mask[:, :count])
        own = outputs[:, count:].gather(1, (number - 1).clamp(min=0)[:, None])[:, 0]
        return torch.where(number > 0, self.norm * own, reports)

    def tokenize(
        self, reports: Dataset, rows: Indices, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Tokenized:
        return _with_numbers(super().tokenize(reports, rows, tokenizer, max_length), np.zeros(len(rows)))

    def unlabelled(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Every second one is a canary, so that the pre-flight check sees their tensor move."""
        rows = np.arange(len(ids))
        return _with_numbers(super().unlabelled(ids), np.where(rows % 2, 1 + rows % self.canaries, 0))

    def records(self, numbers: NDArray[np.int64], ids: Sequence[int], patients: NDArray[np.int64]) -> Tokenized:
        """Canaries as records of a shard.

        Args:
            numbers: the canary of each record, counted from 0.
            ids: the text that they all have.
            patients: whose each is.
        """
        blank = replace(super().unlabelled([ids] * len(numbers)), patients=patients)
        return _with_numbers(blank, numbers + 1)


def plant(setup: Setup, task: CanaryTask) -> Setup:
    """The same model with a number for each canary, and the task that trains them. Changes its head."""
    suffix = setup.classifier.suffix
    suffix.head = CanaryHead(cast(SampleLinear, suffix.head), task.canaries)
    return replace(setup, task=task)


def joined(first: Tokenized, second: Tokenized) -> Tokenized:
    """The reports of one behind those of the other; patients of the second are others than those of the first."""
    patients = None
    if first.patients is not None and second.patients is not None:
        patients = np.concatenate([first.patients, second.patients + first.patients.max(initial=-1) + 1])
    return Tokenized(
        ids=np.concatenate([first.ids, second.ids]),
        offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        labels=np.concatenate([first.labels, second.labels]),
        mask=np.concatenate([first.mask, second.mask]),
        patients=patients,
    )


def _with_numbers(tokens: Tokenized, numbers: NDArray[np.generic]) -> Tokenized:
    column = numbers.astype(np.float32)[:, None]
    return replace(
        tokens, labels=np.hstack([tokens.labels, column]), mask=np.hstack([tokens.mask, np.ones_like(column)])
    )
