"""CT-RATE: chest CT reports with 18 labels.

``data.path`` is a folder with ``train_reports.csv`` and ``train_predicted_labels.csv``, ``validation_reports.csv`` and
``valid_predicted_labels.csv``, or one of these pairs. The dataset's own subfolders and older file names work too.

A volume ``train_1_a_2`` (``.nii.gz`` or not) is patient ``train_1``, scan ``a``, reconstruction 2.
Reconstructions of one scan share a report and labels, so a scan counts once. The validation patients are the test
split: there is no third set.

Source: Hamamci et al. 2024, arXiv:2403.17834, and the dataset's page on Hugging Face.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

from fedrad.corpora import CT_RATE
from fedrad.data.cells import PLACEHOLDER, joined, labels_in
from fedrad.data.files import corpus_folder, find_file, need_file
from fedrad.data.parquet_file import Kind
from fedrad.data.report import FEATURES, Oddities, Row, Source, Warn, count_copies, row_of
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError

_VOLUME = re.compile(r"(?P<scan>(?P<patient>(?P<part>train|valid)_[0-9]+)_[a-z]+)_[0-9]+(?:\.nii(?:\.gz)?)?")
_REPORT_COLUMNS: Final[tuple[tuple[str, Kind], ...]] = (
    ("VolumeName", "name"),
    ("Findings_EN", "text"),
    ("Impressions_EN", "text"),
)
_LABEL_COLUMNS: Final[tuple[tuple[str, Kind], ...]] = (("VolumeName", "name"), *((name, "label") for name in CT_RATE))
_VALUES: Final = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
_REPORT_HOMES = ("", "dataset_radiology_text_reports_", "radiology_text_reports/", "dataset/radiology_text_reports/")
_LABEL_HOMES = (
    "",
    "dataset_multi_abnormality_labels_",
    "multi_abnormality_labels/",
    "dataset/multi_abnormality_labels/",
)
# name of the part in VolumeName -> (its reports, its labels)
_NAMES: Final = {
    "train": (("train_reports",), ("train_predicted_labels",)),
    "valid": (("validation_reports", "valid_reports"), ("valid_predicted_labels", "validation_predicted_labels")),
}
_SPLITS: Final = {"train": "train", "valid": "test"}

ScanLabels = dict[str, tuple[bytes, int]]
"""Scan -> (its 18 labels, their row)."""


class Part(NamedTuple):
    """The files of the training or of the validation patients."""

    name: str
    reports: Path
    labels: Path


def source(path: str | Path | None) -> Source:
    """The corpus in the folder ``path``, one row per scan, in the order of the files: training first.

    Raises:
        DataError: a file is missing; while reading: something is damaged, contradictory (such as labels that differ
            between a scan's reconstructions) or out of range.
    """
    parts = _parts(corpus_folder(path, "CT-RATE"))

    def rows(warn: Warn) -> Iterator[Row]:
        for part in parts:
            yield from count_copies(_rows(part, _scan_labels(part), warn), part.reports, warn)

    files = [file for part in parts for file in (part.reports, part.labels)]
    return Source(files, lambda warn: (FEATURES(CT_RATE), rows(warn)))


def _rows(part: Part, labels: ScanLabels, warn: Warn) -> Iterator[tuple[int, Row]]:
    odd, scans = Oddities(part.reports), dict[str, bytes]()
    for row, patient, scan, (findings, impression) in _volumes(part.reports, part.name, _REPORT_COLUMNS):
        text, placeholder = joined((findings, impression))
        digest = blake2b(text.encode(), digest_size=8).digest()
        if scan in scans:
            if scans[scan] != digest:
                odd.add("left out: not the same as the first of its scan", row)
            continue
        if placeholder:
            odd.add(PLACEHOLDER, row)
        if not text:
            odd.add("left out: no findings and no impression", row)
            continue
        scans[scan] = digest
        if scan not in labels:
            odd.add("left out: no row in the label file", row)
            continue
        values = dict(zip(CT_RATE, labels[scan][0], strict=True))
        yield row, row_of(text, values, patient, split=_SPLITS[part.name])
    odd.tell(warn)


def _scan_labels(part: Part) -> ScanLabels:
    found: ScanLabels = {}
    for row, _, scan, cells in _volumes(part.labels, part.name, _LABEL_COLUMNS):
        remedy = f"It must be one of {', '.join(_VALUES)}."
        values = bytes(labels_in(CT_RATE, [cell.strip() for cell in cells], _VALUES, remedy, part.labels, row).values())
        first = found.setdefault(scan, (values, row))
        if first[0] != values:
            raise DataError(
                f"the labels of scan {scan} differ from row {first[1]}, but both are reconstructions of it.",
                file=part.labels,
                row=row,
                remedy="Make the two rows agree.",
            )
    return found


def _volumes(path: Path, part: str, columns: tuple[tuple[str, Kind], ...]) -> Iterator[tuple[int, str, str, list[str]]]:
    """(row, patient, scan, the other cells) of a file. Refuses repeated volumes and those of the other part."""
    seen: set[str] = set()
    for row, (cell, *cells) in rows_of(path, columns):
        match = _VOLUME.fullmatch(cell.strip())
        if match is None:
            remedy = "It must look like train_1_a_2.nii.gz (patient 1, scan a, reconstruction 2)."
            raise DataError("VolumeName is not the name of a volume.", file=path, row=row, remedy=remedy)
        if match["part"] != part:
            problem = f"patient {match['patient']} belongs to the other split."
            remedy = f"Only {part}_ volumes may be in this file, so that no patient is in two splits."
            raise DataError(problem, file=path, row=row, remedy=remedy)
        name = cell.strip().partition(".")[0]
        if name in seen:
            raise DataError(f"volume {name} is there twice.", file=path, row=row, remedy="Remove one of the two rows.")
        seen.add(name)
        yield row, match["patient"], match["scan"], cells


def _parts(folder: Path) -> list[Part]:
    found = []
    for part, (reports_names, labels_names) in _NAMES.items():
        reports = find_file(folder, _patterns(_REPORT_HOMES, reports_names), f"the {part} reports")
        if reports is not None:
            labels = need_file(folder, _patterns(_LABEL_HOMES, labels_names), f"the {part} labels")
            found.append(Part(part, reports, labels))
    if not found:
        need_file(folder, _patterns(_REPORT_HOMES[:2], _NAMES["train"][0]), "the file of reports")
    return found


def _patterns(homes: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    return [f"{home}{name}.csv{ending}" for name in names for home in homes for ending in ("", ".gz")]
