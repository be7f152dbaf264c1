"""What counts as missing, and that every loader goes by it in every column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedrad.corpora import CT_RATE
from fedrad.data import ct_rate, mimic_cxr, openi, table
from fedrad.data.cells import joined, said
from fedrad.data.report import Row
from fedrad.data.table import TableColumns

from .conftest import CANARY, CT_REPORTS, STUDIES, mimic_folder, names_of, raises_quietly, read_all, write_csv

PLACEHOLDERS = [
    "nan", "NaN", "NAN", "-nan", "nan.", "'nan'", "nan nan", "NaT", "None", "none", "None.", "NONE", "NULL", "null",
    "Null.", "nil", "NA", "N/A", "n/a", "N.A.", "n. a.", "<NA>", "#N/A", "#REF!", "#NULL!", "1.#QNAN", "Not given.",
    "Not given", "NOT GIVEN", " not  given . ", "Not given. Not given.", "not available", "Not applicable.",
    "None provided.", "No report.", "undefined", "XXXX", "XXXX.", "xxxx", "XXXX XXXX.", "[XXXX]", "___", "___ ___.",
    ".", "-", "--", "...", "?", "\u2013", "\u2026", "\u00a0.", "\ufeff.",
    "n / a", "N / A.", "\\N", "not_given", "Not-given.", "none recorded", "Not documented.", "No report available.",
    "no data provided", "Report not available.",
]  # fmt: skip
TEXTS = [
    "None seen.", "Normal.", "Nil acute.", "Pneumothorax: none.", "XXXX lungs are clear.", "Clear. XXXX", "No.",
    "Negative", "Nana", "Nonexistent", "Not given contrast.", "Contrast was not given.", "a nan b", "x", "XX", "1", "0",
    "+", "\u00b1", "Missing rib.", "Nothing acute. N/A", "Unknown", "not available for comparison",
    "N", "n + a", "No data to compare.", "Reports not given to us", "No report available yet",
]  # fmt: skip
BLANK = ["", " ", "\t\n"]


@pytest.mark.parametrize("cell", PLACEHOLDERS + BLANK)
def test_a_placeholder_says_nothing(cell: str) -> None:
    assert said(cell) == ""
    assert joined([cell]) == ("", bool(cell.strip()))
    assert joined([cell, "Clear."]) == ("Clear.", bool(cell.strip()))


@pytest.mark.parametrize("cell", TEXTS)
def test_a_text_is_kept_whole(cell: str) -> None:
    assert said(f" {cell}\n") == cell
    assert joined([cell, "Not\ngiven."]) == (cell, True)


def test_ct_rates_own_placeholder_is_also_dropped_as_a_sentence() -> None:
    assert said("Lungs clear. Not given.") == "Lungs clear."
    assert said("Not given. Normal.") == "Normal."
    assert said("Oral contrast: Not given.") == "Oral contrast: Not given."


def test_an_endless_row_of_signs_takes_no_time() -> None:
    """A pattern that can match in many ways would not come back."""
    assert said("- n/a none. " * 20_000) == ""
    assert said("- n/a none. " * 20_000 + "!x").endswith("!x")


def _table(folder: Path, text: str = "B.", kind: str = "y", patient: str = "p2", site: str = "s") -> Path:
    rows = [["A.", "x", "p1", "s"], [text, kind, patient, site], ["C.", "y", "p3", "s"]]
    return write_csv(folder / "t.csv", ("text", "kind", "patient", "site"), rows)


def _read_table(path: Path) -> tuple[list[Row], list[str], tuple[str, ...]]:
    source = table.source(path, TableColumns("text", ("kind",), "patient", "site"))
    return *read_all(source), names_of(source)


@pytest.mark.parametrize("cell", PLACEHOLDERS + BLANK)
def test_tables(tmp_path: Path, cell: str) -> None:
    rows, notes, names = _read_table(_table(tmp_path, text=cell))
    assert [row["patient"] for row in rows] == ["p1", "p3"]
    assert "1 report left out: no text (first: row 2)" in notes[0]
    assert sum("1 report with a placeholder" in note for note in notes) == bool(cell.strip())

    rows, notes, names = _read_table(_table(tmp_path, kind=cell))
    assert names == ("x", "y")
    assert [row["labels"] for row in rows] == [0, 1]
    assert "1 report left out: no class in 'kind' (first: row 2)" in notes[0]

    error = raises_quietly(lambda: _read_table(_table(tmp_path, patient=cell)))
    assert error.row == 2
    assert "the patient is blank, or a placeholder. Fill in 'patient'" in str(error)

    assert [row["site"] for row in _read_table(_table(tmp_path, site=cell))[0]] == ["s", "", "s"]


@pytest.mark.parametrize("cell", PLACEHOLDERS + BLANK)
def test_open_i(tmp_path: Path, cell: str) -> None:
    def read(*row: str) -> tuple[list[Row], list[str]]:
        file = write_csv(
            tmp_path / "o.csv", ("uid", "Problems", "findings", "impression"), [("1", "normal", "A", "B"), row]
        )
        return read_all(openi.source(file))

    rows, notes = read("2", "Opacity", cell, "Clear.")
    assert rows[1]["text"] == "Clear."
    assert sum("1 report with a placeholder" in note for note in notes) == bool(cell.strip())
    rows, notes = read("2", "Opacity", cell, cell)
    assert len(rows) == 1
    assert "1 report left out: no findings and no impression (first: row 2)" in notes[0]
    assert sum("1 report with a placeholder" in note for note in notes) == bool(cell.strip())
    for problems in (cell, f"{cell};{cell}"):
        rows, notes = read("2", problems, "Clear.", "")
        assert len(rows) == 1
        assert "1 report left out: nothing in Problems, so no labels (first: row 2)" in notes[0]
    assert raises_quietly(lambda: read(cell, "Opacity", "Clear.", "")).row == 2


@pytest.mark.parametrize("cell", PLACEHOLDERS + BLANK)
def test_ct_rate(tmp_path: Path, cell: str) -> None:
    def read(findings: str, impression: str) -> tuple[list[Row], list[str]]:
        scans = [("train_1_a_1", "A", "B"), ("train_2_a_1", findings, impression)]
        write_csv(tmp_path / "train_reports.csv", CT_REPORTS, [[v, "", "", f, i] for v, f, i in scans])
        labels = [[volume, *("0" for _ in CT_RATE)] for volume, _, _ in scans]
        write_csv(tmp_path / "train_predicted_labels.csv", ["VolumeName", *CT_RATE], labels)
        return read_all(ct_rate.source(tmp_path))

    for sections in (("Lungs clear.", cell), (cell, "Lungs clear.")):
        rows, notes = read(*sections)
        assert rows[1]["text"] == "Lungs clear."
        assert sum("1 report with a placeholder" in note for note in notes) == bool(cell.strip())
    rows, notes = read(cell, cell)
    assert len(rows) == 1
    assert "1 report left out: no findings and no impression (first: row 2)" in notes[0]
    assert sum("1 report with a placeholder" in note for note in notes) == bool(cell.strip())


@pytest.mark.parametrize("cell", PLACEHOLDERS + BLANK)
def test_mimic_cxr(tmp_path: Path, cell: str) -> None:
    def read(report: str) -> tuple[list[Row], list[str]]:
        studies = {**STUDIES, 50000002: (11000002, "test", "", report)}
        return read_all(mimic_cxr.source(mimic_folder(tmp_path, studies)))

    rows, notes = read(f"FINAL REPORT\n FINDINGS: {cell}\n IMPRESSION: Clear.\n")
    assert rows[2]["text"] == "Clear."
    assert sum("1 report with a placeholder" in note for note in notes) == bool(cell.strip())
    for report in (f"FINAL REPORT\n FINDINGS: {cell}\n IMPRESSION: {cell}\n", f"FINAL REPORT\n {cell}\n", cell):
        rows, notes = read(report)
        assert len(rows) == 3
        assert "1 report left out: no findings, no impression, nor any other reading" in notes[0]
        assert sum("1 report with a placeholder" in note for note in notes) == bool(cell.strip())


@pytest.mark.parametrize("values", [["0", "1", "nan"], ["0", "1", "N/A"], ["true", "false", "None"], ["nan"]])
def test_a_placeholder_is_neither_a_label_nor_a_class(tmp_path: Path, values: list[str]) -> None:
    columns = TableColumns("text", ("a",), "patient")
    rows = [[f"T{k}", value, k] for k, value in enumerate(values)]
    file = write_csv(tmp_path / "t.csv", ("text", "a", "patient"), rows)
    source = table.source(file, columns)
    assert names_of(source) == ("a",)
    error = raises_quietly(lambda: read_all(source))
    assert error.row == len(values)
    assert "label 'a' is a placeholder. Say how it counts: data.missing=negative" in str(error)


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("Yes", "data.map=yes=1,no=0."),
        ("no", "data.map=yes=1,no=0."),
        ("nein", "data.map=ja=1,nein=0."),
        (" ", "data.missing=negative"),
        ("nan", "data.missing=negative"),
        (CANARY, "data.map, e.g. yes=1,no=0"),
        ("2", "Allowed are 0, 0.0, 1, 1.0, false, true (in any case), and -1 for uncertain"),
    ],
)
def test_a_label_that_is_none_names_what_to_do(tmp_path: Path, value: str, remedy: str) -> None:
    columns = TableColumns("text", ("a", "b"), "patient", missing="error")
    file = write_csv(tmp_path / "t.csv", ("text", "a", "b", "patient"), [["T", "True", "-1", 1], ["U", "0", value, 2]])
    error = raises_quietly(lambda: read_all(table.source(file, columns)))
    assert (error.file, error.row) == (file, 2)
    assert "the value of label 'b' is" in str(error)
    assert remedy in str(error)


def test_words_uncertain_and_missing_labels_are_what_the_settings_say(tmp_path: Path) -> None:
    cells = ["Yes", "no", "equivocal  (?)", "-1.0", "", "nan", "1"]
    file = write_csv(tmp_path / "t.csv", ("text", "a", "p"), [[f"T{k}", cell, k] for k, cell in enumerate(cells)])
    columns = TableColumns("text", ("a",), "p", map="yes=1, NO=0, equivocal (?)=-1", missing="negative")
    for missing, uncertain, expected in (
        ("negative", "negative", [1, 0, 0, 0, 0, 0, 1]),
        ("ignore", "positive", [1, 0, 1, 1, -1, -1, 1]),
        ("negative", "ignore", [1, 0, -1, -1, 0, 0, 1]),
    ):
        rows, _ = read_all(table.source(file, replace(columns, missing=missing), uncertain))
        assert [row["labels"]["a"] for row in rows] == expected


def test_words_may_be_class_names(tmp_path: Path) -> None:
    rows = [["T", "CT Head", 1], ["U", "ct  head", 2], ["V", "MR", 3], ["W", "n/a", 4]]
    file = write_csv(tmp_path / "t.csv", ("text", "kind", "p"), rows)
    columns = TableColumns("text", ("kind",), "p", map="ct head=head")
    assert names_of(table.source(file, columns)) == ("MR", "head")
    assert [row["labels"] for row in read_all(table.source(file, columns))[0]] == [1, 1, 0]


def test_the_page_names_every_kind_of_placeholder() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
    shown = page[page.index("## What is missing") :].split("\n## ")[0]
    for word in (
        "nan",
        "None",
        "null",
        "nil",
        "NA",
        "N/A",
        "<NA>",
        "NaT",
        "#N/A",
        "undefined",
        "Not given.",
        "XXXX",
        "___",
        "--",
    ):
        assert f"`{word}`" in shown
        assert said(word) == ""
