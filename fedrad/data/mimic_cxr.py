"""MIMIC-CXR: reports from the published zip or the unpacked tree, labels and splits from the published tables.

``data.path`` is a folder with

    mimic-cxr-reports.zip                  or the unpacked files/p10/p10000032/s50414267.txt
    mimic-cxr-2.0.0-chexpert.csv[.gz]      subject_id, study_id, 14 labels
    mimic-cxr-2.0.0-split.csv[.gz]         dicom_id, study_id, subject_id, split (one row per image)
    mimic-cxr-2.0.0-metadata.csv[.gz]      optional: StudyDate and StudyTime give the column time

Dates are shifted by a different amount for each patient: they order one patient's studies, not those of different
patients. The tables and the zip's list of members stay in memory; the texts do not.

Source: Johnson et al. 2019, doi:10.1038/s41597-019-0322-0, and PhysioNet's pages of mimic-cxr and mimic-cxr-jpg.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fedrad.corpora import CHEXPERT
from fedrad.data.cells import PLACEHOLDER
from fedrad.data.content import decode
from fedrad.data.files import corpus_folder, find_file, need_file
from fedrad.data.mimic_tables import chexpert_values, read_labels, read_splits, read_times
from fedrad.data.report import FEATURES, Oddities, Row, Source, Warn, count_copies, row_of
from fedrad.data.sections import read_report
from fedrad.errors import DataError

_ZIP = "mimic-cxr-reports.zip"
_TREES = ("files", "mimic-cxr-reports/files")
_MEMBER = re.compile(r"(?:^|/)p([0-9]{2})/p([0-9]{1,18})/s([0-9]{1,18})\.txt$")
_MAX_BYTES = 1 << 20  # real reports have a few thousand characters; a larger member means a broken or hostile zip
_CUT = "with a section such as 'Comparison:' or 'History:' behind the reading, which is not kept"
_BYTE_REMEDY = "The published reports are plain ASCII: download it again and compare checksums, or correct this report."


class RawReport(NamedTuple):
    """One report file."""

    subject: int
    study: int
    name: str
    data: bytes


def source(path: str | Path | None, uncertain: str = "negative") -> Source:
    """The corpus in the folder described above, ordered by patient and study.

    Args:
        uncertain: the meaning of the label -1.0, see ``chexpert_values``.
    Raises:
        DataError: a file is missing; while reading: something is damaged, contradictory or out of range.
        ConfigError: ``uncertain`` is not a known policy.
    """
    meaning = chexpert_values(uncertain)
    folder = corpus_folder(path, "MIMIC-CXR")
    home = _reports_home(folder)
    labels = need_file(folder, _table("chexpert"), "the file of labels")
    splits = need_file(folder, _table("split"), "the file of splits")
    times = find_file(folder, _table("metadata"), "the file of study times")

    def rows(warn: Warn) -> Iterator[Row]:
        tables = read_labels(labels, meaning), read_splits(splits), read_times(times)
        yield from count_copies(_rows(home, *tables, warn), home, warn, "study s{}")

    files = [home, labels, splits, *([times] if times else [])]
    return Source(files, lambda warn: (FEATURES(CHEXPERT), rows(warn)))


def _rows(
    home: Path,
    labels: dict[int, tuple[int, tuple[int, ...]]],
    splits: dict[int, str],
    times: dict[int, str],
    warn: Warn,
) -> Iterator[tuple[int, Row]]:
    odd = Oddities(home)
    for raw in read_zip(home) if home.is_file() else read_tree(home):
        if raw.study not in labels:
            odd.add("left out: no row in the label file", raw.name)
            continue
        subject, values = labels[raw.study]
        if subject != raw.subject:
            raise DataError(
                "the label file has this study under another subject_id.",
                file=f"{home}: {raw.name}",
                remedy="Use reports and labels of the same release.",
            )
        text, placeholder, cut = read_report(decode(raw.data, f"{home}: {raw.name}", _BYTE_REMEDY))
        if placeholder:
            odd.add(PLACEHOLDER, raw.name)
        if cut:
            odd.add(_CUT, raw.name)
        if not text:
            odd.add("left out: no findings, no impression, nor any other reading", raw.name)
            continue
        split = splits.get(raw.study, "")
        if not split:
            odd.add("in neither train nor test: no row in the split file", raw.name)
        named = dict(zip(CHEXPERT, values, strict=True))
        yield raw.study, row_of(text, named, f"p{raw.subject}", time=times.get(raw.study, ""), split=split)
    odd.tell(warn)


def read_zip(path: Path) -> Iterator[RawReport]:
    """The reports in the zip, ordered by folder, patient and study. Nothing is unpacked to disk.

    Raises:
        DataError: it is not a zip, holds no reports or the same study twice, or a member is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError):
        archive = None
    if archive is None:
        raise DataError("is not a readable zip file.", file=path, remedy="Download it again and compare checksums.")
    with archive:
        yield from _ordered(archive.namelist(), path, lambda name: _member(archive, name, path))


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    size = archive.getinfo(name).file_size
    if size <= _MAX_BYTES:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError):
            problem = "this member of the zip is damaged or encrypted."
    else:
        problem = f"this member of the zip is larger than any report ({size:,} bytes)."
    raise DataError(problem, file=f"{path}: {name}", remedy="Download the zip again and compare checksums.")


def read_tree(root: Path) -> Iterator[RawReport]:
    """The reports of an unpacked ``files`` tree, in the same order as from the zip.

    Raises:
        DataError: it holds no reports or the same study twice, or a file can't be read.
    """
    files = (file for folder in root.glob("p[0-9][0-9]") for file in folder.glob("p*/s*.txt"))
    names = (file.relative_to(root).as_posix() for file in files)
    yield from _ordered(names, root, lambda name: _file_bytes(root / name))


def _file_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size <= _MAX_BYTES:
            return path.read_bytes()
        problem = "is larger than any report."
    except OSError as error:
        problem = f"can't be read ({error.strerror})."
    raise DataError(problem, file=path, remedy="Unpack the reports again.")


def _ordered(names: Iterable[str], home: Path, read: Callable[[str], bytes]) -> Iterator[RawReport]:
    """The reports among the names, ordered by folder, subject and study."""
    matches = ((name, _MEMBER.search(name)) for name in names)
    found = sorted((int(m[1]), int(m[2]), int(m[3]), name) for name, m in matches if m)
    if not found:
        raise DataError(
            "holds no reports named like files/p10/p10000032/s50414267.txt.",
            file=home,
            remedy="MIMIC-CXR's reports are in mimic-cxr-reports.zip on PhysioNet.",
        )
    ((study, times),) = Counter(study for _, _, study, _ in found).most_common(1)
    if times > 1:
        raise DataError(f"study s{study} is there twice.", file=home, remedy="Remove one of the two.")
    for _, subject, study, name in found:
        yield RawReport(subject, study, name, read(name))


def _reports_home(folder: Path) -> Path:
    if (folder / _ZIP).is_file():
        return folder / _ZIP
    for tree in _TREES:
        if (folder / tree).is_dir():
            return folder / tree
    return need_file(folder, (_ZIP,), "the file of reports (or the unpacked folder files/)")


def _table(name: str) -> tuple[str, str]:
    return f"mimic-cxr-2.*-{name}.csv", f"mimic-cxr-2.*-{name}.csv.gz"
