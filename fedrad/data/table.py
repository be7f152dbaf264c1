"""Any CSV or Parquet file of reports, given the names of its columns.

Several label columns of 0/1 make a multi-label corpus. One label column makes a single-label corpus of the
class names in it, unless it holds nothing but 0/1, which is a multi-label corpus of one label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from fedrad.data.files import check_columns, csv_header, csv_rows
from fedrad.data.labels import BINARY_OR_BLANK
from fedrad.data.report import FEATURES, Counted, Row, Warn, count_copies, is_single_label, label_names, one_line, warn
from fedrad.errors import DataError

_TIME = re.compile(r"\d{4}(-?\d{2}(-?\d{2}([T ]\d{2}(:?\d{2}(:?\d{2}(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?)?)?)?")
_MOST_CLASSES = 1000


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table holds what. "" where there is none.

    Attributes:
        text: the report.
        labels: columns of 0/1 (also 0.0, 1.0, true, false; blank is 0), or one column of class names.
        patient: the same value for all reports of a person; without it nobody can promise that splits and hospitals
            share no patient.
        site: the hospital.
        time: ISO-like (2024-03-01 or 2024-03-01T12:30), so that sorting sorts by time.
    """

    text: str = "text"
    labels: tuple[str, ...] = ()
    patient: str = ""
    site: str = ""
    time: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that are read."""
        return tuple(name for name in (self.text, self.patient, self.site, self.time, *self.labels) if name)


def inputs(path: str | Path | None) -> list[Path]:
    """The file that is read.

    Raises:
        DataError: no path was given, the file is missing, or its name does not say that it is CSV or Parquet.
    """
    if not path:
        raise DataError("a table needs a file.", remedy="Set data.path to a .csv, .csv.gz or .parquet file.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(
            "is not there." if not file.exists() else "is not a file.", file=file, remedy="Check data.path."
        )
    if not file.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise DataError(
            "is neither .csv, .csv.gz nor .parquet.", file=file, remedy="Convert it, or rename it if it is one."
        )
    return [file]


def features(path: str | Path | None, columns: TableColumns) -> datasets.Features:
    """The columns of the corpus; one label column is read through once to learn its classes.

    Raises:
        DataError: as ``reports``, and if a column of class names has blanks or too many classes.
    """
    (file,) = inputs(path)
    _check(file, columns)
    if len(columns.labels) > 1:
        return FEATURES(columns.labels)
    (column,) = columns.labels
    classes: set[str] = set()
    blank = 0
    for row, (cell,) in _cells(file, columns.labels):
        name = one_line(_as_text(cell))
        classes.add(name)
        blank = blank or (0 if name else row)
        if len(classes) > _MOST_CLASSES:
            remedy = f"Is {column!r} the right one for data.label-columns?"
            raise DataError(
                f"{column!r} has more than {_MOST_CLASSES:,} different values.", file=file, row=row, remedy=remedy
            )
    if all(name.lower() in BINARY_OR_BLANK for name in classes):
        return FEATURES(columns.labels)
    if blank:
        raise DataError(f"{column!r} is blank.", file=file, row=blank, remedy="Every report needs a class: fill it in.")
    return FEATURES(class_names=sorted(classes))


def reports(
    path: str | Path | None, columns: TableColumns, features: datasets.Features, warn: Warn = warn
) -> Iterator[Row]:
    """Streams the corpus in the order of the file.

    Args:
        features: from the function of that name.
    Raises:
        DataError: the file is missing or damaged, lacks a column, or has values that it can't have.
    """
    (file,) = inputs(path)
    _check(file, columns)
    return count_copies(_rows(file, columns, features, warn), file, warn)


def _rows(path: Path, columns: TableColumns, features: datasets.Features, warn: Warn) -> Iterator[tuple[int, Row]]:
    empty = Counted("left out: no text", path)
    if not columns.patient:
        warn(
            f"{path}: no patient column is named, so every report counts as a patient of its own. If patients have "
            "several reports, some may be in both train and test, or in two hospitals. Set data.patient-column."
        )
    names = label_names(features)
    classes = {name: k for k, name in enumerate(names)} if is_single_label(features) else None
    where = {name: k for k, name in enumerate(columns.named)}
    for row, cells in _cells(path, columns.named):
        text = one_line(_as_text(cells[where[columns.text]]))
        if not text:
            empty.add(row)
            continue
        found = [_as_text(cells[where[name]]) for name in columns.labels]
        yield (
            row,
            {
                "text": text,
                "labels": _binary(names, found, path, row) if classes is None else classes[one_line(found[0])],
                "patient": _patient(cells[where[columns.patient]], path, row) if columns.patient else f"row-{row}",
                "site": one_line(_as_text(cells[where[columns.site]])) if columns.site else "",
                "time": _time(cells[where[columns.time]], path, row) if columns.time else "",
                "split": "",
            },
        )
    empty.tell(warn)


def _binary(names: Sequence[str], cells: Sequence[str], path: Path, row: int) -> dict[str, int]:
    labels = {}
    for name, cell in zip(names, cells, strict=True):
        value = BINARY_OR_BLANK.get(cell.strip().lower())
        if value is None:
            remedy = "Use 0 or 1 (or leave it blank for 0). Class names need a single column of their own."
            raise DataError(f"the value of label {name!r} is not 0 or 1.", file=path, row=row, remedy=remedy)
        labels[name] = value
    return labels


def _patient(cell: object, path: Path, row: int) -> str:
    patient = _as_text(cell).strip()
    if not patient:
        raise DataError(
            "the patient is blank.", file=path, row=row, remedy="Fill it in: splits and hospitals go by patient."
        )
    return patient


def _time(cell: object, path: Path, row: int) -> str:
    time = _as_text(cell).strip()
    if time and not _TIME.fullmatch(time):
        raise DataError(
            "the time is not like 2024-03-01 or 2024-03-01T12:30.", file=path, row=row, remedy="Convert it."
        )
    return time


def _as_text(cell: object) -> str:
    if cell is None:
        return ""
    return cell.isoformat() if isinstance(cell, date | datetime) else str(cell)


def _check(path: Path, columns: TableColumns) -> None:
    if not columns.text:
        raise DataError("no text column is named.", file=path, remedy="Set data.text-column.")
    if not columns.labels:
        raise DataError("no label column is named.", file=path, remedy="Set data.label-columns.")
    if len(set(columns.labels)) < len(columns.labels):
        raise DataError("a label column is named twice.", file=path, remedy="Correct data.label-columns.")
    if columns.text in columns.labels:
        raise DataError("the text column is also a label column.", file=path, remedy="Correct data.label-columns.")
    header = _parquet(path).schema_arrow.names if path.suffix == ".parquet" else csv_header(path)
    check_columns(path, header, columns.named)


def _cells(path: Path, names: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
    if path.suffix != ".parquet":
        yield from csv_rows(path, names)
        return
    row, broken = 1, False
    unique = list(dict.fromkeys(names))
    batches = _parquet(path).iter_batches(batch_size=1000, columns=unique)
    while True:
        try:
            batch = next(batches, None)
            values = [] if batch is None else [batch.column(name).to_pylist() for name in unique]
        except (pa.ArrowException, OSError, ValueError):
            broken = True
        if broken:
            raise DataError("is damaged.", file=path, row=row, remedy="Write the file again.")
        if batch is None:
            return
        by_name = dict(zip(unique, values, strict=True))
        for cells in zip(*(by_name[name] for name in names), strict=True):
            yield row, cells
            row += 1


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError):
        pass
    raise DataError("is not a readable Parquet file.", file=path, remedy="Write the file again.")
