"""Finds the files of a corpus by their published names."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from fedrad.errors import DataError


def corpus_folder(path: str | Path | None, what: str) -> Path:
    """The folder that holds a corpus.

    Raises:
        DataError: no path was given, or it is not a folder.
    """
    if not path:
        raise DataError(f"{what} needs a folder.", remedy="Set data.path to it.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(
            "is not there." if not folder.exists() else "is not a folder.", file=folder, remedy="Check data.path."
        )
    return folder


def find_file(folder: Path, patterns: Sequence[str], what: str) -> Path | None:
    """The file in ``folder`` that matches one of the glob patterns (the first pattern wins), or None.

    Raises:
        DataError: a pattern matches several files.
    """
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found[:4])
            raise DataError(f"several files could be {what}: {names}.", file=folder, remedy="Keep one of them there.")
        if found:
            return found[0]
    return None


def need_file(folder: Path, patterns: Sequence[str], what: str) -> Path:
    """As ``find_file``, but a missing file is an error too, which names the patterns and the closest file."""
    found = find_file(folder, patterns, what)
    if found is not None:
        return found
    wanted = " or ".join(patterns)
    close = get_close_matches(patterns[0], sorted(path.name for path in folder.iterdir()), n=1, cutoff=0.8)
    hint = f"Rename {close[0]}?" if close else "Copy it there, or point data.path to the folder that has it."
    raise DataError(f"{what} is missing: looked for {wanted}.", file=folder, remedy=hint)
