"""Any CSV or Parquet file of reports, given the names of its columns.

Several label columns of 0/1 make a multi-label corpus. One label column makes a single-label corpus of the
class names in it, unless it holds nothing but 0/1, which is a multi-label corpus of one label. A report without text or
without a class is left out and counted; one without a patient is an error, since splits and hospitals go by patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import datasets

from fedrad.data.cells import PLACEHOLDER, joined, said
from fedrad.data.columns import check_columns
from fedrad.data.labels import BINARY_OR_BLANK
from fedrad.data.parquet_file import Kind
from fedrad.data.report import FEATURES, Counted, Row, Warn, count_copies, is_single_label, label_names, warn
from fedrad.data.tabular import header_of, rows_of
from fedrad.errors import DataError

_TIME = re.compile(
    r"(\d{4})(?:-?(\d{2})(?:-?(\d{2})(?:[T ](\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?)?)?)?",
    re.ASCII,
)
_MOST_CLASSES = 1000


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table holds what. "" where there is none.

    Attributes:
        text: the report.
        labels: columns of 0/1 (also 0.0, 1.0, true, false in any case; blank is 0), or one column of class names (text
            or whole numbers).
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
    def kinds(self) -> dict[str, tuple[str, Kind]]:
        """All columns that are read: {what for: (name, what it is read as)}; label columns under their own names."""
        label: Kind = "label" if len(self.labels) > 1 else "class"
        own: dict[str, tuple[str, Kind]] = {
            ".text": (self.text, "text"),
            ".patient": (self.patient, "name"),
            ".site": (self.site, "name"),
            ".time": (self.time, "time"),
        }
        return {use: column for use, column in own.items() if column[0]} | {name: (name, label) for name in self.labels}


def inputs(path: str | Path | None) -> list[Path]:
    """The file that is read.

    Raises:
        DataError: no path was given, or the file is missing. What kind of file it is, its content says.
    """
    if not path:
        raise DataError("a table needs a file.", remedy="Set data.path to a .csv, .csv.gz or .parquet file.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(
            "is not there." if not file.exists() else "is not a file.", file=file, remedy="Check data.path."
        )
    return [file]


def features(path: str | Path | None, columns: TableColumns) -> datasets.Features:
    """The columns of the corpus; one label column is read through once to learn its classes.

    Raises:
        DataError: as ``reports``, and if a column of class names has too many classes.
    """
    (file,) = inputs(path)
    _check(file, columns)
    if len(columns.labels) > 1:
        return FEATURES(columns.labels)
    (column,) = columns.labels
    classes: set[str] = set()
    for row, (cell,) in rows_of(file, [(column, "class")]):
        classes.add(said(cell))
        if len(classes) > _MOST_CLASSES:
            remedy = f"Is {column!r} the right one for data.label-columns?"
            raise DataError(
                f"{column!r} has more than {_MOST_CLASSES:,} different values.", file=file, row=row, remedy=remedy
            )
    if all(name.lower() in BINARY_OR_BLANK for name in classes):
        return FEATURES(columns.labels)
    return FEATURES(class_names=sorted(classes - {""}))


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
    empty, odd = Counted("left out: no text", path), Counted(PLACEHOLDER, path)
    unlabelled = Counted(f"left out: no class in {columns.labels[0]!r}", path)
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
            odd.add(row)
        if not text:
            empty.add(row)
            continue
        if classes is not None and not said(cell[columns.labels[0]]):
            unlabelled.add(row)
            continue
        yield (
            row,
            {
                "text": text,
                "labels": _binary(names, cell, path, row)
                if classes is None
                else classes[said(cell[columns.labels[0]])],
                "patient": _patient(cell[".patient"], columns.patient, path, row) if columns.patient else f"row-{row}",
                "site": said(cell.get(".site", "")),
                "time": _time(said(cell.get(".time", "")), columns.time, path, row),
                "split": "",
            },
        )
        blank.difference_update([name for name in blank if cell[name].strip()])
    for counted in (empty, unlabelled, odd):
        counted.tell(warn)
    if classes is not None and len(names) == 1:
        warn(f"{path}: all reports have the same class, which alone teaches nothing. Check data.label-columns.")
    for name in (name for name in names if name in blank):
        warn(f"{path}: label {name!r} is blank in every row; blank is 0. Check data.label-columns.")


def _binary(names: Sequence[str], cells: Mapping[str, str], path: Path, row: int) -> dict[str, int]:
    labels = {}
    for name in names:
        value = BINARY_OR_BLANK.get(cells[name].strip().lower())
        if value is None:
            allowed = ", ".join(cell for cell in BINARY_OR_BLANK if cell)
            remedy = (
                f"Allowed are {allowed} (in any case), and blank for 0; write others (yes, no, -1, nan, ...) as one of"
                " them. Class names need a single column of their own."
            )
            raise DataError(f"the value of label {name!r} is not 0 or 1.", file=path, row=row, remedy=remedy)
        labels[name] = value
    return labels


def _patient(cell: str, column: str, path: Path, row: int) -> str:
    patient = said(cell)
    if not patient:
        remedy = f"Fill in {column!r}: splits and hospitals go by patient."
        raise DataError("the patient is blank, or a placeholder.", file=path, row=row, remedy=remedy)
    return patient


def _time(time: str, column: str, path: Path, row: int) -> str:
    """``time`` in the one form whose order as text is that of time; where it has an offset, in UTC."""
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
