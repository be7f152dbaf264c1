"""Causal language model: a decoder reads an instruction and a note, and writes the label."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedrad.data.batches import Indices, Tokenized, patient_numbers
from fedrad.data.report import label_matrix
from fedrad.errors import ModelError
from fedrad.model.answers import Answers, prompt_around
from fedrad.model.base import BaseModel
from fedrad.model.encoder import ReportClassifier
from fedrad.model.export import export_peft
from fedrad.model.folder import Outputs
from fedrad.settings import ANSWER, TEXT
from fedrad.tasks.classification import Matrices
from fedrad.tasks.single_label import SingleLabel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEAST_NOTE = 4  # tokens of a note that must have room, or nothing is read


@dataclass(frozen=True)
class CausalLM(SingleLabel):
    """One of L classes for each report, whose name the model writes.

    ``Tokenized.ids`` are those of instruction, note and answer. ``Tokenized.labels`` are int64 [n, 1 + M], M the tokens
    of the longest answer: the number of the class, then the answer's ids, at the end of the M. The mask is 1 on the
    answer's ids and 0 elsewhere.

    Attributes:
        instruction: what stands before a note. Public.
        loss: which tokens are learnt: those of the answer, or of the whole text.
    """

    instruction: str = ""
    loss: str = ANSWER

    name: ClassVar[str] = "causal-lm"
    dtype: ClassVar[DTypeLike] = np.float32
    meaning: ClassVar[str] = "one class of several, as the text of an answer"
    expression: ClassVar[str] = "scores.softmax(-1)"

    def outputs(self) -> int:
        super().outputs()
        return 0

    def answers(self, tokenizer: PreTrainedTokenizerBase) -> Answers:
        """Every label as token ids, ended by the tokenizer's token for the end of a text."""
        ids = _plain(tokenizer, [f" {label}" for label in self.labels])
        return Answers(tuple((*answer, int(tokenizer.eos_token_id)) for answer in ids), self.loss == TEXT)

    def tokenize(
        self, reports: Dataset, rows: Indices, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Tokenized:
        chosen = reports.select(np.asarray(rows, dtype=np.int64))
        classes = label_matrix(chosen).argmax(axis=1)
        return self._texts(list(chosen["text"]), classes, tokenizer, max_length, patient_numbers(chosen))

    def made_up(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenized:
        classes = np.arange(len(texts)) % len(self.labels)
        return self._texts(texts, classes, tokenizer, max_length, None)

    def targets(self, ids: Tensor, attention: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return (ids, attention) if self.loss == TEXT else (labels, mask)

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy summed over the tokens that are learnt. In both layouts these are all columns but the first:
        the number of the class, or the first token of a text, which nothing predicts."""
        each = cross_entropy(outputs.float().flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        return (each.view(labels[:, 1:].shape) * mask[:, 1:]).sum(dim=-1)

    def wanted(self, mask: Tensor) -> Tensor | None:
        return mask[:, 1:]

    def predict(
        self, model: ReportClassifier, hidden: Tensor, attention: Tensor, ids: Tensor, mask: Tensor
    ) -> NDArray[np.float32]:
        """The probability of each answer among all, [B, L]. The answers in ``ids`` are not read.

        With ``attention`` [B, T + N, T + N] what is asked is the tree of answers behind each prompt, as
        ``AnswerTree.behind`` lays it out.
        """
        if attention.dim() == 3:
            scores = model.tree_scores(hidden, attention)
        else:
            scores = model.answer_scores(*prompts_of(ids, attention, mask))
        found: NDArray[np.float32] = scores.softmax(-1).cpu().numpy()
        return found

    def export(
        self, model: ReportClassifier, base: BaseModel, directory: Path, *, max_length: int, privacy_statement: str
    ) -> None:
        outputs = Outputs(self.name, self.labels, self.meaning, self.expression, self.instruction)
        export_peft(model, base, directory, outputs, max_length=max_length, privacy_statement=privacy_statement)

    def matrices(self, tokens: Tokenized) -> Matrices:
        labels = (np.arange(len(self.labels)) == tokens.labels[:, :1]).astype(np.float32)
        return labels, np.ones_like(labels)

    def room(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
        """Tokens of a note at which it is cut.

        Raises:
            ModelError: instruction, examples and the longest answer leave too few.
        """
        before, after = self._around(tokenizer)
        room = max_length - len(before) - len(after) - self.answers(tokenizer).longest
        if room < _LEAST_NOTE:
            raise ModelError(
                f"data.max-length = {max_length} leaves no room for a note beside instruction, examples and answer,"
                f" which take {max_length - room} tokens: raise it."
            )
        return room

    def _around(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """Token ids before and behind a note."""
        before, after = (_ids(tokenizer, part) for part in prompt_around(self.instruction))
        return [*tokenizer("")["input_ids"], *before], after  # of Llama: first the token that begins a text

    def _texts(
        self,
        texts: Sequence[str],
        classes: NDArray[Any],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        patients: Indices | None,
    ) -> Tokenized:
        """Prompts with the answers of these classes; a note is cut so that the longest answer would have room."""
        answers, (before, after) = self.answers(tokenizer), self._around(tokenizer)
        room, notes = self.room(tokenizer, max_length), _plain(tokenizer, texts)
        labels = np.zeros((len(texts), 1 + answers.longest), dtype=np.int64)
        mask = np.zeros(labels.shape, dtype=np.float32)
        pieces = []
        for row, (note, number) in enumerate(zip(notes, classes, strict=True)):
            answer = answers.ids[number]
            pieces.append([*before, *note[:room], *after, *answer])
            labels[row, 0], labels[row, -len(answer) :], mask[row, -len(answer) :] = number, answer, 1.0
        return Tokenized.of(pieces, labels, mask, patients)


def prompts_of(ids: Tensor, attention: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and attention [B, T'] of the prompts alone: the answers, where ``mask`` is 1, stand at their ends."""
    prompts = attention.sum(1) - mask.sum(1).to(attention.dtype)
    width = int(prompts.max())
    return ids[:, :width], (torch.arange(width, device=ids.device) < prompts[:, None]).to(attention.dtype)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of notes or labels, in which ``<|im_end|>`` is ten characters: only the instruction has special tokens,
    and only an answer's end is one that ends a text."""
    if not len(texts):
        return []
    # Not verbose: it would log how long the longest note is.
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    ids: list[list[int]] = _reader(tokenizer)(list(texts), **options)["input_ids"]
    return ids


@lru_cache(maxsize=4)
def _reader(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy for plain texts. A fast tokenizer keeps ``split_special_tokens`` until the next call that says otherwise,
    so with one for both, threads of a server would tokenize each other's notes wrongly."""
    reader = deepcopy(tokenizer)
    reader.backend_tokenizer.encode_special_tokens = True  # before threads share it
    return reader
