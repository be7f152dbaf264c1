"""``python -m fedrad.centralized`` from end to end, on a tiny model and sixty generated reports."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from click.testing import Result as Outcome
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedrad.config import Experiment
from fedrad.errors import ConfigError, DataError, ModelError
from fedrad.federation import run as run_module
from fedrad.privacy.accounting import epsilon
from fedrad.simulation import centralized
from fedrad.simulation.centralized import main, train
from fedrad.tasks.classifier import Classifier
from fedrad.tasks.multi_label import MultiLabel
from fedrad.training.run_directory import Result
from fedrad.training.site import train_round
from tests import small

TEXTS = ["No acute effusion.", "Large left pleural effusion, edema.", ""]


def experiment(**changes: object) -> Experiment:
    return small.experiment(**{"train__micro_tokens": 1024, **changes})


def command(*arguments: str) -> Outcome:
    app = typer.Typer(add_completion=False)
    app.command()(main)
    return CliRunner().invoke(app, list(arguments))


def set_all(exp: Experiment) -> list[str]:
    return [part for key, value in exp.flat().items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path, str]:
    """One finished run, for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("run")
    console = Console(file=StringIO(), width=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAD_CACHE", str(tmp_path_factory.getbasetemp() / "fedrad-cache"))
        result, directory = train(experiment(run__out=str(folder / "out")), console)
    assert isinstance(console.file, StringIO)
    return result, directory, console.file.getvalue()


def test_the_run_directory_holds_what_is_promised(run: tuple[Result, Path, str]) -> None:
    _, directory, _ = run

    assert {path.name for path in directory.iterdir()} == {
        "experiment.toml",
        "metrics.jsonl",
        "start.safetensors",
        "checkpoint.safetensors",
        "result.json",
        "certificate.json",
        "adapter",
        "ledger",
    }
    assert (directory / "ledger" / "site-000" / "ledger.sqlite").is_file()
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "fedrad.json"} <= {
        path.name for path in (directory / "adapter").iterdir()
    }
    assert Experiment.load(directory / "experiment.toml") == experiment(run__out=str(directory))


def test_metrics_have_a_line_for_each_round(run: tuple[Result, Path, str]) -> None:
    result, directory, _ = run
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]

    assert [(line["round"], line["step"], line["split"]) for line in lines] == [(k, 3 * k, "test") for k in range(3)]
    assert all(set(line) >= {"weighted_f1", "micro_f1", "macro_f1", "per_label", "epsilon"} for line in lines)
    spent = [line["epsilon"]["site-000"] for line in lines]
    assert spent == sorted(spent)
    assert spent[0] == 0
    assert spent[-1] == result.epsilon["site-000"]
    assert lines[-1]["weighted_f1"] == result.scores.main


def test_epsilon_is_met_from_below_and_is_the_ledger_s(run: tuple[Result, Path, str]) -> None:
    result, directory, _ = run
    figures = json.loads((directory / "result.json").read_text())
    with small.ledger(directory / "ledger" / "site-000") as ledger:
        rows, events = ledger.rows(), ledger.view.events

    assert [(row.run, row.round, row.steps, row.done) for row in rows] == [
        ("centralized", 1, 3, True),
        ("centralized", 2, 3, True),
    ]
    assert result.epsilon["site-000"] == figures["epsilon_max"] == epsilon(events, small.DELTA)
    assert 0.98 * 8.0 < figures["epsilon_max"] <= 8.0


def test_it_says_what_it_does(run: tuple[Result, Path, str]) -> None:
    _, _, text = run

    assert "training and" in text
    assert "plan: epsilon <= 8 per hospital" in text
    assert "simulation only" in text
    assert "step 6/6" in text
    assert "\x1b" not in text


def test_the_classifier_loads(run: tuple[Result, Path, str]) -> None:
    result, directory, _ = run
    classifier = Classifier.load(directory)
    predicted = classifier.predict(TEXTS)

    assert classifier.labels == tuple(result.scores.per_label)
    assert predicted.shape == (3, 14)
    assert np.isfinite(predicted).all()
    assert "simulation only" in classifier.privacy


