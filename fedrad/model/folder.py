"""Finds an adapter folder without importing torch, so that a mistyped name is reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedrad.errors import ModelError

if TYPE_CHECKING:  # these bring torch
    from fedrad.model.adapter import LoRASpec
    from fedrad.model.encoder import ModelSpec

MANIFEST = "fedrad.json"


@dataclass(frozen=True)
class Outputs:
    """What the logits mean.

    Attributes:
        task: name of the task.
        labels: a name for each logit.
        meaning: the meaning of the logits in words.
        expression: Python code from ``logits`` to probabilities.
        instruction: what a decoder reads before a note; empty without one.
    """

    task: str
    labels: tuple[str, ...]
    meaning: str
    expression: str
    instruction: str = ""


@dataclass(frozen=True)
class Manifest:
    """The content of ``fedrad.json``: what is needed to build the classifier again.

    Attributes:
        base_sha256: ``BaseModel.sha256`` of the adapter's base model.
        max_length: tokens at which a report is cut.
        privacy: the privacy statement.
    """

    spec: ModelSpec
    lora: LoRASpec
    outputs: Outputs
    max_length: int
    base_sha256: str
    privacy: str


def adapter_folder(run: str | Path) -> Path:
    """The adapter's folder of a run.

    Args:
        run: a run directory, or its folder ``adapter``.

    Raises:
        ModelError: there is no adapter in it.
    """
    for folder in (Path(run), Path(run) / "adapter"):
        if (folder / MANIFEST).is_file():
            return folder
    raise incomplete(Path(run) / "adapter", f"there is no {MANIFEST}")


def incomplete(folder: Path, why: str) -> ModelError:
    """The error for a folder that lacks a part of an adapter."""
    return ModelError(
        f"{folder} holds no complete adapter of fedrad's ({why}). Name a run directory, or its"
        " folder adapter/, of a run that has finished."
    )
