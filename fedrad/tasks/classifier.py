"""A trained classifier, ready for use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.data.batches import Indices, collate
from fedrad.errors import ModelError
from fedrad.model.base import load_base
from fedrad.model.buckets import micro_batches
from fedrad.model.build import build
from fedrad.model.encoder import ReportClassifier
from fedrad.model.export import import_peft
from fedrad.model.folder import Manifest, adapter_folder
from fedrad.model.generation import greedy
from fedrad.model.kernels import device_for
from fedrad.model.probe import kernels_for
from fedrad.tasks.causal_lm import prompts_of
from fedrad.tasks.task import Task, task_named

_CHUNK = 4096  # texts tokenized at a time


def task_of_run(run_dir: str | Path) -> Task:
    """The task that a run was trained for, without its model. Raises ModelError if there is no complete adapter."""
    return _task(import_peft(adapter_folder(run_dir))[0])


def _task(manifest: Manifest) -> Task:
    return task_named(manifest.outputs.task, manifest.outputs.labels, manifest.outputs.instruction)


@dataclass(frozen=True, eq=False)
class Classifier:
    """Classifies reports with a trained adapter.

    Attributes:
        model: base model, adapter and head, in eval mode.
        task: the task that it was trained for.
        tokenizer: of the base model.
        max_length: tokens at which a report is cut.
        privacy: the privacy statement of its training run.
    """

    model: ReportClassifier
    task: Task
    tokenizer: Any
    max_length: int
    privacy: str

    @staticmethod
    def load(run_dir: str | Path, *, base: str | None = None, device: str = "cpu") -> Classifier:
        """The classifier of a finished run.

        Args:
            run_dir: a run directory, or its folder ``adapter``.
            base: folder or hub id of the base model, if it has moved since training.
            device: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one.

        Raises:
            ConfigError: ``device`` is ``cuda`` and there is no GPU.
            ModelError: there is no complete adapter, the base model can't be loaded or is not the adapter's, or tensors
                do not fit.
        """
        folder = adapter_folder(run_dir)
        manifest, tensors = import_peft(folder)
        task = _task(manifest)
        loaded = load_base(base or manifest.spec.name, "" if base else manifest.spec.revision, manifest.spec.quantize)
        if loaded.sha256 != manifest.base_sha256:
            raise ModelError(
                f"{loaded.name!r} is not the base model that {folder} was trained on (SHA-256 {loaded.sha256[:12]}...,"
                f" expected {manifest.base_sha256[:12]}...): use the same revision, or name it with base=."
            )
        kernels = kernels_for(loaded, manifest.spec.backbone, device_for(device))
        answers = task.answers(loaded.tokenizer)
        model = build(loaded, manifest.spec, manifest.lora, task.outputs(), 0, kernels, answers=answers)
        model.load_state(tensors)
        return Classifier(model, task, loaded.tokenizer, min(manifest.max_length, loaded.max_length), manifest.privacy)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns of ``predict``."""
        return self.task.columns

    @torch.no_grad()
    def predict(self, texts: Sequence[str]) -> NDArray[Any]:
        """Probabilities [n, L]. For a multi-label task they are independent; for a single-label task rows sum to 1.

        Raises:
            TypeError: ``texts`` is a single string, or holds something other than strings.
        """
        out = np.empty((len(texts), len(self.labels)), dtype=self.task.dtype)
        for rows, ids, attention, mask in self._batches(texts, self.max_length):
            hidden = self.model.prefix(ids, attention)
            out[rows] = self.task.predict(self.model, hidden, attention, ids, mask)
        return out

    @torch.no_grad()
    def generate(self, texts: Sequence[str], tokens: int) -> list[str]:
        """What a decoder writes freely, token by token the most probable, not held to the labels.

        Free text may repeat a note, or words that the model was trained on: it is as private as both.

        Args:
            tokens: at most as many are written for a text. A note is cut so that they have room.

        Raises:
            ModelError: the run's model is no decoder, or there is no room for a note beside so many tokens.
            TypeError: as for ``predict``.
        """
        if self.model.answers is None:
            raise ModelError(f"a run of task {self.task.name} has a head and writes no text; a causal-lm run does.")
        found = [""] * len(texts)
        room = self.max_length - max(0, tokens - self.model.answers.longest)
        for rows, ids, attention, mask in self._batches(texts, room):
            written = greedy(self.model, *prompts_of(ids, attention, mask), self.tokenizer.eos_token_id, tokens)
            for row, line in zip(rows, written, strict=True):
                found[row] = self.tokenizer.decode(line, skip_special_tokens=True).strip()
        return found

    def _batches(self, texts: Sequence[str], max_length: int) -> Iterator[tuple[Indices, Tensor, Tensor, Tensor]]:
        """Texts of similar length together: which, and their ids, attention and mask on the model's device."""
        if isinstance(texts, str):
            raise TypeError("predict takes a sequence of reports: predict([text])")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"report {row} is a {type(text).__name__}, not a string")
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            tokens = self.task.made_up(chunk, self.tokenizer, max_length)
            for rows in micro_batches(tokens.lengths, np.arange(len(chunk)), self.model.kernels.micro_tokens):
                batch = collate(tokens, rows, self.tokenizer.pad_token_id)
                ids, attention, mask = (part.to(self.model.device) for part in (batch.ids, batch.attention, batch.mask))
                with self.model.arithmetic():
                    yield start + rows, ids, attention, mask
