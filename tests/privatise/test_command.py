"""``fedrad privatise``: what it writes, what it shows, and what it refuses."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedrad.cli import app as cli
from fedrad.privatise import files
from fedrad.privatise.embeddings import load_table
from tests.cli.test_app import imported

SECRET = "Margaret Holloway"
ROWS = [
    ["text", "label", "patient"],
    [f"Patient: {SECRET}. Small left pleural effusion.", "1", "a"],
    ["The lungs are clear.", "0", "a"],
    ["", "0", "b"],
]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["privatise", *(str(argument) for argument in arguments)])


def done(source: Path, out: Path, *more: object) -> Result:
    return call(source, out, "--task", "chest findings", "--epsilon", 1000, "--seed", 0, *more)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    path = tmp_path / "reports.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(ROWS)
    return path


def test_the_result_has_the_text_and_named_columns_only(reports: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"

    shown = done(reports, out, "--keep", "label", "--patient", "patient")

    assert shown.exit_code == 0, shown.output
    assert out.read_text() == ("text,label\npatient :. small left pleural effusion.,1\nthe lungs are clear.,0\n,0\n")
    assert SECRET not in shown.output
    assert "for one patient" in " ".join(shown.output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.csv.manifest.json", "reports.csv"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("out*")} == {0o600}


def test_the_manifest_says_what_was_done_and_depends_on_no_text(reports: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("text\none\ntwo words\nthree words here\n")
    for source in (reports, other):
        assert done(source, tmp_path / f"{source.stem}-out.csv", "--kappa", "code").exit_code == 0
    one, two = (json.loads((tmp_path / f"{name}-out.csv.manifest.json").read_text()) for name in ("reports", "other"))

    assert one.pop("result_sha256") != two.pop("result_sha256")
    assert one == two
    assert (one["texts"], one["kappa"], one["table"]["sha256"]) == (3, "code: epsilon / pi", load_table().fingerprint)


def test_parquet_and_text_files(reports: Path, tmp_path: Path) -> None:
    assert done(reports, tmp_path / "out.parquet", "--keep", "label").exit_code == 0
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert found == {
        "text": ["patient :. small left pleural effusion.", "the lungs are clear.", ""],
        "label": ["1", "0", "0"],
    }
    assert done(tmp_path / "out.parquet", tmp_path / "again.csv").exit_code == 0

    (tmp_path / "in.txt").write_text("The lungs are clear.\n\nNo effusion.\n")
    assert done(tmp_path / "in.txt", tmp_path / "out.txt").exit_code == 0
    assert (tmp_path / "out.txt").read_text() == "the lungs are clear.\n\nno effusion.\n"


def test_a_long_file_is_read_in_chunks_with_fresh_randomness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ROWS", 4)
    (tmp_path / "in.txt").write_text("the lungs are clear\n" * 10)

    shown = call(tmp_path / "in.txt", tmp_path / "o.txt", "--task", "chest", "--epsilon", 1, "--seed", 0)

    assert shown.exit_code == 0
    lines = (tmp_path / "o.txt").read_text().splitlines()
    assert (len(lines), len(set(lines))) == (10, 10)


def test_the_preview_writes_nothing(reports: Path, tmp_path: Path) -> None:
    shown = call(reports, "--task", "chest", "--epsilon", 1000, "--preview", 1)

    assert shown.exit_code == 0, shown.output
    assert "holloway[2]→nothing" in " ".join(shown.output.split())
    assert "result: patient :. small left pleural effusion." in shown.output
    assert "lungs" not in shown.output
    assert [path.name for path in tmp_path.iterdir()] == ["reports.csv"]


def test_a_page_says_whether_it_holds_private_text(reports: Path, tmp_path: Path) -> None:
    open_, hidden = tmp_path / "open.html", tmp_path / "hidden.html"
    common = (reports, "--task", "chest", "--epsilon", 0.01, "--preview", 2, "--profile", "private-both")
    assert call(*common, "--html", open_).exit_code == 0
    shown = call(*common, "--html", hidden, "--hide")

    assert "holds PRIVATE TEXT" in open_.read_text()
    assert "holloway" in open_.read_text()
    assert "left kept" in open_.read_text()
    assert "holds no original text" in hidden.read_text()
    for word in ("margaret", "holloway", "left", "lungs"):  # kept ones too
        assert word not in hidden.read_text()
    assert "no original text" in shown.stderr
    assert {stat.S_IMODE(path.stat().st_mode) for path in (open_, hidden)} == {0o600}
    assert "nothing is overwritten" in call(*common, "--html", open_).stderr
    assert "goes with --preview" in call(reports, tmp_path / "o.csv", *common[1:5], "--html", tmp_path / "x").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("out.csv", "--epsilon", 1), 2, "--task is missing"),
        (("out.csv", "--task", "chest"), 2, "epsilon must be positive"),
        (("out.csv", "--task", "chest", "--epsilon", "inf", "--profile", "x"), 2, "2 problems in the configuration"),
        (("out.json", "--task", "chest", "--epsilon", 1), 2, "OUT must end in .csv"),
        (("out.txt", "--task", "chest", "--epsilon", 1), 2, "one text a line"),
        (("out.csv", "--task", "chest", "--epsilon", 1, "--column", "report"), 3, "lacks 'report'"),
        (("out.csv", "--task", "chest", "--epsilon", 1, "--keep", "text"), 2, "--keep names"),
        (("out.csv", "--task", "chest", "--epsilon", 1, "--preview", 1), 2, "one of the two"),
        (("--task", "chest", "--epsilon", 1), 2, "one of the two"),
        (("reports.csv", "--task", "chest", "--epsilon", 1), 3, "nothing is overwritten"),
        (("no/out.csv", "--task", "chest", "--epsilon", 1), 3, "no such folder"),
        (("out.csv", "--task", "chest", "--epsilon", 1, "--ner", "en_nothing"), 2, "--ner"),
        (("out.csv", "--task", "chest", "--epsilon", 1, "--presidio", "en_nothing"), 2, "--presidio"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    reports: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], code: int, says: str
) -> None:
    monkeypatch.chdir(reports.parent)

    shown = call(reports, *arguments)

    assert (shown.exit_code, says in " ".join(shown.stderr.split())) == (code, True), shown.stderr
    assert SECRET not in shown.output
    assert [path.name for path in reports.parent.iterdir()] == ["reports.csv"]


def test_a_bad_row_is_named_without_its_text_and_leaves_nothing(reports: Path, tmp_path: Path) -> None:
    with reports.open("a") as file:
        file.write(f"{SECRET},1\n")

    shown = done(reports, tmp_path / "out.csv")

    assert shown.exit_code == 3
    assert "row 4: has 2 cells" in " ".join(shown.stderr.split())
    assert SECRET not in shown.output
    assert [path.name for path in tmp_path.iterdir()] == ["reports.csv"]


def test_mistakes_are_told_before_torch_is_loaded(reports: Path, tmp_path: Path) -> None:
    said = ("privatise", str(reports), str(tmp_path / "out.csv"), "--task", "chest")
    for more, code in ((("--epsilon", "0"), 2), (("--epsilon", "1", "--column", "report"), 3)):
        ended, heavy, _ = imported("fedrad", *said, *more)
        assert (ended, heavy & {"torch", "transformers", "scipy"}) == (code, set())
