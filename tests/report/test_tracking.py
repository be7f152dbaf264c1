"""Runs that are logged elsewhere too: a real MLflow on SQLite, a real TensorBoard file, and a run without either."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fedrad
from fedrad.cli.app import app as cli
from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.report import tracking
from fedrad.report.registered import MODEL
from fedrad.report.served import PREDICTIONS
from fedrad.report.tracking import scalars
from fedrad.simulation import centralized
from fedrad.training.unfinished import experiment_of
from tests import small
from tests.model import tiny

pd = pytest.importorskip("pandas")

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

        def stopped(self, *, killed: bool) -> None:
            raise AssertionError("the run is fine")

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
    model = loaded(mlflow, uri, f"models:/{MODEL}/1")
    answers = model.predict(pd.DataFrame({"id": [1, 2], "text": TEXTS}))
    classifier = fedrad.Classifier.load(directory)
    assert list(answers.columns) == list(classifier.labels)
    assert np.array_equal(answers.to_numpy(), classifier.predict(TEXTS))
    assert list(tmp_path.rglob("*.pkl")) == []


def loaded(mlflow: Any, uri: str, name: str) -> Any:
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.pyfunc.load_model(name)


@pytest.mark.slow
def test_a_decoders_registered_model_answers_and_prediction_with_it_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    base = tiny.save_decoder(tmp_path / "base", "llama", max_position_embeddings=320, initializer_range=0.05)
    settings = {"data__name": "protocol", "data__max_length": 256, "model__name": base, "model__task": "causal-lm"}
    few = {"train__rounds": 1, "train__local_steps": 1, "train__batch": 4, "lora__targets": "auto"}
    directory = run(tmp_path / "run", run__track="mlflow", run__tracking_uri=uri, **settings, **few)

    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias(MODEL, "newest-protocol")
    result = json.loads((directory / "result.json").read_text())
    assert version.tags["epsilon"] == str(result["epsilon_max"])
    assert "differential privacy" in version.description
    model = loaded(mlflow, uri, f"models:/{MODEL}@newest-protocol")
    assert model.metadata.metadata["privacy"]["delta"] == result["delta"]
    (tokenizer,) = tmp_path.glob("mlruns/*/*/artifacts/model/artifacts/tokenizer/tokenizer.json")
    assert json.loads(tokenizer.read_text()) == json.loads((tmp_path / "base" / "tokenizer.json").read_text())

    classifier = fedrad.Classifier.load(directory)
    expected = classifier.predict(TEXTS)
    found = model.predict(pd.DataFrame({"text": [TEXTS[0], None, TEXTS[1]]}), params={"abstain_below": 0.0})
    assert list(found.columns) == ["answer", *classifier.labels]
    assert [output["name"] for output in model.metadata.signature.outputs.to_dict()] == list(found.columns)
    assert found["answer"].tolist()[::2] == [classifier.labels[k] for k in expected.argmax(axis=1)]
    assert np.allclose(found.iloc[[0, 2], 1:].to_numpy(dtype=float), expected, atol=1e-5)
    assert found.iloc[1].isna().all()
    assert model.predict(pd.DataFrame({"text": TEXTS}), params={"abstain_below": 1.0})["answer"].isna().all()
    with pytest.raises(mlflow.exceptions.MlflowException, match="text"):
        model.predict(pd.DataFrame({"note": TEXTS}))

    file = tmp_path / "notes.csv"
    file.write_text(f"id,text\n7,{TEXTS[0]}\n")
    arguments = ["predict", f"models:/{MODEL}@newest-protocol", str(file), "--tracking-uri", uri]
    shown = CliRunner().invoke(cli, arguments)
    plain = CliRunner().invoke(cli, ["predict", str(directory), str(file)])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == plain.stdout
    file.write_text("id,note\n7,x\n")
    assert CliRunner().invoke(cli, arguments).exit_code == 3
    records = client.search_runs([client.get_experiment_by_name(PREDICTIONS).experiment_id])
    assert sorted(record.info.status for record in records) == ["FAILED", "FINISHED"]
    (finished,) = (record for record in records if record.info.status == "FINISHED")
    assert finished.data.tags["mlflow.user"] == getpass.getuser()
    assert finished.data.tags["model_version"] == str(version.version)
    assert finished.data.metrics == {"rows": 1.0}
    assert finished.data.params["input"] == "notes.csv"
    missing = CliRunner().invoke(cli, ["predict", f"models:/{MODEL}@champion", str(file), "--tracking-uri", uri])
    assert (missing.exit_code, "champion" in missing.stderr) == (4, True)


@pytest.mark.slow
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_mlflow_says_how_a_run_ended_and_goes_on_with_one_that_is_resumed(
    error: type[BaseException], status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def statuses() -> list[str]:
        number = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
        return [found.info.status for found in client.search_runs([number])]

    def cut_off(*_: object) -> None:
        assert statuses() == ["RUNNING"]
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(centralized, "train_round", cut_off)
        with pytest.raises(error):
            run(tmp_path / "run", run__track="mlflow", run__tracking_uri=uri)
    assert statuses() == [status]

    centralized.train(experiment_of(tmp_path / "run"))
    assert statuses() == ["FINISHED"]


@pytest.mark.slow
def test_tensorboard_has_the_scores(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = run(tmp_path / "run", run__track="tensorboard")

    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("weighted_f1")]
    assert logged == [(line["step"], pytest.approx(line["weighted_f1"])) for line in lines(directory)]
