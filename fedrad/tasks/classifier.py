"""A trained classifier, ready for use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrad.data.batches import collate
from fedrad.errors import ModelError
from fedrad.model.base import load_base
from fedrad.model.buckets import micro_batches
from fedrad.model.encoder import ReportClassifier, build
from fedrad.model.export import import_peft
from fedrad.model.folder import adapter_folder
from fedrad.model.kernels import device_for
from fedrad.model.probe import kernels_for
from fedrad.tasks.task import Task, task_named

_CHUNK = 4096  # texts tokenized at a time


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
        task = task_named(manifest.outputs.task, manifest.outputs.labels, manifest.outputs.instruction)
        loaded = load_base(base or manifest.spec.name, "" if base else manifest.spec.revision)
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
        if isinstance(texts, str):
            raise TypeError("predict takes a sequence of reports: predict([text])")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"report {row} is a {type(text).__name__}, not a string")
        out = np.empty((len(texts), len(self.labels)), dtype=self.task.dtype)
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            tokens = self.task.made_up(chunk, self.tokenizer, self.max_length)
            for rows in micro_batches(tokens.lengths, np.arange(len(chunk)), self.model.kernels.micro_tokens):
                batch = collate(tokens, rows, self.tokenizer.pad_token_id)
                ids, attention, mask = (part.to(self.model.device) for part in (batch.ids, batch.attention, batch.mask))
                with self.model.arithmetic():
                    hidden = self.model.prefix(ids, attention)
                    out[start + rows] = self.task.predict(self.model, hidden, attention, ids, mask)
        return out
