"""One cell of a sweep: an ordinary run, in a folder that is named by the digest of its configuration."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedrad.config import Experiment
from fedrad.errors import ConfigError, FedradError, place_of
from fedrad.files import PRIVATE, write_whole

CENTRALIZED, SIMULATE = "centralized", "simulate"
DIED = "ProcessDied"  # the kind of a failure of the process, not of the run
TRANSPORTS = ("inprocess", "fused", "flower")


@dataclass(frozen=True)
class Cell:
    """A run of a sweep.

    Attributes:
        experiment: its whole configuration, without ``run.out``.
        command: "centralized" or "simulate".
        app: of a simulation: its name or folder.
        transport: of a simulation: who carries the messages, as ``fedrad simulate --grid`` names it.
    """

    experiment: Experiment
    command: str
    app: str = ""
    transport: str = ""

    @cached_property
    def name(self) -> str:
        """Equal cells have equal names, and others have others."""
        facts = [self.command, self.app, self.transport, self.experiment.digest()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @property
    def reads(self) -> tuple[object, ...]:
        """What decides which features it computes: cells that agree are best run one after the other in a process."""
        e = self.experiment
        return (e.base_name, e.data, e.model, e.adapted, e.sites.count, e.sites.partition, e.sites.alpha, e.sites.alone)


@dataclass(frozen=True)
class Failure:
    """Why a cell failed, without report text: the message of an error of fedrad's, else where it was raised."""

    kind: str
    message: str


def finished(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The cell's ``result.json``, if it has finished with this very configuration."""
    directory = folder / cell.name
    try:
        result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
        stored = Experiment.load(directory / "experiment.toml")
    except (OSError, ValueError, ConfigError):
        return None
    same = result.get("experiment") == stored.digest()
    return result if same and _placed(cell, stored.run.out).digest() == stored.digest() else None


def failure_of(cell: Cell, folder: Path) -> Failure | None:
    """Why the cell's last try failed, if it did."""
    try:
        return Failure(**json.loads(_failure_file(cell, folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def run_cell(cell: Cell, folder: Path) -> Failure | None:
    """Runs the cell, unless it has finished. One that was cut short goes on from its last finished round.

    It is begun anew, and what the try before has left is removed, if that try failed, or can't be gone on with: it was
    written by another version, say.

    Returns:
        Why it failed, which is also written down; None: it has finished.

    Raises:
        ConfigError: another process is running it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{cell.name}.lock", f"cell {cell.name} is being run by another process"):
        if finished(cell, folder) is not None:
            return None
        directory, before = folder / cell.name, failure_of(cell, folder)
        cut_short = (directory / "experiment.toml").is_file() and (before is None or before.kind == DIED)
        _failure_file(cell, folder).unlink(missing_ok=True)
        failure = None
        if cut_short:
            failure = _tried(cell, _placed(cell, str(directory), resume=True))
        if not cut_short or (failure is not None and failure.kind == ConfigError.__name__):
            shutil.rmtree(directory, ignore_errors=True)
            failure = _tried(cell, _placed(cell, str(directory)))
        if failure is not None:
            note_failure(cell, folder, failure)
        return failure


def _tried(cell: Cell, experiment: Experiment) -> Failure | None:
    """Runs the cell; why it failed, if it did."""
    try:
        _run(cell, experiment)
    except FedradError as error:
        return Failure(type(error).__name__, str(error))
    except (Exception, SystemExit) as error:  # its text may quote a report
        return Failure(type(error).__name__, f"at {place_of(error)}")
    return None


def note_failure(cell: Cell, folder: Path, failure: Failure) -> None:
    """Writes down why a cell failed; the next sweep over the folder tries again."""
    content = json.dumps({"kind": failure.kind, "message": failure.message}) + "\n"
    write_whole(_failure_file(cell, folder), content.encode(), durable=False, mode=PRIVATE)


def _failure_file(cell: Cell, folder: Path) -> Path:
    return folder / f"{cell.name}.failed.json"


def _placed(cell: Cell, directory: str, *, resume: bool = False) -> Experiment:
    return Experiment.from_flat({**cell.experiment.flat(), "run.out": directory, "run.resume": resume})


def _run(cell: Cell, experiment: Experiment) -> None:
    """The run, as its own command would do it."""
    if cell.command == CENTRALIZED:
        from rich.console import Console

        from fedrad.data.report import warnings_as_lines
        from fedrad.simulation.centralized import train

        with warnings_as_lines():
            train(experiment, Console(width=110, force_terminal=False))
        return
    from fedrad.simulation.apps import app_folder

    folder = app_folder(cell.app)
    if cell.transport == "flower":
        from fedrad.simulation.flower_run import run_flower

        run_flower(folder, experiment)
        return
    from fedrad.simulation.grid import InProcessGrid
    from fedrad.simulation.in_process import run_in_process
    from fedrad.simulation.one_pass import FusedGrid

    run_in_process(folder, experiment, grid=FusedGrid if cell.transport == "fused" else InProcessGrid)


@contextmanager
def locked(path: Path, busy: str, *, shared: bool = False) -> Iterator[None]:
    """Holds the lock of a file, which ends with the process that holds it.

    Raises:
        ConfigError: another process holds it.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path.parent}: {busy}; wait for it, or name another --out") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def output_in(file: Path) -> Iterator[None]:
    """Standard output and error of this process and its children go to a file that its owner alone may read: what a
    run shows may hold counts of training reports."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, PRIVATE)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(kept, start=1):
            os.dup2(old, number)
            os.close(old)
        os.close(descriptor)
