"""The command line: what it lists, what it writes, and that it overwrites and reveals nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import fedrad
from fedrad.cli import app as cli
from fedrad.cli.output import reporting_errors
from fedrad.config import Experiment
from fedrad.data.report import warn
from fedrad.errors import ConfigError, DataError, FederationError
from fedrad.federation import server
from fedrad.simulation import centralized, in_process, simulate
from fedrad.training.corpus import Corpus
from fedrad.training.setup import plan_for
from tests import small
from tests.model import tiny

SECRET = "zyzzyva"
TOO_LONG = "x" * 300
TEXTS = ["No acute effusion.", "Large left pleural effusion,\nwith edema.", "lungs are clear"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.untrained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return table(tmp_path / "reports.csv", [["id", "text", "note"], *([f"r{i}", t, "x"] for i, t in enumerate(TEXTS))])


def table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize(("given", "then"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(
    given: str | None, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # restored afterwards
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert call("app", "mimic").exit_code == 0
    assert os.environ["OMP_WAIT_POLICY"] == then


def test_help_lists_the_commands() -> None:
    shown = call("--help")

    assert shown.exit_code == 0
    assert all(command in shown.output for command in ("simulate", "centralized", "predict", "ledger", "plan", "model"))


def test_model_prints_what_a_hospital_pins(tmp_path: Path) -> None:
    one, other = (tiny.save(tmp_path / name, "bert", seed=seed) for name, seed in (("one", 0), ("other", 1)))
    shown = [call("model", name).output for name in (one, other, one)]
    prints = [re.search(r"fingerprint  ([0-9a-f]{64})\n", text) for text in shown]
    assert all(prints)
    assert len({found[1] for found in prints if found}) == 2
    assert shown[0] == shown[2]
    assert call("model", str(tmp_path / "nothing")).exit_code == 4


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
        ([["id", "report"], ["r0", SECRET]], "lacks 'text'. It has 'id', 'report'. Name the column"),
        ([[SECRET + " is all there is"], [SECRET]], "lacks 'text'. It has 1 column. Name the column"),
        ([["id|text"], [f"r0|{SECRET}"]], "seem to be separated by '|'. Say so with data.separator"),
        ([["id", "text"], ["r0", SECRET, SECRET]], "row 1: has 3 cells where the header has 2. Look at the quotation"),
        ([["id", "text"], ["r0", ""], ["r1"]], "row 2: has 1 cell where the header has 2"),
        ([], "is empty"),
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


def test_predict_leaves_a_row_without_text_blank(run: Path, tmp_path: Path) -> None:
    rows = [["id", "text"], ["r0", TEXTS[0]], ["r1", "  "], ["r2", TEXTS[2]], ["r3", ""]]
    shown = call("predict", run, table(tmp_path / "reports.csv", rows))
    assert shown.exit_code == 0
    says = "reports.csv: 2 of 4 rows have no text (rows 2, 4): nothing is predicted for them.\n"
    assert shown.stderr.endswith(says)
    assert len(shown.stderr.splitlines()) == 1
    whole = call("predict", run, table(tmp_path / "whole.csv", [rows[0], rows[1], rows[3]])).stdout.splitlines()
    blank = "," * len(small.LABELS)
    assert shown.stdout.splitlines() == [whole[0], whole[1], f"r1{blank}", whole[2], f"r3{blank}"]
    assert call("predict", run, tmp_path / "whole.csv").stderr == ""


def test_predict_keeps_the_place_of_a_blank_line_where_there_is_one_column(run: Path, tmp_path: Path) -> None:
    """Nothing but its place says there which report a row of probabilities is of."""
    (tmp_path / "reports.csv").write_text(f"text\n{TEXTS[0]}\n\n{TEXTS[2]}\n")
    shown = call("predict", run, tmp_path / "reports.csv")
    header, *rows = csv.reader(shown.stdout.splitlines())
    assert header == list(small.LABELS)
    assert rows[1] == [""] * len(small.LABELS)
    expected = fedrad.Classifier.load(run).predict([TEXTS[0], TEXTS[2]])
    assert np.allclose(np.array([rows[0], rows[2]], dtype=float), expected, atol=1e-6)


def test_predict_reads_the_column_that_the_run_was_trained_on(run: Path, tmp_path: Path) -> None:
    trained = tmp_path / "run"
    shutil.copytree(run, trained)
    data = table(tmp_path / "reports.csv", [["text", "befund"], [TEXTS[1], TEXTS[0]]])
    by_text = call("predict", trained, data).stdout
    (trained / "experiment.toml").write_text('[data]\nname = "table"\ntext-column = "befund"\n')
    by_befund = call("predict", trained, data).stdout
    assert by_text.startswith("befund,")
    assert by_befund.startswith("text,")
    assert by_text.splitlines()[1].split(",")[-1] != by_befund.splitlines()[1].split(",")[-1]
    assert call("predict", trained / "adapter", data).stdout == by_befund
    assert call("predict", trained, data, "--column", "text").stdout == by_text
    missing = call("predict", trained, table(tmp_path / "other.csv", [["id", "report"], ["r0", SECRET]]))
    assert (missing.exit_code, "lacks 'befund'" in missing.stderr) == (3, True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f'text\n"{SECRET}" {SECRET}"\n'.encode(), "row 1: is not valid CSV"),
        (b"text\na\n\xff\xfe\n", "row 2: byte 7 is not UTF-8. Save"),
    ],
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
    both = call("predict", tmp_path, tmp_path / "nowhere.csv")  # the run comes first: without it no file will do
    assert (both.exit_code, "nowhere.csv" in both.stderr) == (4, False)


# simulate


def test_simulate_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[object] = []
    monkeypatch.setattr(simulate, "simulate", lambda *given, **named: seen.append((given, named)))

    call("simulate", "openi", "--set", "a=1", "--set", "b=2", "--out", tmp_path, "--grid", "flower", "--verbose")
    call("simulate", "--config", tmp_path / "mine.toml")

    assert seen == [
        (("openi", ["a=1", "b=2"], tmp_path), {"config": None, "grid": "flower", "verbose": True}),
        (("mimic", [], None), {"config": tmp_path / "mine.toml", "grid": "inprocess", "verbose": False}),
    ]


def test_a_files_keys_go_before_the_apps_and_set_before_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[Experiment] = []
    monkeypatch.setattr(in_process, "run_in_process", lambda folder, experiment, **options: ran.append(experiment))
    mine = tmp_path / "mine.toml"
    mine.write_text("[train]\nrounds = 3\nbatch = 7\n[sites]\ncount = 2\n")
    assert call("simulate", "--config", mine, "--set", "train.batch=9", "--out", tmp_path / "run").exit_code == 0
    assert (ran[0].train.rounds, ran[0].train.batch, ran[0].sites.count) == (3, 9, 2)
    mine.write_text("[train]\nbatsh = 7\n")
    wrong = call("simulate", "--config", mine, "--set", "privacy.epsilon=-1")
    assert wrong.exit_code == 2
    assert all(part in wrong.stderr for part in ("train.batsh", "privacy.epsilon", "2 problems"))
    assert len(ran) == 1


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "simulate", interrupted)
    shown = call("simulate")
    assert shown.exit_code == 130
    assert shown.stderr == "fedrad: interrupted. Nothing is finished. What was charged is in the ledgers.\n"


# What commands import. Each takes a second or more; what is imported says so without a clock.
HEAVY = ("datasets", "dp_accounting", "flwr", "numpy", "opacus", "peft", "pyarrow", "scipy", "torch", "transformers")
MISTYPED = ("--set", "privacy.epsilom=1")


def imported(module: str, *arguments: object) -> tuple[int, set[str], str]:
    """Exit status of ``python -m module arguments``, which of the heavy packages it imported, and what it printed."""
    script = (
        "import atexit, runpy, sys; module = sys.argv.pop(1)\n"
        "atexit.register(lambda: print('imported', *sys.modules))\n"
        "runpy.run_module(module, run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", script, module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said, _, modules = done.stdout.rpartition("imported ")
    return done.returncode, set(HEAVY) & set(modules.split()), said + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "simulate"),
        (["-h"], 0, "simulate"),
        (["--version"], 0, fedrad.__version__),
        (["simulate", "-h"], 0, "--grid"),
        (["simulate", "--nonsense"], 2, "No such option"),
        (["simulat"], 2, "Did you mean 'simulate'?"),
        (["simulate", "openy"], 2, "did you mean openi?"),
        (["simulate", *MISTYPED], 2, "did you mean privacy.epsilon?"),
        (["simulate", "--grid", "flower", *MISTYPED], 2, "did you mean privacy.epsilon?"),
        (["centralized", *MISTYPED], 2, "did you mean privacy.epsilon?"),
        (["plan", *MISTYPED], 2, "did you mean privacy.epsilon?"),
        (["plan", "--reports", "0", "--labels", "0"], 2, "2 problems"),
        (["plan", "--set", "data.name=openi", "--set", "data.path=/nowhere"], 2, "--reports: say how many"),
        (["ledger", "/nowhere"], 5, "There is no folder /nowhere"),
        (["predict", "/nowhere", "reports.csv"], 4, "/nowhere/adapter holds no complete adapter"),
        (["evaluate", "/nowhere", "reports.csv"], 4, "/nowhere/adapter holds no complete adapter"),
        (["data", "check", "/nowhere.csv"], 3, "/nowhere.csv: there is no such file or folder"),
        (["data", "check", "-h"], 0, "--map"),
        (["app", "ct_rate"], 0, "simulations/ct_rate"),
    ],
)
def test_help_and_mistakes_need_no_heavy_import(arguments: list[str], code: int, says: str) -> None:
    ended, heavy, said = imported("fedrad", *arguments)
    assert (ended, heavy) == (code, set()), said
    assert says in " ".join(said.split())


def test_centralized_alone_is_as_quick_to_tell(run: Path, tmp_path: Path) -> None:
    for arguments, code in ((["-h"], 0), (MISTYPED, 2)):
        ended, heavy, said = imported("fedrad.centralized", *arguments)
        assert (ended, heavy) == (code, set()), said
        assert "--set" in said or "did you mean privacy.epsilon?" in said
    # A file that is not there is told before the model is loaded; the adapter is.
    ended, heavy, said = imported("fedrad", "predict", run, tmp_path / "nowhere.csv")
    assert (ended, heavy, "nowhere.csv" in said) == (3, set(), True)


def test_a_ledger_is_shown_without_torch(site_dir: Path) -> None:
    ended, heavy, said = imported("fedrad", "ledger", site_dir)
    assert (ended, heavy) == (0, {"dp_accounting", "numpy", "scipy"}), said
    # Control: a command that needs torch is seen to import it.
    ended, heavy, said = imported("fedrad", "plan", "--set", "privacy.delta=0.5")
    assert ended == 5
    assert {"torch", "transformers"} <= heavy


@pytest.mark.parametrize(
    "command", ["centralized", "simulate", "app", "predict", "evaluate", "ledger", "model", "plan"]
)
def test_every_argument_and_option_of_a_command_is_explained(command: str) -> None:
    found = typer.main.get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    shown = call(command, "-h")
    assert shown.exit_code == 0
    for parameter in found.params:
        if isinstance(parameter, click.Argument):
            assert f"{parameter.name.upper()} is " in shown.output, parameter.name
        else:
            assert parameter.help, parameter.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "check", TOO_LONG],
        ["evaluate", TOO_LONG, "new.csv"],
        ["predict", TOO_LONG, "new.csv"],
        ["simulate", TOO_LONG],
        ["privatise", f"{TOO_LONG}.csv", "out.csv", "--task", "chest", "--epsilon", "20"],
        ["centralized", "--set", f"run.out={TOO_LONG}"],
        ["base", "write", "--out", f"{TOO_LONG}/base"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_file_that_can_not_be_there_is_one_line(arguments: list[str]) -> None:
    shown = call(*arguments)
    assert shown.exit_code == 1
    assert shown.stderr.startswith("fedrad: ")
    assert shown.stderr.endswith(": File name too long.\n")
    assert shown.stderr.count("\n") == 1


def test_a_full_disk_is_one_line_and_a_bug_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"), reporting_errors(), Path("/dev/full").open("w") as full:
        full.write("x")
    assert capsys.readouterr().err.startswith("fedrad: No space left on device: make room where fedrad writes")
    with pytest.raises(OSError, match="of a library"), reporting_errors():
        raise OSError("of a library")


@pytest.mark.parametrize("typed", ["simulat", "ledgr", "pln"])
def test_a_mistyped_command_has_one_suggestion(typed: str) -> None:
    shown = call(typed)
    assert shown.exit_code == 2
    assert shown.stderr.count("Did you mean") == 1


@pytest.mark.parametrize(("error", "code"), [(FederationError("round 2: [odd]"), 6), (ConfigError("x: unknown"), 2)])
def test_a_failure_is_one_line_and_an_exit_code(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(simulate, "simulate", fails)

    shown = call("simulate")

    assert (shown.exit_code, shown.stderr, shown.stdout) == (code, f"fedrad: {error}\n", "")


@pytest.mark.parametrize(("command", "where"), [("centralized", centralized), ("simulate", server)])
def test_oddities_of_a_corpus_are_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, where: ModuleType
) -> None:
    def odd(_: Experiment) -> Corpus:
        warn("a.csv: 2 reports left out.")
        raise DataError("the end.")

    monkeypatch.setattr(where, "read_corpus", odd)
    shown = call(command, "--out", tmp_path / "run")
    assert shown.stderr == "warning: a.csv: 2 reports left out.\nfedrad: the end.\n"


def test_all_configuration_errors_come_at_once_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(in_process, "run_in_process", started)

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


# ledger


@pytest.fixture
def site_dir(tmp_path: Path) -> Path:
    """A simulated hospital's folder in a run directory, with two rounds charged."""
    directory = tmp_path / "run" / "ledger" / "site-000"
    plan = plan_for(small.experiment(privacy__noise="system"), 900)
    with small.ledger(directory) as book:
        for number in (1, 2):
            book.mark_done(book.record_intent(run="r", round=number, plan=plan, steps=3))
    return directory


