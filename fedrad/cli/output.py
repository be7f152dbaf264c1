"""Where the commands write: standard output, or a file that was not there before."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from fedrad.errors import DataError


def wide() -> Console:
    """Standard output; a pipe has no width, and 80 columns would break the tables."""
    return Console(width=None if sys.stdout.isatty() else 140)


def print_json(value: dict[str, Any]) -> None:
    """Indented, on standard output; JSON has no infinity."""
    print(json.dumps(value, indent=2, allow_nan=False))


def exists(path: Path) -> DataError:
    """The error of a file that would be overwritten."""
    return DataError("exists already; nothing is overwritten.", file=path, remedy="Name another file.")


def new_file(path: Path) -> TextIO:
    """A text file to write to.

    Raises:
        DataError: it exists, or can't be written.
    """
    try:
        return path.open("x", newline="", encoding="utf-8")
    except FileExistsError:
        raise exists(path) from None
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=path) from None
