"""What a task is: all that the rest of fedrad may ask about labels, losses, scores and predictions.

A new task is a file beside ``multi_label.py``, and a line in ``_TASKS``. It brings the meaning of ``Tokenized.labels``
and ``Tokenized.mask``: the other rooms carry these arrays from the corpus to ``Task.losses`` without looking inside.
A causal language model, for instance, puts the token ids of a report's text and answer there, and a mask that is 1 on
the answer; it has no head (``outputs`` is 0), and its predictions are texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from datasets import Dataset, Features
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from fedrad.data.batches import Indices, Tokenized
from fedrad.data.report import is_single_label, label_names
from fedrad.errors import ModelError
from fedrad.model.base import BaseModel
from fedrad.model.encoder import ReportClassifier
from fedrad.tasks.metrics import Comparison, Evaluation
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Task(Protocol):
    """What is predicted, and how it is learnt. Immutable, public, and equal to another of the same name and labels.

    Attributes:
        name: as files and messages say it.
        figures: the names of the figures in its scores. Runs are judged by the first.
        dtype: of a predicted value.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    dtype: ClassVar[DTypeLike]

    def __hash__(self) -> int: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers that a report may have. Server and hospitals must agree on them and their order."""

    @property
    def findings(self) -> tuple[str, ...]:
        """Those of the labels that are 0 or 1 by themselves, so that generated reports can teach them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the K values that are predicted for a report."""

    def outputs(self) -> int:
        """Outputs of the head; 0: the model has none.

        Raises:
            ModelError: labels that no model can tell apart.
        """

    def tokenize(
        self, reports: Dataset, rows: Indices, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Tokenized:
        """These rows of a corpus with their labels, as ``losses`` and ``evaluate`` want them."""

    def made_up(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Texts, given as token ids, with labels that mean nothing: to predict, or for passes that teach nothing."""

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Losses [B], float32, of the model's outputs [B, ...] against labels and mask [B, ...].

        Guarantee: a report's loss is a function of its own row alone (P16).
        """

    def predict(self, model: ReportClassifier, hidden: Tensor, attention: Tensor) -> NDArray[Any]:
        """Predictions [B, K] for what ``model.prefix`` made of B reports."""

    def cell(self, value: Any) -> str:
        """A predicted value as a table shows it."""

    def positives(self, tokens: Tokenized) -> dict[str, int]:
        """For each label, how many reports have it."""

    def evaluate(self, predictions: NDArray[Any], tokens: Tokenized) -> Evaluation:
        """Decides by predictions [n, K], and scores that against the labels of the same n reports."""

    def compare(self, before: Evaluation, after: Evaluation, tokens: Tokenized) -> Comparison:
        """The start and the label prior beside the result, on the test set that both were evaluated on."""

    def export(
        self, model: ReportClassifier, base: BaseModel, directory: Path, *, max_length: int, privacy_statement: str
    ) -> None:
        """Writes the folder that others use without fedrad. It appears whole or not at all.

        Raises:
            ModelError: the directory holds something else, or can't be written.
        """


_TASKS: Mapping[str, Callable[[tuple[str, ...]], Task]] = {
    MultiLabel.name: MultiLabel,
    SingleLabel.name: SingleLabel,
}


def task_named(name: str, labels: Sequence[str]) -> Task:
    """The task that a file names.

    Raises:
        ModelError: there is none of that name.
    """
    if name not in _TASKS:
        raise ModelError(f"there is no task {name!r}, only {', '.join(_TASKS)}: is it of another version of fedrad?")
    return _TASKS[name](tuple(labels))


def task_of(features: Features) -> Task:
    """The task that a corpus with these columns is labelled for."""
    return (SingleLabel if is_single_label(features) else MultiLabel)(label_names(features))
