"""Where a run is logged beside ``metrics.jsonl``: MLflow or TensorBoard, behind one protocol (``run.track``).

What is logged is what the run directory holds for everybody to read: settings, scores on the test set, epsilons, the
adapter. Never predictions, ledgers or reports.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.files import USUAL, write_whole
from fedrad.report.registered import register

EXPERIMENT = "fedrad"
"""What MLflow calls the runs together."""
_MLFLOW_RUN = "mlflow-run"  # in the run directory: MLflow's id of it, for whoever goes on with the run
_FILES = ("experiment.toml", "metrics.jsonl", "result.json", "adapter")


class Tracker(Protocol):
    """Somewhere that runs are logged."""

    def start(self, experiment: Experiment, directory: Path) -> None:
        """The run directory is made, and no step is taken yet; or an earlier process was cut off in it."""

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """A line was added to ``metrics.jsonl``."""

    def finish(self, directory: Path) -> None:
        """``result.json`` is written."""

    def stopped(self, *, killed: bool) -> None:
        """The run ends without a result: it was interrupted, or it failed. It may never have started."""


def tracker_of(experiment: Experiment) -> Tracker | None:
    """What ``run.track`` asks for; None: ``metrics.jsonl`` is all.

    Raises:
        ConfigError: its package is not installed.
    """
    run = experiment.run
    if run.track == "jsonl":
        return None
    try:
        return Mlflow(run.tracking_uri) if run.track == "mlflow" else TensorBoard(run.tracking_uri)
    except ImportError as error:
        raise ConfigError(
            f"run.track: {run.track} needs the package {error.name}: pip install 'fedrad[{run.track}]'"
        ) from None


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of ``metrics.jsonl``: ``weighted_f1``, ``per_label/Edema``, ``epsilon/site-000``. What is
    null is left out; what MLflow does not take in a name becomes ``_``."""
    return {
        re.sub(r"[^\w\-. /]", "_", name): float(value)
        for name, value in _leaves(record)
        if name not in ("round", "step") and isinstance(value, int | float)
    }


def _leaves(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


class Mlflow:
    """One MLflow run for a run of fedrad; its adapter becomes a version of the registered model "fedrad".

    Args:
        uri: of the tracking server or database; empty: MLflow's own default.
    """

    def __init__(self, uri: str) -> None:
        self.run = ""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
        self.mlflow = importlib.import_module("mlflow")
        importlib.import_module("mlflow.pyfunc")  # the model needs pandas, which is not of mlflow-skinny
        self.client = self.mlflow.MlflowClient(tracking_uri=uri or None, registry_uri=uri or None)

    def start(self, experiment: Experiment, directory: Path) -> None:
        self.experiment = experiment
        note = directory / _MLFLOW_RUN
        if experiment.run.resume and note.exists():
            self.run = note.read_text()
            self.client.update_run(self.run, status="RUNNING")
            return
        found = self.client.get_experiment_by_name(EXPERIMENT)
        number = self.client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        self.run = self.client.create_run(number, run_name=directory.name).info.run_id
        write_whole(note, self.run.encode(), durable=False, mode=USUAL)
        for key, value in experiment.flat().items():
            self.client.log_param(self.run, key, value)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            self.client.log_metric(self.run, name, value, step=record["step"])

    def finish(self, directory: Path) -> None:
        status = "FAILED"  # whatever is missing of the run, it does not go on
        try:
            self._log_result(directory)
            status = "FINISHED"
        finally:
            self.client.set_terminated(self.run, status)

    def stopped(self, *, killed: bool) -> None:
        if self.run:
            self.client.set_terminated(self.run, "KILLED" if killed else "FAILED")

    def _log_result(self, directory: Path) -> None:
        """The files of the run, and its adapter as a version of the registered model."""
        for name in _FILES:
            self.client.log_artifact(self.run, str(directory / name))
        register(self.client, self.run, self.experiment, directory)


class TensorBoard:
    """Scalars for TensorBoard.

    Args:
        folder: where to; empty: ``tensorboard`` in the run directory.
    """

    def __init__(self, folder: str) -> None:
        importlib.import_module("tensorboard")  # torch's writer does not name the package that is missing
        self.folder = folder

    def start(self, experiment: Experiment, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = Path(self.folder) / directory.name if self.folder else directory / "tensorboard"
        self.writer = SummaryWriter(str(place))
        self.writer.add_text("experiment", f"```\n{experiment.to_toml()}```")

    def evaluated(self, record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, record["step"])
        self.writer.flush()

    def finish(self, directory: Path) -> None:
        self.writer.close()

    def stopped(self, *, killed: bool) -> None:
        """Nothing says how a run ended there, and each line was flushed."""
