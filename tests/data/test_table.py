from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrad.data import table
from fedrad.data.load import load_corpus
from fedrad.data.report import Row, is_single_label, label_matrix, label_names
from fedrad.data.table import TableColumns
from fedrad.errors import DataError

from .conftest import CANARY, raises_quietly, read_all, write_csv

HEADER = ("body", "edema", "nodule", "who", "where", "when", "kind")
ROWS: list[list[object]] = [
    [f"One {CANARY}", "1", "", "a", "north", "2024-03-01", "chest"],
    ["Two", "0.0", "TRUE", "a", "south", "2024-03-02T12:30", "head"],
    ["Three", "false", "1.0", "b", "south", "", "chest"],
]
COLUMNS = TableColumns("body", ("edema", "nodule"), "who", "where", "when", missing="negative")


def read(path: Path, columns: TableColumns) -> tuple[list[Row], list[str]]:
    return read_all(table.source(path, columns))


def csv_file(path: Path, rows: list[list[object]] = ROWS) -> Path:
    return write_csv(path / "t.csv", HEADER, rows)


def test_multi_label(tmp_path: Path) -> None:
    rows, notes = read(csv_file(tmp_path), COLUMNS)
    assert notes == []
    assert rows == [
        _row(f"One {CANARY}", {"edema": 1, "nodule": 0}, "a", "north", "2024-03-01"),
        _row("Two", {"edema": 0, "nodule": 1}, "a", "south", "2024-03-02T12:30"),
        _row("Three", {"edema": 0, "nodule": 1}, "b", "south", ""),
    ]


def _row(text: str, labels: object, patient: str, site: str, time: str) -> Row:
    return {"text": text, "labels": labels, "patient": patient, "site": site, "time": time, "split": ""}


def test_single_label_and_no_patients(tmp_path: Path) -> None:
    with pytest.warns(match="no patient column is named"):
        ds = load_corpus("table", csv_file(tmp_path), columns=TableColumns("body", ("kind",)), cache_dir=tmp_path)
    assert is_single_label(ds.features)
    assert label_names(ds.features) == ("chest", "head")
    assert label_matrix(ds).tolist() == [[1, 0], [0, 1], [1, 0]]
    assert ds["patient"][:] == ["row-1", "row-2", "row-3"]


def test_stated_classes_are_the_classes_whether_they_occur_or_not(tmp_path: Path) -> None:
    columns = TableColumns("body", ("kind",), "who", classes=("abdomen", "chest", "head"))
    ds = load_corpus("table", csv_file(tmp_path), columns=columns, cache_dir=tmp_path)
    assert label_names(ds.features) == columns.classes
    assert label_matrix(ds).tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    fewer = replace(columns, classes=("chest", "neck"))
    with pytest.raises(DataError, match=r"row 2: the class is none of those that are stated") as refused:
        load_corpus("table", csv_file(tmp_path), columns=fewer, cache_dir=tmp_path)
    assert "head" not in str(refused.value)


def test_one_column_of_zeros_and_ones_is_one_label(tmp_path: Path) -> None:
    columns = TableColumns("body", ("nodule",), "who")
    features, _ = table.source(csv_file(tmp_path), columns).read(print)
    assert not is_single_label(features)
    assert label_names(features) == ("nodule",)


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    columns = {name: [row[k] for row in ROWS] for k, name in enumerate(HEADER)}
    columns |= {
        "edema": [1, 0, 0],
        "nodule": [None, True, True],
        "when": [datetime(2024, 3, 1), datetime(2024, 3, 2, 12, 30), None],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2)
    rows, _ = read(tmp_path / "t.parquet", COLUMNS)
    expected, _ = read(csv_file(tmp_path), COLUMNS)
    times = ["2024-03-01T00:00:00", "2024-03-02T12:30:00", ""]
    assert rows == [{**row, "time": time} for row, time in zip(expected, times, strict=True)]


def test_counted_warnings(tmp_path: Path) -> None:
    rows, notes = read(csv_file(tmp_path, [*ROWS, [" ", "1", "1", "c", "x", "", ""], ROWS[0]]), COLUMNS)
    assert len(rows) == 4
    assert "1 report left out: no text (first: row 4)" in notes[0]
    assert "1 report with the same text" in notes[1]
    assert "(first: row 5, like row 1)" in notes[1]


