"""The lock of a state directory, and file errors as ledger errors. Local file systems only."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrad.errors import LedgerBusy, LedgerError, LedgerTampered


def locked(directory: Path) -> int:
    """Takes the folder's lock. The kernel frees it when the process ends, for whatever reason.

    Raises:
        LedgerBusy: another process, or another object of this one, holds it.
    """
    path = directory / "ledger.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = path.stat().st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        same = False
    if not same:
        os.close(descriptor)
        raise LedgerBusy(f"Another process has the ledger in {directory} open. Wait until it ends, or end it.")
    return descriptor


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turns disk and SQLite errors into a LedgerError, so that no step is taken that was not charged."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerError(f"The ledger in {directory} can't be used: {error}.") from None
    except sqlite3.DatabaseError as error:
        raise LedgerTampered(f"The ledger in {directory} is damaged: {error}. Restore the newest copy.") from None
    except OSError as error:
        raise LedgerError(f"The ledger in {directory} can't be used: {error.strerror}.") from None


@contextmanager
def record_errors(what: str, path: Path) -> Iterator[None]:
    """Turns errors of a small record in the witness folder into ledger errors.

    Raises:
        LedgerTampered: its content is damaged. It is written atomically, so no crash of ours leaves it so.
        LedgerError: it can't be read or written.
    """
    try:
        yield
    except OSError as error:
        raise LedgerError(f"{what} {path} can't be used ({error.strerror}).") from None
    except (ValueError, TypeError, KeyError):
        raise LedgerTampered(f"{what} {path} is damaged. Restore it from a backup.") from None


def ledger_file(directory: Path) -> Path:
    """The file with a site's ledger.

    Raises:
        LedgerError: there is none; the message says where ledgers are.
    """
    file = directory.absolute() / "ledger.sqlite"
    with explained(file.parent):
        if not file.is_file():
            raise LedgerError(_nothing_in(file.parent))
    return file


def _nothing_in(directory: Path) -> str:
    if not directory.is_dir():
        return f"There is no folder {directory}. Name the hospital's state directory."
    below = sorted(
        file.parent for file in [*directory.glob("*/ledger.sqlite"), *directory.glob("ledger/*/ledger.sqlite")]
    )
    if below:
        others = f" (and {len(below) - 1} more)" if len(below) > 1 else ""
        return f"There is no ledger in {directory}, but there are some below it: name one, such as {below[0]}{others}."
    return (
        f"There is no ledger in {directory} (no ledger.sqlite). Name a hospital's state directory, or the folder "
        "ledger/<site> in a run directory."
    )
