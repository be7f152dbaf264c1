from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedrad.corpora import CHEXPERT
from fedrad.data import openi
from fedrad.data.load import load_corpus
from fedrad.data.openi import openi_labels

from .conftest import CANARY, raises_quietly, read_all, write_csv

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
    rows, notes = read_all(openi.source(folder(tmp_path)))
    assert [(r["patient"], r["text"]) for r in rows] == [("1", f"Clear {CANARY} lungs XXXX. Normal."), ("2", "Nodule.")]
    assert [name for name, value in rows[1]["labels"].items() if value] == ["Lung Lesion", "Lung Opacity"]
    assert read_all(openi.source(tmp_path / "indiana_reports.csv"))[0] == rows
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


def positive(*problems: str) -> set[str]:
    return {label for label, value in openi_labels(problems).items() if value}


def test_the_table_of_problems_is_in_lower_case_and_uses_our_labels() -> None:
    assert all(problem == problem.lower().strip() for problems in openi.PROBLEMS.values() for problem in problems)
    assert tuple(openi.PROBLEMS) == CHEXPERT


def test_openi_labels() -> None:
    assert positive("normal") == {"No Finding"}
    assert positive("no indexing") == {"No Finding"}
    assert positive("Pulmonary Atelectasis", " Opacity ") == {"Atelectasis", "Lung Opacity"}
    assert positive("Hydropneumothorax") == {"Pleural Effusion", "Pneumothorax"}
    assert positive("Consolidation") == {"Consolidation", "Lung Opacity"}
    assert positive("Catheters, Indwelling") == {"Support Devices"}
    assert positive("Hernia, Hiatal") == set()
    assert positive("normal", "Nodule") == {"Lung Lesion"}
    assert tuple(openi_labels(["normal"])) == CHEXPERT


def test_missing_file(tmp_path: Path) -> None:
    assert "indiana_reports.csv" in str(raises_quietly(lambda: openi.source(tmp_path)))


def test_the_documentation_prints_the_table_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
    printed = {}
    for line in page.splitlines():
        if match := re.fullmatch(r"\| ([A-Z][A-Za-z ]+) \| ((?:`[^`]+`(?:, )?)+) \|", line):
            printed[match[1]] = set(re.findall(r"`([^`]+)`", match[2]))
    assert printed == {label: set(problems) for label, problems in openi.PROBLEMS.items()}
