"""Open-i (Indiana University chest X-rays): one CSV with a report per patient.

``data.path`` is ``indiana_reports.csv`` or its folder. The columns read are uid, Problems, findings and impression.
Each uid counts as a patient; ``XXXX`` (removed spans) is kept.

Source: Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from fedrad.corpora import CHEXPERT
from fedrad.data.cells import PLACEHOLDER, joined, said
from fedrad.data.files import corpus_folder, need_file
from fedrad.data.parquet_file import Kind
from fedrad.data.report import FEATURES, Oddities, Row, Source, Warn, count_copies, row_of
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError

_NAME = "indiana_reports.csv"
_COLUMNS: Final[tuple[tuple[str, Kind], ...]] = (
    ("uid", "name"),
    ("Problems", "text"),
    ("findings", "text"),
    ("impression", "text"),
)
# In CHEXPERT's order. Also in docs/data-formats.md; a test compares the two.
PROBLEMS: Final[Mapping[str, tuple[str, ...]]] = {
    "Atelectasis": ("pulmonary atelectasis",),
    "Cardiomegaly": ("cardiac shadow", "cardiomegaly"),
    "Consolidation": ("consolidation",),
    "Edema": ("pulmonary congestion", "pulmonary edema"),
    "Enlarged Cardiomediastinum": ("cardiac shadow", "mediastinum"),
    "Fracture": ("fractures, bone",),
    "Lung Lesion": ("calcified granuloma", "granuloma", "mass", "nodule"),
    "Lung Opacity": ("airspace disease", "consolidation", "density", "infiltrate", "opacity"),
    "No Finding": ("no indexing", "normal"),
    "Pleural Effusion": ("hemopneumothorax", "hydropneumothorax", "pleural effusion"),
    "Pleural Other": ("pleura", "thickening"),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("hemopneumothorax", "hydropneumothorax", "pneumothorax"),
    "Support Devices": (
        "catheters, indwelling",
        "implanted medical device",
        "medical device",
        "stents",
        "surgical instruments",
        "tube, inserted",
    ),
}
"""Label -> the problems (lower case) that make it positive. Other problems do not matter."""


def source(path: str | Path | None) -> Source:
    """The corpus at ``path``, in the order of the file.

    Raises:
        DataError: the file is missing; while reading: it is damaged, lacks a column, or has a uid twice.
    """
    if path and Path(path).expanduser().is_file():
        file = Path(path).expanduser()
    else:
        file = need_file(corpus_folder(path, "Open-i"), (_NAME, f"{_NAME}.gz"), "the file of reports")
    return Source([file], lambda warn: (FEATURES(CHEXPERT), count_copies(_rows(file, warn), file, warn)))


def _rows(path: Path, warn: Warn) -> Iterator[tuple[int, Row]]:
    odd, seen = Oddities(path), dict[str, int]()
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
            odd.add(PLACEHOLDER, row)
        terms = [term for term in problems.split(";") if said(term)]
        if not text:
            odd.add("left out: no findings and no impression", row)
        elif not terms:
            odd.add("left out: nothing in Problems, so no labels", row)
        else:
            yield row, row_of(text, openi_labels(terms), patient)
    odd.tell(warn)


def openi_labels(problems: Iterable[str]) -> dict[str, int]:
    """The 14 labels of an Open-i report.

    "No Finding" is what the annotators called normal or did not index. A report of nothing but a hiatal hernia has no
    positive label, although CheXpert, which labelled MIMIC-CXR, would call it "No Finding".

    Args:
        problems: the terms of the column ``Problems``, in any case.
    """
    terms = {" ".join(problem.lower().split()) for problem in problems}
    positive = {label for label, makers in PROBLEMS.items() if terms & set(makers)}
    if len(positive) > 1:
        positive.discard("No Finding")
    return {label: int(label in positive) for label in CHEXPERT}
