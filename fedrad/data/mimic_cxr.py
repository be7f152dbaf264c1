"""MIMIC-CXR: reports from the published zip or the unpacked tree, labels and splits from the published tables.

``data.path`` is a folder with

    mimic-cxr-reports.zip                  or the unpacked files/p10/p10000032/s50414267.txt
    mimic-cxr-2.0.0-chexpert.csv[.gz]      subject_id, study_id, 14 labels
    mimic-cxr-2.0.0-split.csv[.gz]         dicom_id, study_id, subject_id, split (one row per image)
    mimic-cxr-2.0.0-metadata.csv[.gz]      optional: StudyDate and StudyTime give the column time

Dates are shifted for each patient by another amount: they order one patient's studies and compare nothing else.

In memory are the tables, as arrays, and the zip's own list of members: bytes per study, never a text.
Source: Johnson et al. 2019, doi:10.1038/s41597-019-0322-0, and PhysioNet's pages of mimic-cxr and mimic-cxr-jpg.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrad.data.cells import PLACEHOLDER
from fedrad.data.content import decode
from fedrad.data.files import corpus_folder, find_file, need_file
from fedrad.data.labels import CHEXPERT
from fedrad.data.mimic_tables import SPLITS, StudyTable, read_labels, read_splits, read_times
from fedrad.data.report import Counted, Row, Warn, count_copies, warn
from fedrad.data.sections import read_report
from fedrad.errors import DataError

_ZIP = "mimic-cxr-reports.zip"
_TREES = ("files", "mimic-cxr-reports/files")
_MEMBER = re.compile(r"(?:^|/)p([0-9]{2})/p([0-9]{1,18})/s([0-9]{1,18})\.txt$")
# The longest real report has some thousand characters; a member beyond this is not a report but a broken or
# hostile zip.
_MAX_BYTES = 1 << 20
_BYTE_REMEDY = "The published reports are plain ASCII: download it again and compare checksums, or correct this report."


@dataclass(frozen=True)
class RawReport:
    """One report file: where it is, whose, and its bytes."""

    subject: int
    study: int
    name: str
    data: bytes


def inputs(path: str | Path | None) -> list[Path]:
    """The files (or the report tree) that ``reports`` reads.

    Raises:
        DataError: one is missing.
    """
    folder = corpus_folder(path, "MIMIC-CXR")
    found = [_reports_home(folder), _chexpert_file(folder), _split_file(folder)]
    metadata = _metadata_file(folder)
    return found if metadata is None else [*found, metadata]


def reports(path: str | Path | None, uncertain: str = "negative", warn: Warn = warn) -> Iterator[Row]:
    """Streams the corpus, ordered by patient and study.

    Args:
        path: the folder described above.
        uncertain: what the label -1.0 becomes, see ``labels.chexpert_values``.
    Raises:
        DataError: something is missing, damaged, contradictory, or has values that it can't have.
        ConfigError: ``uncertain`` is no such policy.
    """
    folder = corpus_folder(path, "MIMIC-CXR")
    home = _reports_home(folder)
    labels = read_labels(_chexpert_file(folder), uncertain)
    splits = read_splits(_split_file(folder))
    metadata = _metadata_file(folder)
    times = None if metadata is None else read_times(metadata)
    return count_copies(_rows(home, labels, splits, times, warn), home, warn, "study s{}")


def _rows(
    home: Path, labels: StudyTable, splits: StudyTable, times: StudyTable | None, warn: Warn
) -> Iterator[tuple[int, Row]]:
    unlabelled = Counted("left out: no row in the label file", home)
    empty = Counted("left out: no findings, no impression, nor any other reading", home)
    unsplit = Counted("in neither train nor test: no row in the split file", home)
    odd = Counted(PLACEHOLDER, home)
    shortened = Counted(
        "with a section such as 'Comparison:' or 'History:' behind the reading, which is not kept", home
    )
    for raw in read_zip(home) if home.is_file() else read_tree(home):
        at = labels.find(raw.study)
        if at < 0:
            unlabelled.add(raw.name)
            continue
        if labels.subject[at] != raw.subject:
            raise DataError(
                "the label file has this study under another subject_id.",
                file=f"{home}: {raw.name}",
                remedy="Use reports and labels of the same release.",
            )
        text, placeholder, cut = read_report(decode(raw.data, f"{home}: {raw.name}", _BYTE_REMEDY))
        if placeholder:
            odd.add(raw.name)
        if cut:
            shortened.add(raw.name)
        if not text:
            empty.add(raw.name)
            continue
        split = _split_of(splits, raw.study)
        if not split:
            unsplit.add(raw.name)
        yield (
            raw.study,
            {
                "text": text,
                "labels": dict(zip(CHEXPERT, labels.values[at].tolist(), strict=True)),
                "patient": f"p{raw.subject}",
                "site": "",
                "time": _time_of(times, raw.study),
                "split": split,
            },
        )
    for counted in (unlabelled, empty, unsplit, odd, shortened):
        counted.tell(warn)


def read_zip(path: Path) -> Iterator[RawReport]:
    """The reports in the zip, one by one, ordered by folder, patient and study; nothing is unpacked to disk.

    Raises:
        DataError: it is no zip, holds no reports or a study twice, or a member is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError):
        archive = None
    if archive is None:
        raise DataError("is not a readable zip file.", file=path, remedy="Download it again and compare checksums.")
    with archive:
        members, keys = [], array("q")
        for info in archive.infolist():
            if match := _MEMBER.search(info.filename):
                members.append(info)
                keys.extend(int(number) for number in match.groups())
        for (_, subject, study), at in _ordered(keys, path):
            info = members[at]
            yield RawReport(subject, study, info.filename, _member(archive, info, path))


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    if info.file_size <= _MAX_BYTES:
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError):
            problem = "this member of the zip is damaged or encrypted."
    else:
        problem = f"this member of the zip is larger than any report ({info.file_size:,} bytes)."
    raise DataError(problem, file=f"{path}: {info.filename}", remedy="Download the zip again and compare checksums.")


