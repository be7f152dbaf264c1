"""A hospital locks itself out after an error that nobody foresaw, until a person has looked (a circuit breaker); and it
may hold its answers back, so that their time tells little.

Guarantee:
    What goes wrong while reports are read or trained on may depend on a report, and that it went wrong is an answer to
    whoever asked. Errors that fedrad foresees are raised before any report is read, or are the same for every question
    (a file that can't be parsed). Any other end, that of the whole process included, is answered once: the lockout
    begins before the first report is read and ends when the round has ended as foreseen, so every later question is
    refused without a look at the reports. A server gets one such bit from a hospital, and a person learns of it. The
    bit itself is not differentially private. A power cut in the middle of a round locks the hospital out, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep

from fedrad.errors import FedradError, Stopped, place_of
from fedrad.files import private_folder, sync_folder

_FILE = "stopped"


def refuse_if_locked_out(state_dir: Path) -> None:
    """Nothing is answered during a lockout.

    Raises:
        Stopped: there is one.
    """
    file = state_dir / _FILE
    if file.exists():
        raise Stopped(
            f"an earlier round was cut off, or ended in an error that may depend on a report: see {file} and this log."
            " Find out why, then remove the file; until then this hospital takes no part."
        )


@contextmanager
def locked_out_unless_foreseen(state_dir: Path, what: str) -> Iterator[None]:
    """Around all that reads reports. ``what`` names the round, for the person who looks."""
    private_folder(state_dir)
    file = state_dir / _FILE
    _note(file, f"{what!r}: begun; if this line is the last, the process was ended in the middle of it")
    try:
        yield
    except FedradError:
        file.unlink()
        raise
    except Exception as error:
        # The place and never the text, which may quote a report.
        _note(file, f"{what!r}: {type(error).__name__} at {place_of(error)}")
        raise
    file.unlink()


@contextmanager
def held_back(every: float) -> Iterator[None]:
    """Lets what is in it end, by an error or not, at a whole multiple of so many seconds only; 0: at once.

    Guarantee: who sees no more than when the answer leaves learns how often that time has passed. If the work always
    takes less, that is once, whatever took how long in it.
    """
    begun = monotonic()
    try:
        yield
    finally:
        if every:
            sleep(-(monotonic() - begun) % every)


def _note(file: Path, line: str) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    with os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "w") as stopped:
        stopped.write(f"{when} {line}\n")
        stopped.flush()
        os.fsync(stopped.fileno())
    sync_folder(file.parent)
