"""MIMIC-CXR's tables as arrays: labels, splits and times of each study. ``mimic_cxr.py`` reads the reports."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrad.corpora import CHEXPERT
from fedrad.data.cells import said
from fedrad.data.parquet_file import Kind
from fedrad.data.report import value_of_doubt
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError

SPLITS: Final = ("train", "validate", "test")


@dataclass(frozen=True)
class Studies:
    """One row per study: ``study`` int64 [n] ascending, ``subject`` int64 [n], ``values`` int64 or int8 [n, width]."""

    study: NDArray[np.int64]
    subject: NDArray[np.int64]
    values: NDArray[np.int64] | NDArray[np.int8]

    def find(self, study: int) -> int:
        """The row of a study, or -1."""
        at = int(np.searchsorted(self.study, study))
        return at if at < len(self.study) and self.study[at] == study else -1

    def first_of_each(self) -> Studies:
        """The first row of each study, of rows in the order of a file."""
        study, first = np.unique(self.study, return_index=True)
        return Studies(study, self.subject[first], self.values[first])


def chexpert_values(uncertain: str) -> Mapping[str, int]:
    """What the cells of a CheXpert-style label file mean: {cell: 1 positive, 0 negative, -1 masked}.

    A blank cell means that the report does not mention it: negative.

    Args:
        uncertain: what -1.0 becomes, as for `value_of_doubt`.
    Raises:
        ConfigError: another word.
    """
    doubt = value_of_doubt(uncertain)
    return {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": doubt, "-1.0": doubt}


def read_labels(path: Path, meaning: Mapping[str, int]) -> Studies:
    """The 14 labels of each study, int8 [n, 14].

    Args:
        meaning: from ``chexpert_values``.
    Raises:
        DataError: a cell has no meaning, or a study is there twice.
    """

    def values(row: int, cells: Sequence[str]) -> list[int]:
        for name, cell in zip(CHEXPERT, cells, strict=True):
            if cell not in meaning:
                problem = f"the value of {name!r} is none that a label can have."
                raise DataError(problem, file=path, row=row, remedy="It must be 1.0, 0.0, -1.0 or blank.")
        return [meaning[cell] for cell in cells]

    table = _read(path, CHEXPERT, "b", values)
    order = np.argsort(table.study, kind="stable")
    again = np.flatnonzero(table.study[order][1:] == table.study[order][:-1])
    if len(again):
        at = int(order[again + 1].min())
        problem = f"study {table.study[at]} has a second row."
        raise DataError(problem, file=path, row=at + 1, remedy="Keep one of the two.")
    return table.first_of_each()


def read_splits(path: Path) -> Studies:
    """The split of each study as an index into ``SPLITS``, int8 [n, 1].

    Raises:
        DataError: a split has another name, or a patient is in two of them.
    """

    def values(row: int, cells: Sequence[str]) -> list[int]:
        if cells[0] not in SPLITS:
            raise DataError("the split has an unknown name.", file=path, row=row, remedy=f"It must be one of {SPLITS}.")
        return [SPLITS.index(cells[0])]

    table = _read(path, ("split",), "b", values)
    order = np.argsort(table.subject, kind="stable")
    subject, split = table.subject[order], table.values[order, 0]
    torn = np.flatnonzero((subject[1:] == subject[:-1]) & (split[1:] != split[:-1]))
    if len(torn):
        at = int(order[torn + 1].min())
        raise DataError(
            f"patient {table.subject[at]} is in two splits.",
            file=path,
            row=at + 1,
            remedy="Give all images of a patient the same split, or the test figures are worth nothing.",
        )
    return table.first_of_each()


def read_times(path: Path | None) -> Studies:
    """The time of each study, from its first image, as a number YYYYMMDDhhmmss, int64 [n, 1]; 0 if unknown.

    Args:
        path: None for a release without these; then no study has one.
    Raises:
        DataError: a date is not YYYYMMDD.
    """

    def values(row: int, cells: Sequence[str]) -> list[int]:
        date, time = said(cells[0]).removesuffix(".0"), said(cells[1])
        clock = time.partition(".")[0]  # "213014.531", and from some tools "80556.0" for 8 o'clock
        good = len(date) == 8 and date.isdecimal() and (not clock or (clock.isdecimal() and len(clock) <= 6))
        if date and not good:
            remedy = "StudyDate must be YYYYMMDD and StudyTime hhmmss."
            raise DataError("StudyDate or StudyTime is not a date or time.", file=path, row=row, remedy=remedy)
        return [int(date + clock.zfill(6)) if date else 0]

    if path is None:
        none = np.empty(0, dtype=np.int64)
        return Studies(none, none, none.reshape(0, 1))
    return _read(path, ("StudyDate", "StudyTime"), "q", values).first_of_each()


def _read(path: Path, columns: Sequence[str], code: str, values: Callable[[int, Sequence[str]], list[int]]) -> Studies:
    """All rows of a published table, in the order of the file.

    Args:
        code: of ``array``, for the values.
        values: the values of a row, from its number and the cells of ``columns``.
    """
    subjects, studies, found = array("q"), array("q"), array(code)
    # As labels, columns may be text or numbers of any type.
    wanted: list[tuple[str, Kind]] = [(name, "label") for name in ("subject_id", "study_id", *columns)]
    for row, (subject, study, *cells) in rows_of(path, wanted):
        subjects.append(_number(subject, "subject_id", path, row))
        studies.append(_number(study, "study_id", path, row))
        found.extend(values(row, cells))
    # Of an empty table reshape can't tell the width.
    matrix = np.array(found).reshape(len(studies), -1 if studies else 1)
    return Studies(np.array(studies, dtype=np.int64), np.array(subjects, dtype=np.int64), matrix)


def _number(cell: str, column: str, path: Path, row: int) -> int:
    digits = cell.strip().removesuffix(".0")  # pandas writes whole numbers so when one of the column is missing
    if digits.isascii() and digits.isdecimal() and len(digits) <= 18:
        return int(digits)
    raise DataError(f"{column} is not a number.", file=path, row=row, remedy="Use the file as PhysioNet publishes it.")
