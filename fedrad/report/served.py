"""Prediction with a registered model, and the record of it: one MLflow run says who predicted with which version."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedrad.errors import ConfigError, ModelError

SCHEME = "models:/"
PREDICTIONS = "fedrad predictions"
"""The MLflow experiment of the records."""


@contextmanager
def served(name: str, uri: str, facts: Mapping[str, object]) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """Fetches a registered model for a prediction, and records the prediction, finished or failed.

    The record has the user, the model's version and ``facts``; no text, and nothing that was predicted.

    Args:
        name: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        uri: of the tracking server or database; empty: MLflow's own default.
        facts: what else is recorded.

    Yields:
        a run directory with what prediction needs, which is removed at the end, and a function that records how many
        rows were predicted.
    Raises:
        ConfigError: MLflow is not installed, or the name is none.
        ModelError: there is no such version, or the server can't be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ConfigError(f"{name}: needs the package {error.name}: pip install 'fedrad[mlflow]'") from None
    registered, at, alias = name.removeprefix(SCHEME).partition("@")
    registered, _, number = (registered, "", "") if at else registered.partition("/")
    if not registered or not (alias or number):
        raise ConfigError(f"{name}: a registered model is {SCHEME}NAME/VERSION or {SCHEME}NAME@ALIAS")
    client = MlflowClient(tracking_uri=uri or None, registry_uri=uri or None)
    with tempfile.TemporaryDirectory(prefix="fedrad-") as folder:  # readable by its owner only
        try:
            by_alias, by_number = client.get_model_version_by_alias, client.get_model_version
            version = by_alias(registered, alias) if alias else by_number(registered, number)
            if version.run_id is None:
                raise ModelError(f"{name}: it was registered by hand, not by a run of fedrad's.")
            for part in ("adapter", "experiment.toml"):
                client.download_artifacts(version.run_id, part, folder)
            found = client.get_experiment_by_name(PREDICTIONS)
            experiment = client.create_experiment(PREDICTIONS) if found is None else found.experiment_id
            tags = {"mlflow.user": getpass.getuser(), "model": registered, "model_version": str(version.version)}
            record = client.create_run(experiment, tags=tags).info.run_id
            for key, value in facts.items():
                client.log_param(record, key, value)
        except (MlflowException, OSError) as error:
            raise ModelError(f"{name}: {str(error).partition(chr(10))[0]}") from None
        status = "FAILED"

        def done(rows: int) -> None:
            client.log_metric(record, "rows", rows)

        try:
            yield Path(folder), done
            status = "FINISHED"
        finally:
            client.set_terminated(record, status)
