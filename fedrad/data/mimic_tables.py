"""MIMIC-CXR's tables: labels, splits and times by study. ``mimic_cxr.py`` reads the reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from fedrad.corpora import CHEXPERT
from fedrad.data.cells import labels_in, said
from fedrad.data.parquet_file import Kind
from fedrad.data.report import value_of_doubt
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError

SPLITS: Final = ("train", "validate", "test")


def chexpert_values(uncertain: str) -> Mapping[str, int]:
    """The meaning of each cell of a CheXpert-style label file: {cell: 1 positive, 0 negative, -1 masked}.

    A blank cell means that the report does not mention the finding: negative.

    Args:
        uncertain: the meaning of -1.0, as for `value_of_doubt`.
    Raises:
        ConfigError: an unknown policy.
    """
    doubt = value_of_doubt(uncertain)
    return {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": doubt, "-1.0": doubt}


def read_labels(path: Path, meaning: Mapping[str, int]) -> dict[int, tuple[int, tuple[int, ...]]]:
    """{study: (subject, the 14 labels)}.

    Args:
        meaning: from ``chexpert_values``.
    Raises:
        DataError: a cell has no meaning, or a study has two rows.
    """
    found = {}
    for row, subject, study, cells in _rows(path, CHEXPERT):
        labels = labels_in(CHEXPERT, cells, meaning, "It must be 1.0, 0.0, -1.0 or blank.", path, row)
        if study in found:
            raise DataError(f"study {study} has a second row.", file=path, row=row, remedy="Keep one of the two.")
        found[study] = subject, tuple(labels.values())
    return found


def read_splits(path: Path) -> dict[int, str]:
    """{study: one of ``SPLITS``}.

    Raises:
        DataError: an unknown split, or a patient in two of them.
    """
    by_study: dict[int, str] = {}
    by_subject: dict[int, str] = {}
    for row, subject, study, (split,) in _rows(path, ("split",)):
        if split not in SPLITS:
            raise DataError("the split has an unknown name.", file=path, row=row, remedy=f"It must be one of {SPLITS}.")
        if by_subject.setdefault(subject, split) != split:
            remedy = "Give all images of a patient the same split, or the test scores mean nothing."
            raise DataError(f"patient {subject} is in two splits.", file=path, row=row, remedy=remedy)
        by_study.setdefault(study, split)
    return by_study


def read_times(path: Path | None) -> dict[int, str]:
    """{study: time of its first image, YYYY-MM-DDThh:mm:ss, or "" if unknown}; empty without a file.

    Raises:
        DataError: a date is not YYYYMMDD.
    """
    found: dict[int, str] = {}
    for row, _, study, cells in _rows(path, ("StudyDate", "StudyTime")) if path else ():
        date, time = said(cells[0]).removesuffix(".0"), said(cells[1])
        clock = time.partition(".")[0]  # "213014.531"; some tools write 8 o'clock as "80556.0"
        good = len(date) == 8 and date.isdecimal() and (not clock or (clock.isdecimal() and len(clock) <= 6))
        if date and not good:
            remedy = "StudyDate must be YYYYMMDD and StudyTime hhmmss."
            raise DataError("StudyDate or StudyTime is not a date or time.", file=path, row=row, remedy=remedy)
        t = clock.zfill(6)
        found.setdefault(study, f"{date[:4]}-{date[4:6]}-{date[6:]}T{t[:2]}:{t[2:4]}:{t[4:]}" if date else "")
    return found


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, int, int, list[str]]]:
    """(row, subject, study, cells of ``columns``) of a published table."""
    # Read as labels, columns may be text or numbers of any type.
    wanted: list[tuple[str, Kind]] = [(name, "label") for name in ("subject_id", "study_id", *columns)]
    for row, (subject, study, *cells) in rows_of(path, wanted):
        yield row, _number(subject, "subject_id", path, row), _number(study, "study_id", path, row), cells


def _number(cell: str, column: str, path: Path, row: int) -> int:
    digits = cell.strip().removesuffix(".0")  # pandas writes whole numbers like this if one in the column is missing
    if digits.isascii() and digits.isdecimal() and len(digits) <= 18:
        return int(digits)
    raise DataError(f"{column} is not a number.", file=path, row=row, remedy="Use the file as PhysioNet publishes it.")
