"""CT-RATE: chest CT reports with 18 labels.

``data.path`` is a folder with ``train_reports.csv`` and ``train_predicted_labels.csv`` and, or,
``validation_reports.csv`` and ``valid_predicted_labels.csv``, also with the prefixes that the files have
carried, and also in the dataset's own subfolders.

A volume ``train_1_a_2`` (``.nii.gz`` or not) is patient ``train_1``, scan ``a``, reconstruction 2.
Reconstructions of one scan share a report and its labels, so a scan counts once. The validation patients are
the test split: there is no third set.

Source: Hamamci et al. 2024, arXiv:2403.17834, and the dataset's page on Hugging Face.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

from fedrad.data.cells import PLACEHOLDER, joined
from fedrad.data.files import corpus_folder, find_file, need_file
from fedrad.data.labels import BINARY, CT_RATE
from fedrad.data.parquet_file import Kind
from fedrad.data.report import Counted, Row, Warn, count_copies, warn
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError

_VOLUME = re.compile(r"(?P<scan>(?P<patient>(?P<part>train|valid)_[0-9]+)_[a-z]+)_[0-9]+(?:\.nii(?:\.gz)?)?")
_REPORT_COLUMNS: Final[tuple[tuple[str, Kind], ...]] = (
    ("VolumeName", "name"),
    ("Findings_EN", "text"),
    ("Impressions_EN", "text"),
)
_LABEL_COLUMNS: Final[tuple[tuple[str, Kind], ...]] = (("VolumeName", "name"), *((name, "label") for name in CT_RATE))
_REPORT_HOMES = ("", "dataset_radiology_text_reports_", "radiology_text_reports/", "dataset/radiology_text_reports/")
_LABEL_HOMES = (
    "",
    "dataset_multi_abnormality_labels_",
    "multi_abnormality_labels/",
    "dataset/multi_abnormality_labels/",
)
# name of the part in VolumeName -> (our split, its reports, its labels)
_PARTS: Final = {
    "train": ("train", ("train_reports",), ("train_predicted_labels",)),
    "valid": (
        "test",
        ("validation_reports", "valid_reports"),
        ("valid_predicted_labels", "validation_predicted_labels"),
    ),
}

ScanLabels = dict[str, tuple[bytes, int]]


def inputs(path: str | Path | None) -> list[Path]:
    """The files that ``reports`` reads.

    Raises:
        DataError: one is missing.
    """
    return [file for _, reports_file, labels_file in _files(path) for file in (reports_file, labels_file)]


def reports(path: str | Path | None, warn: Warn = warn) -> Iterator[Row]:
    """Streams the corpus, one row per scan, in the order of the files: training first.

    Raises:
        DataError: something is missing, damaged or contradictory (e.g. labels of one scan's reconstructions
        differ), or has
            values that it can't have.
    """
    for part, reports_file, labels_file in _files(path):
        labels = _scan_labels(labels_file, part)
        yield from count_copies(_part_rows(part, reports_file, labels, warn), reports_file, warn)


def _part_rows(part: str, path: Path, labels: ScanLabels, warn: Warn) -> Iterator[tuple[int, Row]]:
    unlabelled = Counted("left out: no row in the label file", path)
    empty = Counted("left out: no findings and no impression", path)
    differ = Counted("left out: not the same as the first of its scan", path)
    odd = Counted(PLACEHOLDER, path)
    volumes: set[str] = set()
    scans: dict[str, bytes] = {}
    for row, (volume, findings, impression) in rows_of(path, _REPORT_COLUMNS):
        name, patient, scan = _volume(volume, part, path, row)
        if name in volumes:
            raise DataError(f"volume {name} is there twice.", file=path, row=row, remedy="Remove one of the two rows.")
        volumes.add(name)
        text, placeholder = joined((findings, impression))
        digest = blake2b(text.encode(), digest_size=8).digest()
        if scan in scans:
            if scans[scan] != digest:
                differ.add(row)
            continue
        if placeholder:
            odd.add(row)
        if not text:
            empty.add(row)
            continue
        scans[scan] = digest
        if scan not in labels:
            unlabelled.add(row)
            continue
        values = (value for value in labels[scan][0])
        yield (
            row,
            {
                "text": text,
                "labels": dict(zip(CT_RATE, values, strict=True)),
                "patient": patient,
                "site": "",
                "time": "",
                "split": _PARTS[part][0],
            },
        )
    for counted in (unlabelled, empty, differ, odd):
        counted.tell(warn)


def _scan_labels(path: Path, part: str) -> ScanLabels:
    """{scan: (its 18 labels, the row that they are from)}."""
    found: ScanLabels = {}
    volumes: set[str] = set()
    for row, (volume, *cells) in rows_of(path, _LABEL_COLUMNS):
        name, _, scan = _volume(volume, part, path, row)
        if name in volumes:
            raise DataError(f"volume {name} is there twice.", file=path, row=row, remedy="Remove one of the two rows.")
        volumes.add(name)
        for label, cell in zip(CT_RATE, cells, strict=True):
            if cell.strip() not in BINARY:
                problem = f"the value of {label!r} is not 0 or 1."
                raise DataError(problem, file=path, row=row, remedy=f"It must be one of {', '.join(BINARY)}.")
        values = bytes(BINARY[cell.strip()] for cell in cells)
        first = found.setdefault(scan, (values, row))
        if first[0] != values:
            raise DataError(
                f"the labels of scan {scan} differ from row {first[1]}, but both are reconstructions of it.",
                file=path,
                row=row,
                remedy="Make the two rows agree.",
            )
    return found


def _volume(cell: str, part: str, path: Path, row: int) -> tuple[str, str, str]:
    """(volume without ending, patient, scan)."""
    match = _VOLUME.fullmatch(cell.strip())
    if match is None:
        remedy = "It must look like train_1_a_2.nii.gz (patient 1, scan a, reconstruction 2)."
        raise DataError("VolumeName is not the name of a volume.", file=path, row=row, remedy=remedy)
    if match["part"] != part:
        raise DataError(
            f"patient {match['patient']} belongs to the other split.",
            file=path,
            row=row,
            remedy=f"Only {part}_ volumes may be in this file, so that no patient is in two splits.",
        )
    return cell.strip().partition(".")[0], match["patient"], match["scan"]


def _files(path: str | Path | None) -> list[tuple[str, Path, Path]]:
    folder = corpus_folder(path, "CT-RATE")
    found = []
    for part, (_, reports_names, labels_names) in _PARTS.items():
        patterns = _patterns(_REPORT_HOMES, reports_names)
        reports_file = find_file(folder, patterns, f"the {part} reports")
        if reports_file is not None:
            found.append(
                (part, reports_file, need_file(folder, _patterns(_LABEL_HOMES, labels_names), f"the {part} labels"))
            )
    if not found:
        need_file(folder, _patterns(_REPORT_HOMES[:2], _PARTS["train"][1]), "the file of reports")
    return found


def _patterns(homes: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    return [f"{home}{name}.csv{ending}" for name in names for home in homes for ending in ("", ".gz")]
