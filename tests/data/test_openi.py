from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedrad.data import openi
from fedrad.data.labels import CHEXPERT, OPENI_PROBLEMS
from fedrad.data.load import load_corpus

from .conftest import CANARY, raises_quietly, write_csv

HEADER = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
ROWS = [
    [1, "", "normal", "", "", "", f"Clear  {CANARY}\nlungs XXXX.", "Normal."],
    [2, "", "Opacity;Nodule", "", "", "", "", "Nodule."],
    [3, "", "normal", "", "", "", "", " "],
    [4, "", "", "", "", "", "Unknown.", ""],
]


def folder(path: Path, rows: list[list[object]] = ROWS) -> Path:
    path.mkdir(exist_ok=True)
    return write_csv(path / "indiana_reports.csv", HEADER, rows).parent


def test_rows(tmp_path: Path) -> None:
    notes: list[str] = []
    rows = list(openi.reports(folder(tmp_path), notes.append))
    assert [(r["patient"], r["text"]) for r in rows] == [("1", f"Clear {CANARY} lungs XXXX. Normal."), ("2", "Nodule.")]
    assert [name for name, value in rows[1]["labels"].items() if value] == ["Lung Lesion", "Lung Opacity"]
    assert list(openi.reports(tmp_path / "indiana_reports.csv", notes.append)) == rows
    assert "1 report left out: no findings and no impression (first: row 3)" in notes[0]
    assert "nothing in Problems" in notes[1]
    assert "(first: row 4)" in notes[1]
    assert not any(CANARY in note for note in notes)


BAD = {
    "header": ("Problems", "Problem", "Did you mean 'Problem' for 'Problems'?", None),
    "uid twice": ("\n2,", "\n1,", "uid 1 is also in row 1", 2),
    "uid": ("\n2,", f"\n{CANARY} {CANARY},", "uid is not a number", 2),
    "quote": ("Nodule.", f'"{CANARY}', "not valid CSV", 2),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path: Path, case: str) -> None:
    old, new, says, row = BAD[case]
    file = folder(tmp_path / "openi") / "indiana_reports.csv"
    file.write_text(file.read_text().replace("\r", "").replace(old, new, 1))
    error = raises_quietly(lambda: load_corpus("openi", file.parent, cache_dir=tmp_path / "cache"))
    assert says in str(error)
    assert (error.file, error.row) == (file, row)
    assert error.remedy
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_missing_file(tmp_path: Path) -> None:
    assert "indiana_reports.csv" in str(raises_quietly(lambda: openi.inputs(tmp_path)))


def test_the_documentation_prints_the_table_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
    printed = {}
    for line in page.splitlines():
        if match := re.fullmatch(r"\| ([A-Z][A-Za-z ]+) \| ((?:`[^`]+`(?:, )?)+) \|", line):
            printed[match[1]] = set(re.findall(r"`([^`]+)`", match[2]))
    assert printed == {
        label: {problem for problem, labels in OPENI_PROBLEMS.items() if label in labels} for label in CHEXPERT
    }
