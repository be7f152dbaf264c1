"""What the commands share: the option --set, where they write, and how an error is shown."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from fedrad.errors import DataError, FedradError

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value, as often as needed; `python -m fedrad.reference` lists the keys"),
]
_FULL = (errno.ENOSPC, errno.EDQUOT)


def let_threads_sleep() -> None:
    """Threads of torch that wait for each other sleep, which changes no bit of a result.

    OpenMP's own default is that they spin. Where more threads than cores want to run, they then spin for most of the
    time: small products took 12 times the processor's time. To be called before torch is loaded; who has set the
    variable is obeyed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Prints an error of fedrad's, or of a file, as one red line and ends with its exit code."""
    try:
        yield
    except FedradError as error:
        _red(f"fedrad: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # a name that is too long, a full disk: no bug of fedrad's
        if error.filename is not None:
            _red(f"fedrad: {error.filename}: {error.strerror}.")
        elif error.errno in _FULL:  # of a write, which doesn't know the name of its file
            _red(f"fedrad: {error.strerror}: make room where fedrad writes (--out, the cache folder).")
        else:
            raise
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        left = getattr(interrupt, "__notes__", ["Nothing is finished. What was charged is in the ledgers."])
        print("fedrad: interrupted.", *left, file=sys.stderr)
        sys.exit(130)


def _red(message: str) -> None:
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
