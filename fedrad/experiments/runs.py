"""Finished runs as ``fedrad compare`` reads them: of a sweep's folder, or run directories one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedrad.config import Experiment
from fedrad.errors import ConfigError, DataError
from fedrad.evidence.predictions import read_predictions
from fedrad.experiments.floors import UNTRAINED
from fedrad.experiments.predicted import Predicted, predicted
from fedrad.model.folder import MANIFEST, adapter_folder

TEXTLESS = ("prior", "all-negative")
"""Floors that give every report the same answer."""
SEEDS = ("train.seed", "data.seed")


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that can be compared.

    Attributes:
        keys: what tells its condition from the others', by axis; of a floor, None where it stands under several.
        seed: which repetition of its condition it is.
        floor: of a sweep; empty for a cell of the grid or a run given by itself.
        prior: weighted F1 of the label prior on its test set.
    """

    directory: Path
    keys: Mapping[str, Any]
    seed: Any
    floor: str
    hospital: int
    prior: float

    @cached_property
    def predictions(self) -> Predicted:
        """Of its test set: after training; of an untrained floor, before; of a floor that reads no text, its own.

        Raises:
            DataError: it has kept none.
        """
        before = "-before" * (self.floor in UNTRAINED)
        file = self.directory / f"predictions{before}.parquet"
        if not file.is_file():
            raise DataError("is not there.", file=file, remedy="A run keeps it with run.predictions=true.")
        found = predicted(read_predictions(file), _task(self.directory))
        if self.floor not in TEXTLESS:
            return found
        return replace(found, decisions=found.prior if self.floor == "prior" else np.zeros_like(found.decisions))


def load_runs(paths: Sequence[Path]) -> tuple[list[str], list[FinishedRun]]:
    """The axes, and every finished run.

    Raises:
        ConfigError: sweeps with different axes, or a sweep among run directories.
        DataError: a path is neither; or nothing there has finished.
    """
    sweeps = [path for path in paths if (path / "sweep.json").is_file()]
    if sweeps and len(sweeps) < len(paths):
        raise ConfigError("compare sweeps or run directories, not both at once")
    if sweeps:
        indices = [json.loads((path / "sweep.json").read_text(encoding="utf-8")) for path in sweeps]
        axes = indices[0]["axes"]
        if any(index["axes"] != axes for index in indices):
            raise ConfigError("the sweeps have different axes; compare one at a time")
        runs = [run for path, index in zip(sweeps, indices, strict=True) for run in _of_sweep(path, index)]
    else:
        axes, runs = _alone(paths)
    if not runs:
        raise DataError("nothing has finished here.", file=paths[0])
    return axes, runs


def _of_sweep(path: Path, index: Mapping[str, Any]) -> list[FinishedRun]:
    found = []
    for entry in index["rows"]:
        directory = path / "cells" / entry["run"]
        if (directory / "result.json").is_file():
            prior = _prior(directory)
            found.append(FinishedRun(directory, entry["keys"], entry["seed"], entry["floor"], entry["hospital"], prior))
    return found


def _alone(paths: Sequence[Path]) -> tuple[list[str], list[FinishedRun]]:
    """Runs given one by one: their axes are the settings in which they differ, seeds aside."""
    settings = []
    for path in paths:
        if not (path / "result.json").is_file():
            raise DataError("is no finished run: it has no result.json.", file=path)
        settings.append(Experiment.load(path / "experiment.toml").flat())
    varying = [key for key in settings[0] if len({flat[key] for flat in settings}) > 1]
    axes = [key for key in varying if key not in SEEDS and not key.startswith("run.")]
    return axes, [
        FinishedRun(path, {axis: flat[axis] for axis in axes}, tuple(flat[k] for k in SEEDS), "", 0, _prior(path))
        for path, flat in zip(paths, settings, strict=True)
    ]


def _task(directory: Path) -> str:
    """What the run was trained for, which decides how probabilities become decisions."""
    manifest = json.loads((adapter_folder(directory) / MANIFEST).read_text(encoding="utf-8"))
    return str(manifest["outputs"]["task"])


def _prior(directory: Path) -> float:
    try:
        result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
        return float(result["label_prior"]["weighted_f1"])
    except (ValueError, KeyError, TypeError):
        raise DataError("its result.json has no scores to compare.", file=directory) from None


@dataclass(frozen=True, eq=False)
class Condition:
    """The runs that differ in their seed alone."""

    keys: Mapping[str, Any]
    floor: str
    hospital: int
    runs: tuple[FinishedRun, ...]

    @property
    def name(self) -> str:
        """As tables and pictures call it."""
        told = [f"{short(axis)} {shown(value)}" for axis, value in self.keys.items() if value is not None]
        told += [f"{self.floor} {self.hospital or ''}".strip()] if self.floor else []
        return ", ".join(told) or "all"


def conditions_of(runs: Sequence[FinishedRun]) -> list[Condition]:
    """The runs by condition, in the order in which they come.

    Raises:
        ConfigError: two runs of a condition have the same seed.
    """
    groups: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((tuple(run.keys.items()), run.floor, run.hospital), []).append(run)
    for group in groups.values():
        if len({run.seed for run in group}) < len(group):
            raise ConfigError(f"{group[0].directory}: another run has the same settings and seed; leave one out")
    return [Condition(g[0].keys, g[0].floor, g[0].hospital, tuple(g)) for g in groups.values()]


def short(axis: str) -> str:
    """What an axis is called in the name of a condition: "epsilon", "strategy"."""
    section, _, name = axis.rpartition(".")
    return section if name == "name" else name


def shown(value: Any) -> str:
    """A swept value in words."""
    return f"{value:g}" if isinstance(value, float) else str(value)
