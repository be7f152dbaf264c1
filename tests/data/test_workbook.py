from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from fedrad.data import table
from fedrad.data.table import TableColumns
from fedrad.data.tabular import header_of, rows_of

from .conftest import CANARY, raises_quietly, read_all

HEADER = ("report", "effusion", "edema", "mrn", "signed")
COLUMNS = TableColumns("report", ("effusion", "edema"), "mrn", time="signed")


def book(path: Path, *rows: tuple[Any, ...], header: tuple[str, ...] = HEADER) -> Path:
    sheets = Workbook()
    for row in (header, *rows):
        sheets.active.append(row)
    sheets.create_sheet("notes").append(["another sheet"])
    sheets.save(path)
    return path


@pytest.mark.parametrize("name", ["t.xlsx", "t.csv"])
def test_a_workbook_reads_as_the_table_that_it_shows(tmp_path: Path, name: str) -> None:
    file = book(
        tmp_path / name,
        ("One.", 1, True, 4711, datetime(2024, 3, 1, 12, 30)),
        ("Two.", 0.0, False, "a", None),
        (None, None, None, None, None),
        ("Three.", "1", -1, 4711.0, "2024-03-02"),
        (None, None, None, None, None),
    )
    assert header_of(file) == HEADER
    rows, notes = read_all(table.source(file, COLUMNS, "positive"))
    assert notes == []
    assert [row["text"] for row in rows] == ["One.", "Two.", "Three."]
    assert [tuple(row["labels"].values()) for row in rows] == [(1, 1), (0, 0), (1, 1)]
    assert [row["patient"] for row in rows] == ["4711", "a", "4711"]
    assert [row["time"] for row in rows] == ["2024-03-01T12:30:00", "", "2024-03-02"]
    assert [row for row, _ in rows_of(file, [("mrn", "name")])] == [1, 2, 4]  # as the sheet counts, less the header


@pytest.mark.parametrize(
    ("row", "says", "number"),
    [
        ((3.5, 1, 1, "a", None), "column 'report' is not text here", 2),
        (("x", 1, 1, 1.5, None), "column 'mrn' is not an identifier", 2),
        (("x", 1, 2, "a", None), "label 'edema' is not 0 or 1", 2),
        (("x", 1, datetime(2024, 1, 1), "a", None), "column 'edema' is not", 2),
        (("x", CANARY, 1, "a", None), "label 'effusion' is not 0 or 1", 2),
        (("x", "#N/A", 1, "a", None), "label 'effusion' is a placeholder", 2),
        (("x", 1, 1, None, None), "the patient is blank", 2),
    ],
)
def test_cells_that_a_column_can_not_have(tmp_path: Path, row: tuple[Any, ...], says: str, number: int) -> None:
    file = book(tmp_path / "t.xlsx", (f"One {CANARY}", 1, 1, "a", None), row)
    error = raises_quietly(lambda: read_all(table.source(file, COLUMNS)))
    assert says in str(error)
    assert (error.file, error.row) == (file, number)
    assert error.remedy


def test_a_workbook_that_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = book(tmp_path / "t.xlsx", ("One.", 1, 1, "a", None))
    whole = file.read_bytes()
    at = whole.index(b"xl/worksheets/sheet1.xml") + 60
    file.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
    assert "is an Excel workbook that can't be read" in str(raises_quietly(lambda: header_of(file)))
    Workbook().save(file)
    assert "is empty" in str(raises_quietly(lambda: header_of(file)))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install 'fedrad[xlsx]'" in str(raises_quietly(lambda: header_of(file)))
