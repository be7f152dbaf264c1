"""Where an adapter is: looked up before torch is imported, so that a mistyped folder is told at once."""

from __future__ import annotations

from pathlib import Path

from fedrad.errors import ModelError

MANIFEST = "fedrad.json"


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
