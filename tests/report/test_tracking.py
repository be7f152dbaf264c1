"""Runs that are logged elsewhere too: a real MLflow on SQLite, a real TensorBoard file, and a run without either."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrad
from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.report import tracking
from fedrad.report.tracking import MODEL, scalars
from fedrad.simulation import centralized
from tests import small

TEXTS = ["No acute effusion.", "Large left pleural effusion, with edema."]


def run(out: Path, **changes: Any) -> Path:
    settings = {"data__bank": "chest-xray", "lora__targets": "", "train__warm_start": "none", "run__out": str(out)}
    return centralized.train(small.experiment(**(settings | changes)))[1]


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_scalars_are_the_numbers_of_a_line() -> None:
    record = {
        "round": 2,
        "step": 6,
        "split": "test",
        "weighted_f1": 0.5,
        "macro_f1": None,
        "per_label": {"Pleural Effusion (left)": 0.25},
        "epsilon": {"site-000": 1.5, "site-001": None},
    }

    assert scalars(record) == {
        "weighted_f1": 0.5,
        "per_label/Pleural Effusion _left_": 0.25,
        "epsilon/site-000": 1.5,
    }


def test_a_package_that_is_missing_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'fedrad\[mlflow\]'"):
        run(tmp_path / "run", run__track="mlflow")
    assert not (tmp_path / "run").exists()


def test_a_tracking_server_that_goes_down_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Down:
        def start(self, experiment: Experiment, directory: Path) -> None:
            pass

        def evaluated(self, record: object) -> None:
            raise ConnectionError("gone")

        def finish(self, directory: Path) -> None:
            raise ConnectionError("gone")

    monkeypatch.setattr("fedrad.federation.run.tracker_of", lambda experiment: Down())
    assert (run(tmp_path / "run") / "result.json").exists()


@pytest.mark.slow
def test_mlflow_has_settings_scores_files_and_a_model_that_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)  # where MLflow puts the files of runs, unless its server says otherwise
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    directory = run(tmp_path / "run", run__track="mlflow", run__tracking_uri=uri)

    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["privacy.epsilon"] == "8.0"
    history = client.get_metric_history(found.info.run_id, "weighted_f1")
    assert [(m.step, m.value) for m in history] == [(line["step"], line["weighted_f1"]) for line in lines(directory)]
    assert {file.path for file in client.list_artifacts(found.info.run_id)} == {
        "experiment.toml",
        "metrics.jsonl",
        "result.json",
        "adapter",
        "model",
    }
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}/1")
    answers = model.predict(TEXTS)
    classifier = fedrad.Classifier.load(directory)
    assert list(answers.columns) == list(classifier.labels)
    assert np.array_equal(answers.to_numpy(), classifier.predict(TEXTS))
    assert list(tmp_path.rglob("*.pkl")) == []


@pytest.mark.slow
def test_tensorboard_has_the_scores(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = run(tmp_path / "run", run__track="tensorboard")

    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("weighted_f1")]
    assert logged == [(line["step"], pytest.approx(line["weighted_f1"])) for line in lines(directory)]
