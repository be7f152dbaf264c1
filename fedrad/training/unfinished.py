"""An unfinished run: its settings, and what to say of how it goes on. Read without torch."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fedrad.config import Experiment
from fedrad.errors import ConfigError


def experiment_of(directory: Path) -> Experiment:
    """The settings of the unfinished run in a directory, to go on with it there.

    Raises:
        ConfigError: it holds none, or a finished one.
    """
    directory = directory.absolute()
    if not (directory / "experiment.toml").is_file():
        raise ConfigError(f"run.resume: {directory} holds no run (no experiment.toml)")
    if (directory / "result.json").exists():
        raise ConfigError(f"run.resume: the run in {directory} is finished: its result is in result.json and adapter/")
    begun = Experiment.load(directory / "experiment.toml")
    return replace(begun, run=replace(begun.run, out=str(directory), resume=True))


def refuse_other_settings(experiment: Experiment) -> None:
    """Refuses to go on with a run under other settings than it began with.

    Raises:
        ConfigError: naming each setting that differs; or as ``experiment_of``.
    """
    begun = experiment_of(Path(experiment.run.out)).flat()
    if other := [
        f"{key}: a resumed run keeps its settings: this is {value!r}, and was {begun[key]!r} when the run began"
        for key, value in experiment.flat().items()
        if value != begun[key] and not key.startswith("run.")
    ]:
        raise ConfigError(other)


def alone_in(directory: Path) -> int:
    """Locks the run directory until the descriptor that is returned is closed, or the process ends.

    Raises:
        ConfigError: another process is at work on this run.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"run.out: another process is still at work on the run in {directory}; wait until it ends, or end it"
        ) from None
    return descriptor


@contextmanager
def telling_how_to_go_on(directory: Path, command: str) -> Iterator[None]:
    """Notes on a Ctrl-C how the run is resumed; the command line prints it."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if (directory / "experiment.toml").exists() and not (directory / "result.json").exists():
            interrupt.add_note(
                f"The run is not finished. This goes on from its last finished round: {command} --resume {directory}"
            )
        raise