def test_ledger_shows_charges_curve_and_what_is_left(site_dir: Path) -> None:
    shown = call("ledger", site_dir, "--cap", 20)

    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "ledger of site-000" in shown.stdout
    assert "epsilon after charge" in shown.stdout
    assert "2 charges, 6 noisy steps" in shown.stdout
    assert "under a cap of 20" in shown.stdout
    assert "left: unknown" in call("ledger", site_dir).stdout


def test_ledger_as_json_and_csv_agree(site_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "charges.csv"
    shown = call("ledger", site_dir, "--json", "--csv", out, "--cap", 40)  # the plan is done: more goes by the filter

    read = json.loads(shown.stdout)
    lines = list(csv.DictReader(out.read_text().splitlines()))
    assert [float(line["epsilon"]) for line in lines] == [charge["epsilon"] for charge in read["charges"]]
    assert read["epsilon"] == read["charges"][-1]["epsilon"]
    assert read["left"]["steps"] > 0


def test_ledger_overwrites_nothing_and_names_what_is_wrong(site_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "charges.csv"
    out.write_text("precious")

    assert call("ledger", site_dir, "--csv", out).exit_code == 3
    assert out.read_text() == "precious"
    above = call("ledger", tmp_path / "run")
    assert (above.exit_code, str(site_dir) in above.stderr) == (5, True)
    assert call("ledger", tmp_path / "nowhere").exit_code == 5
    assert call("ledger", site_dir, "--cap", -1).exit_code == 5
    assert not (tmp_path / "run" / "ledger.sqlite").exists()


def test_ledger_of_nothing_yet(tmp_path: Path) -> None:
    with small.ledger(tmp_path / "state"):
        pass
    shown = call("ledger", tmp_path / "state", "--cap", 1)

    assert shown.exit_code == 0
    assert "0 charges" in shown.stdout
    assert "nothing has been charged yet" in shown.stdout


# plan


def test_plan_answers_before_any_training_or_data() -> None:
    shown = call("plan", "--set", "privacy.epsilon=0.1", "--set", "lora.rank=8", "--reports", 3000)

    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "3000 declared reports in each of 4 hospitals" in shown.stdout
    assert "fedavg, rank 8, 17,678 numbers" in shown.stdout  # 2 x 8 x (384 + 384) + 14 x 385
    assert "warning: borderline" in shown.stdout
    assert "rank 8" in shown.stdout


def test_plan_reads_a_file_and_prints_json(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[privacy]\nepsilon = 1.0\n[sites]\ncount = 1\n")
    shown = call("plan", config, "--set", "train.batch=256", "--reports", 3000, "--labels", 5, "--json")

    read = json.loads(shown.stdout)
    assert (read["plan"]["epsilon"], read["plan"]["expected_batch"], read["hospitals"]) == (1.0, 256, 1)
    assert read["epsilon_pld"] <= 1.0
    assert read["present"]["trainable"] == 2 * 4 * (384 + 384) + 5 * 385


def test_plan_says_when_it_assumes_a_number_of_hospitals(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[sites]\ncount = 3\n")
    first = [
        call("plan", *arguments, "--reports", 3000).stdout.splitlines()[0]
        for arguments in ([], ["--set", "sites.count=4"], [config], ["--hospitals", 1], [config, "--hospitals", 2])
    ]

    assert first[0].startswith("hospitals: 4 ASSUMED, the default of sites.count")
    assert first[1:] == [f"hospitals: {count} in each round" for count in (4, 3, 1, 2)]


def test_plan_without_privacy_has_no_table() -> None:
    shown = call("plan", "--set", "privacy.epsilon=0")

    assert "NOT PRIVATE" in shown.stdout
    assert "fedsb" not in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--set", "privacy.epsilom=1"], 2),
        (["--set", "data.name=openi", "--set", "data.path=/nowhere"], 2),
        (["--set", "model.name=somebody/some-model"], 4),
        (["--set", "privacy.delta=0.5"], 5),
    ],
)
def test_plan_says_what_is_wrong(arguments: list[str], code: int) -> None:
    shown = call("plan", *arguments)

    assert (shown.exit_code, shown.stdout) == (code, "")
    assert shown.stderr.startswith("fedrad: ")
    assert "Traceback" not in shown.stderr
