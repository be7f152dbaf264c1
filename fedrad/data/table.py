"""Any CSV, Parquet or Excel file of reports, given the names of its columns.

Several label columns of 0/1 make a multi-label corpus. A single label column makes a single-label corpus of the class
names in it, or, if it holds only 0, 1 and -1, a multi-label corpus of one label. A report without text or class is left
out and counted. A report without a patient is an error, since splits and hospitals are drawn by patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import datasets

from fedrad.data.cells import PLACEHOLDER, joined, said
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
    value_of_doubt,
)
from fedrad.data.table_options import Form, LabelCells, NoValue, words_in
from fedrad.data.tabular import header_of, rows_of
from fedrad.errors import ConfigError, DataError, Refuse, raise_it

_TIME = re.compile(
    r"(\d{4})(?:-?(\d{2})(?:-?(\d{2})(?:[T ](\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?)?)?)?",
    re.ASCII,
)
_MOST_CLASSES: Final = 1000


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table holds what ("" where there is none), and how it is written.

    Attributes:
        text: the report.
        labels: columns of 0/1 (also 0.0, 1.0, true, false in any case; -1 is uncertain), or one column of class names
            (text or whole numbers).
        patient: the same value for all reports of a person. Without it, splits and hospitals may share patients.
        site: the hospital.
        time: ISO-like (2024-03-01 or 2024-03-01T12:30), so that sorting sorts by time.
        map: what words of the label columns mean, as "yes=1,no=0,equivocal=-1".
        missing: how a label counts that is blank or a placeholder: "negative", "ignore" (masked) or "error"; "auto":
            a blank is negative, and a placeholder an error.
        separator, encoding: as in ``Form``.
        classes: which ones there may be in one column of class names; empty: those that are found in it.
    """

    text: str = "text"
    labels: tuple[str, ...] = ()
    patient: str = ""
    site: str = ""
    time: str = ""
    map: str = ""
    missing: str = "auto"
    separator: str = "auto"
    encoding: str = "utf-8"
    classes: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """How the file is written, if it is CSV."""
        return Form(self.separator, self.encoding)

    def cells(self, uncertain: str) -> LabelCells:
        """How the label columns are read.

        Raises:
            ConfigError: ``uncertain`` or ``missing`` is another word than those allowed.
        """
        values = {"auto": (0, None), "negative": (0, 0), "ignore": (-1, -1), "error": (None, None)}
        if self.missing not in values:
            raise ConfigError(f"data.missing must be one of {', '.join(values)}")
        return LabelCells(words_in(self.map), value_of_doubt(uncertain), *values[self.missing])

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


def source(
    path: str | Path | None,
    columns: TableColumns | None,
    uncertain: str = "negative",
    refuse: Refuse = raise_it,
) -> Source:
    """The corpus in a CSV, Parquet or Excel file, in the order of its rows.

    Args:
        uncertain: what a label of -1 becomes: "negative", "positive" or "ignore" (masked).
        refuse: gets the DataError of each row that can't be read. If it returns, reading goes on: for finding all
            problems, not for training.
    Raises:
        ConfigError: no columns were named.
        DataError: no path was given, or the file is missing; while reading: it is damaged, lacks a column, holds a
            wrong value, or has too many classes.
    """
    if columns is None:
        raise ConfigError("data.name = table needs data.text-column and data.label-columns")
    if not path:
        raise DataError("a table needs a file.", remedy="Set data.path to a .csv, .csv.gz, .parquet or .xlsx file.")
    file, named, cells = Path(path).expanduser(), columns, columns.cells(uncertain)
    if not file.is_file():
        problem = "is not a file." if file.exists() else "is not there."
        raise DataError(problem, file=file, remedy="Check data.path.")

    def read(warn: Warn) -> tuple[datasets.Features, Iterator[Row]]:
        _check(file, named)
        features = _features(file, named, cells, refuse)
        return features, count_copies(_rows(file, named, cells, features, warn, refuse), file, warn)

    return Source([file], read, f"Is {columns.text!r} the right one for data.text-column?")


