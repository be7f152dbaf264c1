"""Gradient canaries: records of a shard whose gradient is chosen, so that a white-box adversary sees them best.

Each canary has a trainable number of its own, beside the head's or a decoder's LoRA, and its loss is a multiple of that
number. So its gradient is the strongest there is: all of the clip norm in one coordinate that nobody else uses (the
Dirac canary of Nasr et al. 2023, arXiv 2302.07956). For the training loop these are ordinary reports of an ordinary
shard, without a text (a decoder reads its prompt and writes an answer as ever), and one more tensor of the adapter:
sampled, clipped together with everything else, noised and charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fedrad.data.batches import Indices, Tokenized
from fedrad.errors import ConfigError
from fedrad.model.layers import Suffix
from fedrad.settings import TEXT
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.classification import Classification
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.task import Task
from fedrad.training.setup import Setup

CANARIES = "head.canaries"
# How much longer than the clip norm a canary's gradient is: clipping must do something, or its absence isn't noticed.
EXCESS = 10.0


class CanarySuffix(Suffix):
    """The upper part with m more outputs, its trainable numbers ``canaries`` [m], whatever the input: [B, L + m], or of
    a decoder [B, M * V + m]."""

    own: ClassVar[tuple[str, ...]] = ("canaries",)

    def __init__(self, suffix: Suffix, canaries: int) -> None:
        super().__init__(suffix.layers, suffix.readout, suffix.head)
        self.canaries = nn.Parameter(torch.zeros(canaries))

    def forward(self, hidden: Tensor, attention: Tensor, wanted: Tensor | None = None) -> Tensor:
        outputs = super().forward(hidden, attention, wanted)
        numbers = self.canaries.expand(len(outputs), -1)  # one row for all, or a sample's own
        return torch.cat([outputs.flatten(1), numbers], dim=1)


@dataclass(frozen=True)
class CanaryTask(Classification):
    """A task whose labels and mask have one more column: the number of the canary, from 1; 0: a report.

    Attributes:
        norm: of a canary's gradient.
    """

    norm: float = 1.0
    canaries: int = 1

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Of a report as ever; of canary j, ``norm`` times its own output."""
        plain, canary = outputs[:, : -self.canaries], labels[:, -1].long()
        reports = super().losses(plain, labels[:, :-1], mask[:, :-1])  # type: ignore[safe-super]  # of the task beside
        own = outputs[:, -self.canaries :].gather(1, (canary - 1).clamp(min=0)[:, None])[:, 0]
        return torch.where(canary > 0, self.norm * own, reports)

    def wanted(self, mask: Tensor) -> Tensor | None:
        return super().wanted(mask[:, :-1])

    def tokenize(
        self, reports: Dataset, rows: Indices, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Tokenized:
        return _with_numbers(super().tokenize(reports, rows, tokenizer, max_length), np.zeros(len(rows)))

    def made_up(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenized:
        """Every second one is a canary, so that the pre-flight check sees their tensor move."""
        rows = np.arange(len(texts))
        numbers = np.where(rows % 2, 1 + rows % self.canaries, 0)
        return _with_numbers(super().made_up(texts, tokenizer, max_length), numbers)

    def records(self, setup: Setup, numbers: NDArray[np.int64], patients: NDArray[np.int64]) -> Tokenized:
        """Canaries as records of a shard.

        Args:
            numbers: the canary of each record, counted from 0.
            patients: whose each is.
        """
        blank = super().made_up([""] * len(numbers), setup.base.tokenizer, setup.max_length)
        return _with_numbers(replace(blank, patients=patients), numbers + 1)


@dataclass(frozen=True)
class CanaryLabels(CanaryTask, MultiLabel):
    """Canaries among reports with labels of 0 and 1."""


@dataclass(frozen=True)
class _Answers(CausalLM):
    """With a decoder's outputs as [B, M * V], beside which canaries have room."""

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        return super().losses(outputs.unflatten(1, (labels.shape[1] - 1, -1)), labels, mask)


@dataclass(frozen=True)
class CanaryAnswers(CanaryTask, _Answers):
    """Canaries among notes whose class a decoder writes."""


def with_canaries(task: Task, norm: float, canaries: int) -> CanaryTask:
    """The task with so many canaries in it.

    Raises:
        ConfigError: a decoder is to learn whole texts; canaries know the answer's loss alone.
    """
    if isinstance(task, CausalLM):
        if task.loss == TEXT:
            raise ConfigError("model.loss: an audit's canaries are for model.loss=answer only")
        return CanaryAnswers(task.labels, instruction=task.instruction, norm=norm, canaries=canaries)
    return CanaryLabels(task.labels, norm=norm, canaries=canaries)


def plant(setup: Setup, task: CanaryTask) -> Setup:
    """The same model with a number for each canary, and the task that trains them. Changes its upper part."""
    setup.classifier.suffix = CanarySuffix(setup.classifier.suffix, task.canaries)
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
    column = numbers.astype(tokens.labels.dtype)[:, None]
    mask = np.ones(column.shape, dtype=np.float32)
    return replace(tokens, labels=np.hstack([tokens.labels, column]), mask=np.hstack([tokens.mask, mask]))
