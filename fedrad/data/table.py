"""Any CSV or Parquet file of reports, given the names of its columns.

Several label columns of 0/1 make a multi-label corpus. A single label column makes a single-label corpus of the class
names in it, or, if it holds only 0/1, a multi-label corpus of one label. A report without text or class is left out and
counted. A report without a patient is an error, since splits and hospitals are drawn by patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import datasets

from fedrad.data.cells import PLACEHOLDER, joined, labels_in, said
from fedrad.data.columns import check_columns
from fedrad.data.parquet_file import Kind
from fedrad.data.report import (
    FEATURES,
    Oddities,
    Row,
    Source,
    Warn,
    count_copies,
    is_single_label,
    label_names,
    row_of,
)
from fedrad.data.tabular import header_of, rows_of
from fedrad.errors import ConfigError, DataError

_TIME = re.compile(
    r"(\d{4})(?:-?(\d{2})(?:-?(\d{2})(?:[T ](\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?)?)?)?",
    re.ASCII,
)
_VALUES: Final = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "false": 0, "true": 1, "": 0}
"""Cell of a label column, in lower case -> label."""
_BINARY_REMEDY: Final = (
    f"Allowed are {', '.join(filter(None, _VALUES))} (in any case), and blank for 0; write others (yes, no, -1, nan,"
    " ...) as one of them. Class names need a single column of their own."
)
_MOST_CLASSES = 1000


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table holds what. "" where there is none.

    Attributes:
        text: the report.
        labels: columns of 0/1 (also 0.0, 1.0, true, false in any case; blank is 0), or one column of class names (text
            or whole numbers).
        patient: the same value for all reports of a person. Without it, splits and hospitals may share patients.
        site: the hospital.
        time: ISO-like (2024-03-01 or 2024-03-01T12:30), so that sorting sorts by time.
    """

    text: str = "text"
    labels: tuple[str, ...] = ()
    patient: str = ""
    site: str = ""
    time: str = ""

    @property
    def kinds(self) -> dict[str, tuple[str, Kind]]:
        """The columns to read: {use: (name, kind)}. The use of a label column is its own name."""
        label: Kind = "label" if len(self.labels) > 1 else "class"
        own: dict[str, tuple[str, Kind]] = {
            ".text": (self.text, "text"),
            ".patient": (self.patient, "name"),
            ".site": (self.site, "name"),
            ".time": (self.time, "time"),
        }
        return {use: column for use, column in own.items() if column[0]} | {name: (name, label) for name in self.labels}


def source(path: str | Path | None, columns: TableColumns | None) -> Source:
    """The corpus in a CSV or Parquet file, in the order of its rows.

    Raises:
        ConfigError: no columns were named.
        DataError: no path was given, or the file is missing; while reading: it is damaged, lacks a column, holds a
            wrong value, or has too many classes.
    """
    if columns is None:
        raise ConfigError("data.name = table needs data.text-column and data.label-columns")
    if not path:
        raise DataError("a table needs a file.", remedy="Set data.path to a .csv, .csv.gz or .parquet file.")
    file, named = Path(path).expanduser(), columns
    if not file.is_file():
        problem = "is not a file." if file.exists() else "is not there."
        raise DataError(problem, file=file, remedy="Check data.path.")

    def read(warn: Warn) -> tuple[datasets.Features, Iterator[Row]]:
        _check(file, named)
        features = _features(file, named.labels)
        return features, count_copies(_rows(file, named, features, warn), file, warn)

    return Source([file], read, f"Is {columns.text!r} the right one for data.text-column?")


def _features(file: Path, labels: tuple[str, ...]) -> datasets.Features:
    """The columns of the corpus. A single label column is read once to learn its classes."""
    if len(labels) > 1:
        return FEATURES(labels)
    (column,) = labels
    classes: set[str] = set()
    for row, (cell,) in rows_of(file, [(column, "class")]):
        classes.add(said(cell))
        if len(classes) > _MOST_CLASSES:
            problem = f"{column!r} has more than {_MOST_CLASSES:,} different values."
            remedy = f"Is {column!r} the right one for data.label-columns?"
            raise DataError(problem, file=file, row=row, remedy=remedy)
    if all(name.lower() in _VALUES for name in classes):
        return FEATURES(labels)
    return FEATURES(class_names=sorted(classes - {""}))


