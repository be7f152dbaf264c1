"""The command line: what it lists, what it writes, and that it overwrites and reveals nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import fedrad
from fedrad import cli, simulate
from fedrad.errors import ConfigError, FederationError
from fedrad.model.export import export_peft
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny

SECRET = "zyzzyva"
TEXTS = ["No acute effusion.", "Large left pleural effusion,\nwith edema.", "lungs are clear"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an adapter that was never trained."""
    directory = tmp_path_factory.mktemp("run")
    setup = set_up(small.experiment(), small.LABELS, single_label=False)
    tiny.randomise(setup.classifier)
    export_peft(setup.classifier, setup.base, directory / "adapter", max_length=40, privacy_statement="none")
    return directory


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return table(tmp_path / "reports.csv", [["id", "text", "note"], *([f"r{i}", t, "x"] for i, t in enumerate(TEXTS))])


def table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_help_lists_the_commands() -> None:
    shown = call("--help")

    assert shown.exit_code == 0
    assert all(command in shown.output for command in ("simulate", "centralized", "predict"))


def test_an_unexpected_error_prints_no_local_variables() -> None:
    """Typer's own tracebacks would, and they may hold reports (P27)."""
    assert cli.app.pretty_exceptions_enable is False


# predict


def test_predict_keeps_the_other_columns_and_adds_the_labels(run: Path, reports: Path) -> None:
    shown = call("predict", run, reports)

    assert shown.exit_code == 0
    header, *rows = csv.reader(shown.stdout.splitlines())
    assert header == ["id", "note", *small.LABELS]
    assert [row[:2] for row in rows] == [["r0", "x"], ["r1", "x"], ["r2", "x"]]
    expected = fedrad.Classifier.load(run).predict(TEXTS)
    assert np.allclose(np.array([row[2:] for row in rows], dtype=float), expected, atol=1e-6)
    assert len({tuple(row[2:]) for row in rows}) == 3  # the texts were read: other texts have other probabilities


def test_predict_writes_a_file_and_no_report(run: Path, reports: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"

    shown = call("predict", run / "adapter", reports, "--out", out)

    assert shown.exit_code == 0
    assert shown.output == ""
    assert out.read_text().splitlines() == call("predict", run, reports).stdout.splitlines()
    assert "effusion" not in out.read_text()


def test_predict_overwrites_nothing(run: Path, reports: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("precious")

    shown = call("predict", run, reports, "--out", out)

    assert shown.exit_code == 3
    assert "nothing is overwritten" in shown.stderr
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([["id", "report"], ["r0", SECRET]], "no column 'text'"),
        ([["id", "text"], ["r0", SECRET], ["r1", "  "]], "row 2: empty report"),
        ([["id", "text"], ["r0", SECRET, SECRET]], "row 1: empty report, or more fields"),
        ([["id", "text"], ["r0"]], "row 1: empty report"),
        ([], "no column 'text'"),
    ],
)
def test_predict_says_what_is_wrong_without_the_text(
    run: Path, tmp_path: Path, rows: list[list[str]], says: str
) -> None:
    out = tmp_path / "out.csv"

    shown = call("predict", run, table(tmp_path / "reports.csv", rows), "--out", out)

    assert shown.exit_code == 3
    assert says in " ".join(shown.stderr.split())
    assert SECRET not in shown.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(f'text\n"{SECRET}" {SECRET}"\n'.encode(), "not a well-formed CSV"), (b"text\n\xff\xfe\n", "not UTF-8")],
)
def test_predict_refuses_a_file_that_is_no_csv(run: Path, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "reports.csv").write_bytes(content)

    shown = call("predict", run, tmp_path / "reports.csv")

    assert shown.exit_code == 3
    assert says in " ".join(shown.stderr.split())
    assert SECRET not in shown.output


def test_predict_without_reports_or_run(run: Path, reports: Path, tmp_path: Path) -> None:
    missing = call("predict", run, tmp_path / "nowhere.csv")
    assert (missing.exit_code, "no such file" in missing.stderr) == (3, True)

    empty = call("predict", tmp_path, reports)
    assert empty.exit_code == 4
    assert "Traceback" not in empty.output


# simulate


def test_simulate_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[object] = []
    monkeypatch.setattr(cli, "run_simulation", lambda *given, **named: seen.append((given, named)))

    call("simulate", "openi", "--set", "a=1", "--set", "b=2", "--out", tmp_path, "--grid", "flower", "--verbose")
    call("simulate")

    assert seen == [
        (("openi", ["a=1", "b=2"], tmp_path), {"grid": "flower", "verbose": True}),
        (("mimic", [], None), {"grid": "inprocess", "verbose": False}),
    ]


@pytest.mark.parametrize(("error", "code"), [(FederationError("round 2: [odd]"), 6), (ConfigError("x: unknown"), 2)])
def test_a_failure_is_one_line_and_an_exit_code(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "run_simulation", fails)

    shown = call("simulate")

    assert (shown.exit_code, shown.stderr, shown.stdout) == (code, f"fedrad: {error}\n", "")


def test_all_configuration_errors_come_at_once_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(simulate, "run_in_process", started)

    shown = call(
        "simulate", "mimic", "--set", "privacy.epsilom=1", "--set", "sites.count=0", "--set", "data.name=table"
    )

    assert shown.exit_code == 2
    said = " ".join(shown.stderr.split())
    assert all(part in said for part in ("did you mean privacy.epsilon?", "sites.count = 0", "data.path"))


def test_an_unknown_app_is_named_with_the_ones_there_are() -> None:
    shown = call("simulate", "nowhere")

    assert shown.exit_code == 2
    assert "mimic" in shown.stderr
