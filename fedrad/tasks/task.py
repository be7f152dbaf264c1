"""The interface of a task: labels, losses, scores and predictions.

A new task is a file beside ``multi_label.py``, and a line in ``_TASKS``. It defines the meaning of ``Tokenized.labels``
and ``Tokenized.mask``; other packages pass these arrays from the corpus to ``Task.losses`` unread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from datasets import Dataset, Features
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from fedrad.data.batches import Indices, Tokenized
from fedrad.data.report import is_single_label, label_names
from fedrad.errors import ModelError
from fedrad.model.answers import Answers
from fedrad.model.base import BaseModel
from fedrad.model.encoder import ReportClassifier
from fedrad.settings import ANSWER
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.metrics import Comparison, Evaluation
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Task(Protocol):
    """What is predicted, and how it is learnt. Immutable and public; tasks with the same name and labels are equal.

    Attributes:
        name: in files and messages.
        figures: names of the figures in its scores. The first is the main one.
        dtype: of a predicted value.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    dtype: ClassVar[DTypeLike]

    def __hash__(self) -> int: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The possible answers. Server and hospitals must agree on them and their order."""

    @property
    def findings(self) -> tuple[str, ...]:
        """The labels that are independently 0 or 1, so that generated reports can teach them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the K values that are predicted for a report."""

    def outputs(self) -> int:
        """Number of outputs of the head; 0 if there is no head.

        Raises:
            ModelError: too few labels, or two of the same name.
        """

    def tokenize(
        self, reports: Dataset, rows: Indices, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Tokenized:
        """These rows of a corpus with their labels, as ``losses`` and ``evaluate`` need them."""

    def answers(self, tokenizer: PreTrainedTokenizerBase) -> Answers | None:
        """What a decoder chooses from; None for a task with a head.

        Raises:
            ModelError: two labels that are the same to the tokenizer.
        """

    def made_up(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenized:
        """Texts with arbitrary labels: for prediction, and for passes that train nothing. Not text by text as token
        ids, since a task may put more around a text than the tokenizer does."""

    def targets(self, ids: Tensor, attention: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and mask [B, ...] as ``losses`` and ``wanted`` read them: those given or, of a decoder that learns
        whole texts, their tokens: ids and attention [B, T]."""

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Losses [B], float32, of the model's outputs [B, ...] against ``targets`` [B, ...].

        Guarantee: a report's loss is a function of its own row alone (P16).
        """

    def wanted(self, mask: Tensor) -> Tensor | None:
        """Of a decoder's outputs [B, M, V], those that the losses read: [B, M], else 0. None: all outputs."""

    def predict(
        self, model: ReportClassifier, hidden: Tensor, attention: Tensor, ids: Tensor, mask: Tensor
    ) -> NDArray[Any]:
        """Predictions [B, K] for B reports.

        Args:
            hidden: output of ``model.prefix``. A head needs nothing else.
            ids, mask: token ids [B, T] and mask [B, ...]. A decoder needs them, because its answers are more tokens,
                which the lower layers have not seen.
        """

    def cell(self, value: Any) -> str:
        """A predicted value as text for a table."""

    def matrices(self, tokens: Tokenized) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Labels and mask, [n, L] each, for ``run.predictions``."""

    def positives(self, tokens: Tokenized) -> dict[str, int]:
        """For each label, how many reports have it."""

    def evaluate(self, predictions: NDArray[Any], tokens: Tokenized) -> Evaluation:
        """Decisions from predictions [n, K], scored against the labels of the same n reports."""

    def compare(self, before: Evaluation, after: Evaluation, tokens: Tokenized) -> Comparison:
        """Compares the result with the initial model and the label prior, on the same test set."""

    def export(
        self, model: ReportClassifier, base: BaseModel, directory: Path, *, max_length: int, privacy_statement: str
    ) -> None:
        """Writes the adapter folder; see ``model.export.export_peft``."""


_TASKS: Mapping[str, Callable[[tuple[str, ...]], Task]] = {
    MultiLabel.name: MultiLabel,
    SingleLabel.name: SingleLabel,
    CausalLM.name: CausalLM,
}


def task_named(name: str, labels: Sequence[str], instruction: str = "") -> Task:
    """The task of that name, with the instruction of one that has any. Raises ModelError if there is none."""
    if name not in _TASKS:
        raise ModelError(f"there is no task {name!r}, only {', '.join(_TASKS)}: is it of another version of fedrad?")
    task = _TASKS[name](tuple(labels))
    return replace(task, instruction=instruction) if isinstance(task, CausalLM) else task


def task_of(features: Features, *, causal: bool = False, instruction: str = "", loss: str = ANSWER) -> Task:
    """The task of a corpus with these columns.

    Args:
        causal: a decoder writes the label.
        instruction: what it reads before a note.
        loss: what it learns of a text.

    Raises:
        ModelError: ``causal``, and a report has not exactly one class.
    """
    single = is_single_label(features)
    if not causal:
        return (SingleLabel if single else MultiLabel)(label_names(features))
    if not single:
        raise ModelError(
            "model.task=causal-lm needs reports with one class each, as one column of class names; these have labels"
            " of 0 and 1."
        )
    return CausalLM(label_names(features), instruction, loss)