BAD = {
    "label": (COLUMNS, ["x", "2", "", "a", "", "", ""], "the value of label 'edema' is not 0 or 1", 4),
    "label text": (COLUMNS, ["x", CANARY, "", "a", "", "", ""], "the value of label 'edema' is not 0 or 1", 4),
    "patient": (COLUMNS, ["x", "1", "", " ", "", "", ""], "the patient is blank", 4),
    "time": (COLUMNS, ["x", "1", "", "a", "", f"01.03.2024 {CANARY}", ""], "the time is not like", 4),
    "cells": (COLUMNS, ["x", "1"], "has 2 cells", 4),
    "column": (TableColumns("Body", ("edema", "nodules")), ROWS[0], "Did you mean 'body' for 'Body'? Did you", None),
    "no labels": (TableColumns("body"), ROWS[0], "no label column is named", None),
    "no text": (TableColumns("", ("edema",)), ROWS[0], "no text column is named", None),
    "label twice": (TableColumns("body", ("edema", "edema")), ROWS[0], "named twice", None),
    "text as label": (TableColumns("body", ("body",)), ROWS[0], "column 'body' is named for two things", None),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path: Path, case: str) -> None:
    columns, row, says, number = BAD[case]
    file = csv_file(tmp_path, [*ROWS, row])
    error = raises_quietly(lambda: load_corpus("table", file, columns=columns, cache_dir=tmp_path / "cache"))
    assert says in str(error)
    assert (error.file, error.row) == (file, number)
    assert error.remedy
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_texts_as_classes_are_refused(tmp_path: Path) -> None:
    file = csv_file(tmp_path, [[f"{CANARY} {k}", "1", "", "a", "", "", f"{CANARY} {k}"] for k in range(1002)])
    error = raises_quietly(lambda: read(file, TableColumns("body", ("kind",))))
    assert "more than 1,000 different values" in str(error)


def test_missing_and_odd_files(tmp_path: Path) -> None:
    for path, says in (("", "needs a file"), (tmp_path / "none.csv", "is not there"), (tmp_path, "is not a file")):
        assert says in str(raises_quietly(lambda path=path: table.source(path, COLUMNS)))
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + CANARY.encode() * 50 + b"PAR1")
    assert "not a readable Parquet" in str(raises_quietly(lambda: read(tmp_path / "t.parquet", COLUMNS)))
    pq.write_table(pa.table({name: [f"{CANARY} {k}" for k in range(3000)] for name in HEADER}), tmp_path / "u.parquet")
    data = bytearray((tmp_path / "u.parquet").read_bytes())
    data[4:400] = bytes(396)
    (tmp_path / "u.parquet").write_bytes(data)
    assert "damaged" in str(raises_quietly(lambda: read(tmp_path / "u.parquet", COLUMNS)))


def test_times_sort_as_text_whatever_they_were_written_as(tmp_path: Path) -> None:
    written = ["2024", "202402", "2024-03-01", "20240301T1230", "2024-03-01 12:31:00.5", "2024-03-01T14:32+02:00",
               "2024-03-01T10:33:00-0200", "2024-03-02T02Z", "2024-12-01", "20241202"]  # fmt: skip
    rows, _ = read(csv_file(tmp_path, [["x", 1, 1, k, "", time, ""] for k, time in enumerate(written)]), COLUMNS)
    times = [row["time"] for row in rows]
    assert times == ["2024", "2024-02", "2024-03-01", "2024-03-01T12:30", "2024-03-01T12:31:00.5", "2024-03-01T12:32",
                     "2024-03-01T12:33:00", "2024-03-02T02", "2024-12-01", "2024-12-02"]  # fmt: skip
    assert times == sorted(times)


@pytest.mark.parametrize(
    "time", ["2024-13-01", "20240230", "2024-03-01T25:00", "\u0662\u0660\u0662\u0664", "1709300000"]
)
def test_a_time_that_is_none(tmp_path: Path, time: str) -> None:
    error = raises_quietly(lambda: read(csv_file(tmp_path, [["x", 1, 1, "a", "", time, ""]]), COLUMNS))
    assert "the time is not like" in str(error)
    assert error.row == 1


@pytest.mark.parametrize(
    "columns",
    [
        TableColumns("body", ("edema", "nodule"), "body"),
        TableColumns("body", ("edema", "nodule"), "edema"),
        TableColumns("body", ("edema",), "who", time="edema"),
        TableColumns("body", ("edema",), "who", site="who"),
    ],
)
def test_a_column_is_one_thing(tmp_path: Path, columns: TableColumns) -> None:
    assert "is named for two things" in str(raises_quietly(lambda: read(csv_file(tmp_path), columns)))


def test_labels_that_say_nothing_are_told(tmp_path: Path) -> None:
    rows: list[list[object]] = [["x", "", "0", "a", "", "", "same"], ["y", " ", "", "b", "", "", "same"]]
    columns = TableColumns("body", ("edema", "nodule"), "who", missing="negative")
    _, notes = read(csv_file(tmp_path, rows), columns)
    assert [note.partition(": ")[2] for note in notes] == [
        "label 'edema' is blank in every row; blank is 0. Check data.label-columns."
    ]
    _, notes = read(csv_file(tmp_path, rows), replace(columns, labels=("edema",)))
    assert "label 'edema' is blank in every row" in notes[0]
    _, notes = read(csv_file(tmp_path, rows), TableColumns("body", ("kind",), "who"))
    assert "all reports have the same class" in notes[0]
    assert read(csv_file(tmp_path), columns)[1] == []  # control
