"""Open-i (Indiana University chest X-rays): one CSV with a report per patient.

``data.path`` is ``indiana_reports.csv`` or the folder that holds it, with the columns uid, Problems, findings
and impression (others are not read). ``Problems`` becomes MIMIC-CXR's 14 labels by the table in
``labels.OPENI_PROBLEMS``.

Source: Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fedrad.data.cells import PLACEHOLDER, joined, said
from fedrad.data.files import corpus_folder, need_file
from fedrad.data.labels import openi_labels
from fedrad.data.parquet_file import Kind
from fedrad.data.report import Counted, Row, Warn, count_copies, warn
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError

_NAME = "indiana_reports.csv"
_COLUMNS: Final[tuple[tuple[str, Kind], ...]] = (
    ("uid", "name"),
    ("Problems", "text"),
    ("findings", "text"),
    ("impression", "text"),
)


def inputs(path: str | Path | None) -> list[Path]:
    """The file that ``reports`` reads.

    Raises:
        DataError: it is missing.
    """
    if path and Path(path).expanduser().is_file():
        return [Path(path).expanduser()]
    return [need_file(corpus_folder(path, "Open-i"), (_NAME, f"{_NAME}.gz"), "the file of reports")]


def reports(path: str | Path | None, warn: Warn = warn) -> Iterator[Row]:
    """Streams the corpus in the order of the file. Each uid is a patient of its own; ``XXXX`` (removed spans)
    is kept.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or has a uid twice.
    """
    (file,) = inputs(path)
    return count_copies(_rows(file, warn), file, warn)


def _rows(path: Path, warn: Warn) -> Iterator[tuple[int, Row]]:
    empty = Counted("left out: no findings and no impression", path)
    unlabelled = Counted("left out: nothing in Problems, so no labels", path)
    odd = Counted(PLACEHOLDER, path)
    seen: dict[str, int] = {}
    for row, (uid, problems, findings, impression) in rows_of(path, _COLUMNS):
        patient = said(uid)
        if not patient.isalnum() or len(patient) > 20:
            raise DataError("uid is not a number.", file=path, row=row, remedy="Give every report its own number.")
        if patient in seen:
            message = f"uid {patient} is also in row {seen[patient]}."
            raise DataError(message, file=path, row=row, remedy="Remove one of the two rows.")
        seen[patient] = row
        text, placeholder = joined((findings, impression))
        if placeholder:
            odd.add(row)
        terms = [term for term in problems.split(";") if said(term)]
        if not text:
            empty.add(row)
        elif not terms:
            unlabelled.add(row)
        else:
            yield (
                row,
                {
                    "text": text,
                    "labels": openi_labels(terms),
                    "patient": patient,
                    "site": "",
                    "time": "",
                    "split": "",
                },
            )
    for counted in (empty, unlabelled, odd):
        counted.tell(warn)