def _features(file: Path, columns: TableColumns, cells: LabelCells, refuse: Refuse) -> datasets.Features:
    """The columns of the corpus. A single label column is read once to learn its classes, if none are stated."""
    if columns.classes:
        return FEATURES(class_names=columns.classes)
    if len(columns.labels) > 1:
        return FEATURES(columns.labels)
    (column,) = columns.labels
    classes: set[str] = set()
    for row, (cell,) in rows_of(file, [(column, "class")], columns.form, refuse):
        classes.add(cells.word(cell))
        if len(classes) > _MOST_CLASSES:
            problem = f"{column!r} has more than {_MOST_CLASSES:,} different values."
            remedy = f"Is {column!r} the right one for data.label-columns?"
            raise DataError(problem, file=file, row=row, remedy=remedy)
    if cells.binary(classes):
        return FEATURES(columns.labels)
    return FEATURES(class_names=sorted(classes - {""}))


def _rows(
    path: Path,
    columns: TableColumns,
    cells: LabelCells,
    features: datasets.Features,
    warn: Warn,
    refuse: Refuse,
) -> Iterator[tuple[int, Row]]:
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
    for row, found in rows_of(path, list(kinds.values()), columns.form, refuse):
        cell = dict(zip(kinds, found, strict=True))
        text, placeholder = joined([cell[".text"]])
        if placeholder:
            odd.add(PLACEHOLDER, row)
        if not text:
            odd.add("left out: no text", row)
            continue
        label = cells.word(cell[columns.labels[0]])
        if classes is not None and not label:
            odd.add(f"left out: no class in {columns.labels[0]!r}", row)
            continue
        if classes is not None and label not in classes:
            remedy = "Name it there, or say with data.map which of them it is."
            refuse(DataError("the class is none of those that are stated.", file=path, row=row, remedy=remedy))
            continue
        yield (
            row,
            row_of(
                text,
                _binary(names, cell, cells, path, row, refuse) if classes is None else classes[label],
                _patient(cell[".patient"], columns.patient, path, row, refuse) if columns.patient else f"row-{row}",
                site=said(cell.get(".site", "")),
                time=_time(said(cell.get(".time", "")), columns.time, path, row, refuse),
            ),
        )
        blank.difference_update([name for name in blank if cell[name].strip()])
    odd.tell(warn)
    if classes is not None and len(names) == 1 and not columns.classes:
        warn(f"{path}: all reports have the same class, so there is nothing to learn. Check data.label-columns.")
    for name in (name for name in names if name in blank and columns.missing != "error"):
        counts = "ignored" if columns.missing == "ignore" else "0"
        warn(f"{path}: label {name!r} is blank in every row; blank is {counts}. Check data.label-columns.")


def _binary(
    names: Sequence[str], found: Mapping[str, str], cells: LabelCells, path: Path, row: int, refuse: Refuse
) -> dict[str, int]:
    labels = {}
    for name in names:
        try:
            labels[name] = cells.value(found[name])
            continue
        except NoValue as problem:
            says, remedy = problem.args
        labels[name] = -1
        refuse(DataError(f"the value of label {name!r} {says}", file=path, row=row, remedy=remedy))
    return labels


def _patient(cell: str, column: str, path: Path, row: int, refuse: Refuse) -> str:
    patient = said(cell)
    if not patient:
        remedy = f"Fill in {column!r}: splits and hospitals go by patient."
        refuse(DataError("the patient is blank, or a placeholder.", file=path, row=row, remedy=remedy))
    return patient


def _time(time: str, column: str, path: Path, row: int, refuse: Refuse) -> str:
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
    problem = "the time is not like 2024-03-01 or 2024-03-01T12:30."
    refuse(DataError(problem, file=path, row=row, remedy=f"Convert {column!r}."))
    return ""


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
    check_columns(path, header_of(path, columns.form), names)
