from __future__ import annotations

import stat
import sys
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest

from fedrad.data.report import (
    FEATURES,
    DataWarning,
    Oddities,
    Row,
    count_copies,
    is_single_label,
    label_matrix,
    label_names,
    warn,
    warnings_as_lines,
    write_reports,
)
from fedrad.errors import DataError

from .conftest import CANARY, raises_quietly


def row(k: int, labels: object, text: str = CANARY) -> Row:
    return {"text": f"{text} {k}", "labels": labels, "patient": f"p{k}", "site": "", "time": "", "split": ""}


def test_multi_label_round_trip(tmp_path: Path) -> None:
    features = FEATURES(("Edema", "No Finding"))
    rows = [row(k, {"Edema": k % 3 - 1, "No Finding": 1}) for k in range(2500)]
    ds = write_reports(iter(rows), features, tmp_path / "a.arrow")
    assert ds.features == features
    assert len(ds) == 2500
    assert ds[1200] == rows[1200]
    assert label_names(ds.features) == ("Edema", "No Finding")
    assert not is_single_label(ds.features)
    matrix = label_matrix(ds)
    assert matrix.dtype == np.int8
    assert matrix[:4].tolist() == [[-1, 1], [0, 1], [1, 1], [-1, 1]]
    assert label_matrix(ds.select([2, 0])).tolist() == [[1, 1], [-1, 1]]
    assert label_matrix(ds.select([])).shape == (0, 2)


def test_single_label_round_trip(tmp_path: Path) -> None:
    features = FEATURES(class_names=("abdomen", "chest", "head"))
    ds = write_reports((row(k, k % 3) for k in range(5)), features, tmp_path / "a.arrow")
    assert is_single_label(ds.features)
    assert label_names(ds.features) == ("abdomen", "chest", "head")
    assert label_matrix(ds).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_the_dataset_is_mapped_and_the_file_private(tmp_path: Path) -> None:
    ds = write_reports([row(0, {"a": 1})], FEATURES(("a",)), tmp_path / "a.arrow")
    assert isinstance(ds.data, datasets.table.MemoryMappedTable)
    assert stat.S_IMODE((tmp_path / "a.arrow").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a.arrow"]


def test_rows_are_streamed(tmp_path: Path) -> None:
    seen = 0

    def rows():  # type: ignore[no-untyped-def]
        nonlocal seen
        for seen in range(1, 5001):
            if seen == 4500:
                # most of what came before is on disk already, under the temporary name
                (partial,) = tmp_path.glob(".*.partial")
                assert partial.stat().st_size > 3000 * 100
                assert stat.S_IMODE(partial.stat().st_mode) == 0o600
            yield row(seen, {"a": 0}, text="x" * 100)

    assert len(write_reports(rows(), FEATURES(("a",)), tmp_path / "a.arrow")) == 5000


@pytest.mark.parametrize("labels", [{"a": CANARY}, {"a": 1000}, CANARY])
def test_a_row_that_does_not_fit_leaves_nothing(tmp_path: Path, labels: object) -> None:
    rows = [row(0, {"a": 1}), row(1, labels)]
    error = raises_quietly(lambda: write_reports(rows, FEATURES(("a",)), tmp_path / "a.arrow"))
    assert "rows 1 to 2" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_the_way_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    def rows():  # type: ignore[no-untyped-def]
        yield from (row(k, {"a": 1}) for k in range(3000))
        raise KeyboardInterrupt

    target = tmp_path / "a.arrow"
    write_reports([row(0, {"a": 1})], FEATURES(("a",)), target)
    before = target.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_reports(rows(), FEATURES(("a",)), target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.arrow"]
    assert target.read_bytes() == before


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no report is left"):
        write_reports([], FEATURES(("a",)), tmp_path / "a.arrow")
    assert list(tmp_path.iterdir()) == []


def test_features_need_labels_or_classes() -> None:
    for wrong in ({}, {"label_names": ("a",), "class_names": ("b",)}):
        with pytest.raises(ValueError, match="either"):
            FEATURES(**wrong)


def test_copies_for_one_patient_are_counted_and_kept() -> None:
    rows = [row(0, 0), row(1, 0), row(0, 0), {**row(1, 0), "patient": "p9"}, row(0, 0)]
    notes: list[str] = []
    numbers = (7, 8, 10, 11, 12)  # row 9 was left out
    assert list(count_copies(zip(numbers, rows, strict=True), "corpus.csv", notes.append)) == rows
    assert len(notes) == 1
    assert "corpus.csv: 2 reports with the same text as another" in notes[0]
    assert "(first: row 10, like row 7)" in notes[0]
    assert CANARY not in notes[0]
    assert list(count_copies([], "corpus.csv", notes.append)) == []
    assert len(notes) == 1
    list(count_copies(zip(numbers, rows, strict=True), "reports.zip", notes.append, "study s{}"))
    assert "(first: study s10, like study s7)" in notes[1]


def test_oddities_are_told_once_with_file_count_and_first() -> None:
    notes: list[str] = []
    odd = Oddities("a.csv")
    odd.tell(notes.append)
    assert notes == []
    odd.add("that look odd", "s5.txt")
    for k in (7, 9):
        odd.add("left out: no text", k)
    odd.tell(notes.append)
    assert notes == [
        "a.csv: 2 reports left out: no text (first: row 7).",
        "a.csv: 1 report that look odd (first: s5.txt).",
    ]


def test_warn_is_a_data_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn("x")
    assert [w.category for w in caught] == [DataWarning]


def test_commands_show_a_data_warning_as_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    def oddities() -> None:
        for text in ("a.csv: 1 report left out.", "a.csv: 1 report left out.", "b.csv: odd."):
            warn(text)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *shown: print("elsewhere:", shown[0], file=sys.stderr)
        with warnings_as_lines():
            oddities()
            warnings.warn("not about data", UserWarning, stacklevel=1)
        assert capsys.readouterr().err == (
            "warning: a.csv: 1 report left out.\nwarning: b.csv: odd.\nelsewhere: not about data\n"
        )
        oddities()  # control: outside it, and for who uses the library, they are Python's
        assert capsys.readouterr().err.count("elsewhere: a.csv") == 2