def read_tree(root: Path) -> Iterator[RawReport]:
    """The reports of an unpacked ``files`` tree, in the same order as from the zip.

    Raises:
        DataError: it holds no reports or a study twice, or a file can't be read.
    """
    names, keys = [], array("q")
    for folder in sorted(root.glob("p[0-9][0-9]")):
        for file in folder.glob("p*/s*.txt"):
            name = file.relative_to(root).as_posix()
            if match := _MEMBER.search(name):
                names.append(name)
                keys.extend(int(number) for number in match.groups())
    for (_, subject, study), at in _ordered(keys, root):
        yield RawReport(subject, study, names[at], _file_bytes(root / names[at]))


def _file_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size <= _MAX_BYTES:
            return path.read_bytes()
        problem = "is larger than any report."
    except OSError as error:
        problem = f"can't be read ({error.strerror})."
    raise DataError(problem, file=path, remedy="Unpack the reports again.")


def _ordered(keys: array[int], home: Path) -> Iterator[tuple[tuple[int, int, int], int]]:
    """((folder, subject, study), place) in ascending order, from their flat list."""
    table = np.array(keys, dtype=np.int64).reshape(-1, 3)
    if len(table) == 0:
        raise DataError(
            "holds no reports named like files/p10/p10000032/s50414267.txt.",
            file=home,
            remedy="MIMIC-CXR's reports are in mimic-cxr-reports.zip on PhysioNet.",
        )
    study, counts = np.unique(table[:, 2], return_counts=True)
    if counts.max() > 1:
        raise DataError(f"study s{study[counts.argmax()]} is there twice.", file=home, remedy="Remove one of the two.")
    for at in np.lexsort((table[:, 2], table[:, 1], table[:, 0])).tolist():
        folder, subject, number = table[at].tolist()
        yield (folder, subject, number), at


def _time_of(times: StudyTable | None, study: int) -> str:
    at = -1 if times is None else times.find(study)
    if times is None or at < 0 or times.values[at] == 0:
        return ""
    d = str(times.values[at])
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:]}"


def _split_of(splits: StudyTable, study: int) -> str:
    at = splits.find(study)
    return "" if at < 0 else SPLITS[int(splits.values[at])]


def _reports_home(folder: Path) -> Path:
    if (folder / _ZIP).is_file():
        return folder / _ZIP
    for tree in _TREES:
        if (folder / tree).is_dir():
            return folder / tree
    return need_file(folder, (_ZIP,), "the file of reports (or the unpacked folder files/)")


def _table_file(name: str) -> tuple[str, str]:
    return f"mimic-cxr-2.*-{name}.csv", f"mimic-cxr-2.*-{name}.csv.gz"


def _chexpert_file(folder: Path) -> Path:
    return need_file(folder, _table_file("chexpert"), "the file of labels")


def _split_file(folder: Path) -> Path:
    return need_file(folder, _table_file("split"), "the file of splits")


def _metadata_file(folder: Path) -> Path | None:
    return find_file(folder, _table_file("metadata"), "the file of study times")
