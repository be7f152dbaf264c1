"""MIMIC-CXR's tables as arrays: labels, splits and times of each study. ``mimic_cxr.py`` reads the reports."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrad.data.cells import said
from fedrad.data.labels import CHEXPERT, chexpert_values
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError

SPLITS: Final = ("train", "validate", "test")


@dataclass(frozen=True)
class StudyTable:
    """One row per study: ``study`` int64 [n] ascending, ``subject`` int64 [n], ``values`` [n] or [n, L]."""

    study: NDArray[np.int64]
    subject: NDArray[np.int64]
    values: NDArray[np.int64] | NDArray[np.int8]

    def find(self, study: int) -> int:
        """The row of a study, or -1."""
        at = int(np.searchsorted(self.study, study))
        return at if at < len(self.study) and self.study[at] == study else -1


def read_labels(path: Path, uncertain: str) -> StudyTable:
    """The 14 labels of each study, int8 [n, 14].

    Raises:
        DataError: a cell is none of 1.0, 0.0, -1.0 and blank, or a study is there twice.
        ConfigError: ``uncertain`` is no such policy.
    """
    meaning = chexpert_values(uncertain)
    subjects, studies, values = array("q"), array("q"), array("b")
    for row, (subject, study, *cells) in _cells(path, *CHEXPERT):
        subjects.append(_number(subject, "subject_id", path, row))
        studies.append(_number(study, "study_id", path, row))
        for name, cell in zip(CHEXPERT, cells, strict=True):
            value = meaning.get(cell)
            if value is None:
                remedy = "It must be 1.0, 0.0, -1.0 or blank."
                raise DataError(
                    f"the value of {name!r} is none that a label can have.", file=path, row=row, remedy=remedy
                )
            values.append(value)
    study_of = np.array(studies, dtype=np.int64)
    order = np.argsort(study_of, kind="stable")
    again = np.flatnonzero(study_of[order][1:] == study_of[order][:-1])
    if len(again):
        row = int(order[again + 1].min()) + 1
        raise DataError(
            f"study {study_of[row - 1]} has a second row.", file=path, row=row, remedy="Keep one of the two."
        )
    matrix = np.array(values, dtype=np.int8).reshape(-1, len(CHEXPERT))
    return StudyTable(study_of[order], np.array(subjects, dtype=np.int64)[order], matrix[order])


def read_splits(path: Path) -> StudyTable:
    """The split of each study as an index into ``SPLITS``.

    Raises:
        DataError: a split has another name, or a patient is in two of them.
    """
    code = {name: k for k, name in enumerate(SPLITS)}
    subjects, studies, splits = array("q"), array("q"), array("b")
    for row, (subject, study, split) in _cells(path, "split"):
        if split not in code:
            raise DataError("the split has an unknown name.", file=path, row=row, remedy=f"It must be one of {SPLITS}.")
        subjects.append(_number(subject, "subject_id", path, row))
        studies.append(_number(study, "study_id", path, row))
        splits.append(code[split])
    subject_of, split_of = np.array(subjects, dtype=np.int64), np.array(splits, dtype=np.int8)
    order = np.argsort(subject_of, kind="stable")
    same = subject_of[order][1:] == subject_of[order][:-1]
    torn = np.flatnonzero(same & (split_of[order][1:] != split_of[order][:-1]))
    if len(torn):
        row = int(order[torn + 1].min())
        raise DataError(
            f"patient {subject_of[row]} is in two splits.",
            file=path,
            row=row + 1,
            remedy="Give all images of a patient the same split, or the test figures are worth nothing.",
        )
    unique, first = np.unique(np.array(studies, dtype=np.int64), return_index=True)
    return StudyTable(unique, subject_of[first], split_of[first])


def read_times(path: Path) -> StudyTable:
    """The time of each study, from its first image, as a number YYYYMMDDhhmmss; 0 if unknown.

    Raises:
        DataError: a date is not YYYYMMDD.
    """
    subjects, studies, stamps = array("q"), array("q"), array("q")
    for row, (subject, study, date, time) in _cells(path, "StudyDate", "StudyTime"):
        subjects.append(_number(subject, "subject_id", path, row))
        studies.append(_number(study, "study_id", path, row))
        date, time = said(date), said(time)
        clock = time.partition(".")[0]  # "213014.531", and from some tools "80556.0" for 8 o'clock
        date = date.removesuffix(".0")
        if date and not (
            len(date) == 8 and date.isdecimal() and (not clock or (clock.isdecimal() and len(clock) <= 6))
        ):
            remedy = "StudyDate must be YYYYMMDD and StudyTime hhmmss."
            raise DataError("StudyDate or StudyTime is not a date or time.", file=path, row=row, remedy=remedy)
        stamps.append(int(date + clock.zfill(6)) if date else 0)
    unique, first = np.unique(np.array(studies, dtype=np.int64), return_index=True)
    return StudyTable(unique, np.array(subjects, dtype=np.int64)[first], np.array(stamps, dtype=np.int64)[first])


def _cells(path: Path, *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a published table, behind subject_id and study_id; its numbers are read as whatever type they have."""
    return rows_of(path, [(name, "label") for name in ("subject_id", "study_id", *columns)])


def _number(cell: str, column: str, path: Path, row: int) -> int:
    digits = cell.strip().removesuffix(".0")  # pandas writes whole numbers so when one of the column is missing
    if digits.isascii() and digits.isdecimal() and len(digits) <= 18:
        return int(digits)
    raise DataError(f"{column} is not a number.", file=path, row=row, remedy="Use the file as PhysioNet publishes it.")
