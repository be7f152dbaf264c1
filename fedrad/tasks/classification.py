"""The common part of the multi-label and the single-label task: a head with one logit per label, and F1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from datasets import Dataset
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from fedrad.data.batches import Indices, Tokenized, tokenize
from fedrad.errors import ModelError
from fedrad.model.answers import Answers
from fedrad.model.base import BaseModel
from fedrad.model.encoder import ReportClassifier
from fedrad.model.export import export_peft
from fedrad.model.folder import Outputs
from fedrad.tasks.metrics import F1_FIGURES, Comparison, Evaluation, Scores, f1_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Matrices = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Classification(ABC):
    """A ``Task`` with float32 [n, L] labels (1 where positive) and mask (0 where loss and scores leave an entry out).

    Attributes:
        labels: names of the L labels, in the order of the logits.
    """

    labels: tuple[str, ...]

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]] = F1_FIGURES
    dtype: ClassVar[DTypeLike] = np.float32
    least: ClassVar[int] = 1  # number of labels
    meaning: ClassVar[str]  # as in ``folder.Outputs``
    expression: ClassVar[str]

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """As in ``Task``."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities [B, L] of logits [B, L]."""

    @abstractmethod
    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Decisions [n, L]."""

    @abstractmethod
    def prior(self, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
        """The prediction [L] of the label prior, from the frequency of each label."""

    @property
    def findings(self) -> tuple[str, ...]:
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.labels

    def outputs(self) -> int:
        if len(self.labels) < self.least or len(set(self.labels)) < len(self.labels):
            raise ModelError(f"a {self.name} task needs labels with different names, at least {self.least}.")
        return len(self.labels)

    def tokenize(
        self, reports: Dataset, rows: Indices, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Tokenized:
        return tokenize(reports, rows, tokenizer, max_length)

    def answers(self, tokenizer: PreTrainedTokenizerBase) -> Answers | None:
        return None

    def made_up(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenized:
        return self.unlabelled(tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"])

    def unlabelled(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Texts as token ids, with arbitrary labels."""
        rows = np.arange(len(ids))
        labels = np.zeros((len(ids), len(self.labels)), dtype=np.float32)
        labels[rows, rows % len(self.labels)] = 1.0
        return Tokenized.of(ids, labels, np.ones_like(labels))

    def targets(self, ids: Tensor, attention: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return labels, mask

    def wanted(self, mask: Tensor) -> Tensor | None:
        return None

    def predict(
        self, model: ReportClassifier, hidden: Tensor, attention: Tensor, ids: Tensor, mask: Tensor
    ) -> NDArray[np.float32]:
        """Probabilities [B, L]."""
        found: NDArray[np.float32] = self.probabilities(model.suffix(hidden, attention).float()).cpu().numpy()
        return found

    def cell(self, value: Any) -> str:
        return f"{value:.6f}"

    def matrices(self, tokens: Tokenized) -> Matrices:
        """Labels and mask, float32 [n, L]."""
        return tokens.labels, tokens.mask

    def scores(self, predictions: NDArray[Any], tokens: Tokenized) -> Scores:
        """The scores of predictions [n, L]."""
        return f1_scores(self.decide(predictions), *self.matrices(tokens), self.labels)

    def positives(self, tokens: Tokenized) -> dict[str, int]:
        labels, mask = self.matrices(tokens)
        counts = ((labels > 0.5) & (mask > 0)).sum(axis=0)
        return {name: int(count) for name, count in zip(self.labels, counts, strict=True)}

    def evaluate(self, predictions: NDArray[Any], tokens: Tokenized) -> Evaluation:
        return Evaluation(self.scores(predictions, tokens), self.decide(predictions))

    def compare(self, before: Evaluation, after: Evaluation, tokens: Tokenized) -> Comparison:
        labels, mask = self.matrices(tokens)
        prior = np.broadcast_to(self.prior((labels * mask).mean(axis=0, dtype=np.float64)), labels.shape)
        return Comparison(
            before=before.scores,
            prior=self.scores(prior, tokens),
            reports=len(labels),
            changed=int(((before.decisions != after.decisions) & (mask > 0)).sum()),
        )

    def export(
        self, model: ReportClassifier, base: BaseModel, directory: Path, *, max_length: int, privacy_statement: str
    ) -> None:
        outputs = Outputs(self.name, self.labels, self.meaning, self.expression)
        export_peft(model, base, directory, outputs, max_length=max_length, privacy_statement=privacy_statement)