@pytest.mark.slow
def test_peft_loads_the_adapter(run: tuple[Result, Path, str]) -> None:
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    _, directory, _ = run
    base = AutoModel.from_pretrained(small.model_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(small.model_folder())
    model = PeftModel.from_pretrained(base, str(directory / "adapter")).eval()
    head = load_file(directory / "adapter" / "head.safetensors")
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=40, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        predicted = torch.sigmoid(pooled @ head["weight"].T + head["bias"])

    assert np.allclose(predicted.numpy(), Classifier.load(directory).predict(TEXTS), atol=1e-5)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_seeded_runs_are_the_same_to_the_bit_however_they_are_cut(tmp_path: Path, optimizer: str) -> None:
    """Rounds x steps: 2 x 3, the same again, and 1 x 6."""
    adapters, results = [], []
    for k, (rounds, steps) in enumerate([(2, 3), (2, 3), (1, 6)]):
        exp = experiment(
            run__out=str(tmp_path / f"{k}"),
            train__rounds=rounds,
            train__local_steps=steps,
            train__optimizer=optimizer,
        )
        result, directory = train(exp)
        results.append(result)
        adapters.append({file.name: load_file(file) for file in sorted((directory / "adapter").glob("*.safetensors"))})
    for other, result in zip(adapters[1:], results[1:], strict=True):
        assert all(small.same(adapters[0][name], other[name]) for name in adapters[0])
        assert result.scores == results[0].scores
        assert result.epsilon == results[0].epsilon  # to the last digit


def test_system_noise_gives_another_adapter_each_time(tmp_path: Path) -> None:
    """Control of the test above."""
    heads = []
    for k in range(2):
        _, directory = train(experiment(run__out=str(tmp_path / f"{k}"), privacy__noise="system"))
        heads.append(load_file(directory / "adapter" / "head.safetensors"))

    assert not small.same(*heads)


# The command


def test_the_command_ends_with_a_table_and_0(tmp_path: Path) -> None:
    outcome = command(*set_all(experiment()), "--set", "sites.count=3", "--out", str(tmp_path / "out"))

    assert outcome.exit_code == 0, outcome.output
    assert "sites.* has no effect" in outcome.output
    for expected in ("weighted F1", "epsilon site-000", "noisy steps", "seeded: simulation only"):
        assert expected in outcome.output
    assert (tmp_path / "out" / "result.json").is_file()


def test_without_privacy_it_says_so(tmp_path: Path) -> None:
    result, directory = train(experiment(privacy__epsilon=0.0, run__out=str(tmp_path / "out")))
    figures = json.loads((directory / "result.json").read_text())

    assert result.epsilon_max == float("inf")
    assert figures["epsilon_max"] is None
    assert "WITHOUT" in figures["statement"]
    assert "WITHOUT" in (directory / "adapter" / "README.md").read_text()


def test_a_wrong_configuration_ends_with_2_and_all_problems(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text('[privacy]\nepsilom = 1.0\n[train]\nrounds = 0\noptimizer = "adamw"\n')
    outcome = command(str(config), "--set", "privacy.unit=person", "--out", str(tmp_path / "out"))

    assert outcome.exit_code == 2
    for expected in ("epsilom", "did you mean", "train.rounds", "train.optimizer", "privacy.unit"):
        assert expected in outcome.output
    assert not (tmp_path / "out").exists()


def test_reports_longer_than_the_model_reads_end_with_2(tmp_path: Path) -> None:
    outcome = command(*set_all(experiment(data__max_length=64)), "--out", str(tmp_path / "out"))

    assert outcome.exit_code == 2
    assert "data.max-length" in outcome.output


def test_a_used_folder_ends_with_2_and_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("mine")
    outcome = command(*set_all(experiment()), "--out", str(tmp_path))

    assert outcome.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_missing_corpus_ends_with_3(tmp_path: Path) -> None:
    exp = experiment(data__name="openi", data__path=str(tmp_path / "nothing"))
    outcome = command(*set_all(exp), "--out", str(tmp_path / "out"))

    assert outcome.exit_code == 3
    assert not list(tmp_path.rglob("result.json"))


def test_a_run_that_fails_half_way_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(MultiLabel, "export", crash)
    outcome = command(*set_all(experiment()), "--out", str(tmp_path / "out"))

    assert outcome.exit_code != 0
    assert not list(tmp_path.rglob("result.json"))


def test_start_prior_and_notes_are_in_the_result_and_on_the_screen(tmp_path: Path) -> None:
    """A table of forty reports, with labels that nobody told the generator, at an epsilon that moves nothing."""
    table, out = tmp_path / "reports.csv", tmp_path / "out"
    table.write_text("text,effusion,oddity\n" + "".join(f"report {i},{i % 2},{i % 3 // 2}\n" for i in range(40)))
    changes = {"data__name": "table", "data__path": str(table), "data__label_columns": "effusion,oddity"}
    still = {"privacy__epsilon": 1.0, "train__learning_rate": 1e-5, "lora__targets": []}
    outcome = command(*set_all(experiment(**still, **changes)), "--out", str(out))
    assert outcome.exit_code == 0, outcome.output
    figures = json.loads((out / "result.json").read_text())
    first, *_, last = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    assert {key: first[key] for key in figures["before"]} == figures["before"]
    assert figures["before"]["weighted_f1"] == last["weighted_f1"] == figures["weighted_f1"]
    assert figures["decisions_changed"] == 0
    positives = figures["positives"]
    assert sum(positives.values()) > 0
    for label, count in positives.items():
        assert figures["label_prior"]["per_label"][label] == pytest.approx(2 * count / (count + 8), abs=1e-6)
    notes = figures["notes"]
    assert len(notes) == len(set(notes))
    for expected in (
        'If effusion is meant as "Pleural Effusion"',
        "Too few positives to be learnt at this noise: oddity (",
        "Scores are of 8 reports only",
        "The private phase changed nothing",
    ):
        assert sum(expected in note for note in notes) == 1, expected
    shown = outcome.output.splitlines()
    assert all(f"note: {note}" in shown for note in notes)
    charged = next(k for k, line in enumerate(shown) if line.startswith("step "))
    assert sum("effusion is meant as" in line for line in shown[:charged]) == 1  # before anything is spent
    assert "label prior (reads no text)" in outcome.output


def test_ctrl_c_says_how_to_go_on_and_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []

    def interrupted(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        if answers:
            raise KeyboardInterrupt
        answers.append(train_round(*args, **kwargs))
        return answers[0]

    monkeypatch.setattr(centralized, "train_round", interrupted)
    out = tmp_path / "out"
    outcome = command(*set_all(experiment()), "--out", str(out))

    assert outcome.exit_code == 130
    assert "interrupted" in outcome.stderr
    assert f"--resume {out}" in outcome.stderr
    assert {path.name for path in out.iterdir()} == {
        "experiment.toml",
        "metrics.jsonl",
        "start.safetensors",
        "checkpoint.safetensors",
        "ledger",
    }
    kept = load_file(out / "checkpoint.safetensors")
    assert small.same({name: kept[name] for name in answers[0]}, answers[0])

    monkeypatch.setattr(centralized, "train_round", train_round)
    assert command("--resume", str(out)).exit_code == 0
    again = command("--resume", str(out))
    assert again.exit_code == ConfigError.exit_code
    assert "is finished" in again.stderr


def test_ctrl_c_before_the_run_directory_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "initial_state", interrupted)
    outcome = command(*set_all(experiment()), "--out", str(tmp_path / "out"))

    assert outcome.exit_code == 130
    assert "nothing was charged or written" in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("terms", [{"sites__deltas": "1e-9,1e-9"}, {"sites__epsilons": "1,2", "sites__ranks": "2,2"}])
def test_terms_of_single_hospitals_are_not_stated_where_there_are_none(
    tmp_path: Path, terms: dict[str, object]
) -> None:
    """The statement gave the smallest delta of ``sites.deltas``, at which nothing had been composed."""
    with pytest.raises(ConfigError, match=r"sites\..*for simulated hospitals only") as caught:
        train(experiment(sites__count=2, run__out=str(tmp_path / "out"), **terms))
    assert len(caught.value.problems) == len(terms)
    assert not (tmp_path / "out").exists()


def test_a_run_that_could_not_begin_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    table = tmp_path / "reports.csv"
    changes = {"data__name": "table", "data__path": str(table), "data__label_columns": "edema,fracture"}
    exp = experiment(run__out=str(tmp_path / "out"), train__rounds=1, train__local_steps=1, **changes)
    table.write_text("text,edema\nno effusion,0\n")
    with pytest.raises(DataError, match="fracture"):
        train(exp)
    with pytest.raises(ModelError):
        train(experiment(run__out=str(tmp_path / "out"), model__name=str(tmp_path / "no-model")))
    assert not (tmp_path / "out").exists()
    table.write_text("text,edema,fracture\n" + "".join(f"report {i},{i % 2},{i % 3 // 2}\n" for i in range(40)))
    train(exp)
    assert (tmp_path / "out" / "result.json").is_file()
    with pytest.raises(ConfigError, match="nothing is overwritten"):  # before anything is read
        train(experiment(run__out=str(tmp_path / "out"), model__name=str(tmp_path / "no-model")))


@pytest.mark.slow
def test_the_module_runs_and_its_tracebacks_hold_no_report(tmp_path: Path) -> None:
    """P27: an unforeseen error must not print local variables, which Typer would do."""
    secret = "pneumothorax of a patient with a name"
    script = tmp_path / "broken.py"
    script.write_text(
        "import runpy, sys\n"
        "import fedrad.training.corpus as corpus\n"
        "def read(experiment):\n"
        f"    text = {secret!r}.upper()\n"
        "    return text.no_such_attribute\n"
        "corpus.read_corpus = read\n"
        "sys.argv = ['fedrad.centralized', '--out', sys.argv[1]]\n"
        "runpy.run_module('fedrad.centralized', run_name='__main__')\n"
    )
    outcome = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")],
        cwd=Path(centralized.__file__).parents[1],
        env={"PATH": "", "PYTHONPATH": str(Path(centralized.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )

    assert outcome.returncode != 0
    assert "no_such_attribute" in outcome.stderr
    assert secret.upper() not in outcome.stdout + outcome.stderr
