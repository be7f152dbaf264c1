"""A process that dies at any point: just before the k-th time that it changes something on the disk.

Between two changes the disk stays the same, so dying before each of them is dying anywhere. An audit hook sees every
renaming, removal and opening; a ledger's transaction is counted where it begins.

What a resumed run finds differs by the last change before the end and by the one that was still to come. ``points``
takes each such pair once, and a sample of its repetitions at other hospitals and in other rounds.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedrad.ledger.file import LedgerFile


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it but what is there to clean up."""


class Faults:
    """Dies before the ``at``-th change below ``folder``; 0: never.

    Attributes:
        passed: the changes so far, for a message.
    """

    def __init__(self, folder: Path, at: int = 0) -> None:
        self.folder, self.at = str(folder), at
        self.passed: list[str] = []

    def change(self, what: str, path: object) -> None:
        if isinstance(path, (str, os.PathLike)) and str(path).startswith(self.folder):
            self.passed.append(f"{what} {str(path).removeprefix(self.folder)}")
            if len(self.passed) == self.at:
                raise Killed(self.passed[-1])


def points(passed: Sequence[str], first: int, *, at: str = "", more: int = 3, seed: int = 0) -> list[int]:
    """Where to die in a run with these changes, as ``Faults.at``: once for each kind, late in the run, when there is
    most that could be lost or charged twice; and at some other points.

    Args:
        first: the first point that counts.
        at: a regular expression; only points before changes that it finds count.
        more: how many other points, drawn with ``seed``.
    """
    kinds = [re.sub(r"site-\d+|[0-9a-f]{32,}", "*", change) for change in passed]
    which = [k for k in range(first, len(passed) + 1) if re.search(at, passed[k - 1])]
    last = {(kinds[k - 2], kinds[k - 1]): k for k in which}
    rest = sorted(set(which) - set(last.values()))
    return sorted([*last.values(), *random.Random(seed).sample(rest, min(more, len(rest)))])


_now: list[Faults] = []


def _seen(event: str, arguments: tuple[Any, ...]) -> None:
    if not _now:
        return
    if event == "os.rename":
        _now[0].change("rename", arguments[1])
    elif event == "os.remove" and str(arguments[0]).endswith("round.safetensors"):
        _now[0].change("remove", arguments[0])
    elif event == "open" and str(arguments[0]).endswith("metrics.jsonl") and arguments[1] == "a":
        _now[0].change("append", arguments[0])


sys.addaudithook(_seen)
_writing = LedgerFile.writing


def _counted(self: LedgerFile) -> AbstractContextManager[None]:
    if _now:
        _now[0].change("charge", self.path)
    return _writing(self)


@contextmanager
def faults(folder: Path, at: int = 0) -> Iterator[Faults]:
    """Counts the changes below a folder, and dies before one of them."""
    _now.append(Faults(folder, at))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LedgerFile, "writing", _counted)
        try:
            yield _now[0]
        finally:
            _now.clear()