def _rows(path: Path, columns: TableColumns, features: datasets.Features, warn: Warn) -> Iterator[tuple[int, Row]]:
    odd = Oddities(path)
    if not columns.patient:
        warn(
            f"{path}: no patient column is named, so every report counts as a patient of its own. If patients have "
            "several reports, some may be in both train and test, or in two hospitals. Set data.patient-column."
        )
    names = label_names(features)
    classes = {name: k for k, name in enumerate(names)} if is_single_label(features) else None
    kinds = columns.kinds
    blank = set() if classes is not None else set(names)
    for row, cells in rows_of(path, list(kinds.values())):
        cell = dict(zip(kinds, cells, strict=True))
        text, placeholder = joined([cell[".text"]])
        if placeholder:
            odd.add(PLACEHOLDER, row)
        if not text:
            odd.add("left out: no text", row)
            continue
        label = said(cell[columns.labels[0]])
        if classes is not None and not label:
            odd.add(f"left out: no class in {columns.labels[0]!r}", row)
            continue
        yield (
            row,
            row_of(
                text,
                labels_in(names, [cell[name].strip().lower() for name in names], _VALUES, _BINARY_REMEDY, path, row)
                if classes is None
                else classes[label],
                _patient(cell[".patient"], columns.patient, path, row) if columns.patient else f"row-{row}",
                site=said(cell.get(".site", "")),
                time=_time(said(cell.get(".time", "")), columns.time, path, row),
            ),
        )
        blank.difference_update([name for name in blank if cell[name].strip()])
    odd.tell(warn)
    if classes is not None and len(names) == 1:
        warn(f"{path}: all reports have the same class, so there is nothing to learn. Check data.label-columns.")
    for name in (name for name in names if name in blank):
        warn(f"{path}: label {name!r} is blank in every row; blank is 0. Check data.label-columns.")


def _patient(cell: str, column: str, path: Path, row: int) -> str:
    patient = said(cell)
    if not patient:
        remedy = f"Fill in {column!r}: splits and hospitals go by patient."
        raise DataError("the patient is blank, or a placeholder.", file=path, row=row, remedy=remedy)
    return patient


def _time(time: str, column: str, path: Path, row: int) -> str:
    """``time`` in ISO form, so that sorting the text sorts by time; in UTC if it has an offset."""
    if not time:
        return ""
    if match := _TIME.fullmatch(time):
        *parts, fraction, offset = match.groups()
        numbers = [int(part) for part in parts if part]
        known = len(numbers)
        with suppress(ValueError, OverflowError):
            moment = datetime(*numbers, *[1] * (3 - known))  # type: ignore[arg-type]
            if offset and offset != "Z":
                moment -= timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[-2:]))
                known = max(known, 5)
            return moment.isoformat()[: (4, 7, 10, 13, 16, 19)[known - 1]] + (fraction or "")
    remedy = f"Convert {column!r}."
    raise DataError("the time is not like 2024-03-01 or 2024-03-01T12:30.", file=path, row=row, remedy=remedy)


def _check(path: Path, columns: TableColumns) -> None:
    if not columns.text:
        raise DataError("no text column is named.", file=path, remedy="Set data.text-column.")
    if not columns.labels:
        raise DataError("no label column is named.", file=path, remedy="Set data.label-columns.")
    if len(set(columns.labels)) < len(columns.labels):
        raise DataError("a label column is named twice.", file=path, remedy="Correct data.label-columns.")
    names = [name for name, _ in columns.kinds.values()]
    if twice := [name for name in names if names.count(name) > 1]:
        problem = f"column {twice[0]!r} is named for two things (text, labels, patient, site, time)."
        raise DataError(problem, file=path, remedy="Correct data.*-column and data.label-columns.")
    check_columns(path, header_of(path), names)
