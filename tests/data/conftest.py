"""Small made-up corpora in the published formats. ``CANARY`` stands in every text: no message may show it."""

from __future__ import annotations

import csv
import traceback
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from fedrad.corpora import CHEXPERT, CT_RATE
from fedrad.data.report import Row, Source, label_names
from fedrad.errors import DataError

CANARY = "zyzzyva"


def read_all(source: Source) -> tuple[list[Row], list[str]]:
    """The rows of a corpus, and what it warns of."""
    notes: list[str] = []
    return list(source.read(notes.append)[1]), notes


def names_of(source: Source) -> tuple[str, ...]:
    """Its labels or classes."""
    return label_names(source.read(lambda _: None)[0])


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def member(subject: int, study: int) -> str:
    return f"files/p{str(subject)[:2]}/p{subject}/s{study}.txt"


def report(impression: str) -> str:
    title = "                                 FINAL REPORT\n"
    return f"{title} FINDINGS:  {CANARY} lungs are clear.\n\n IMPRESSION:\n {impression}\n"


STUDIES = {  # study: (subject, split, Edema, text)
    50000003: (10000001, "train", "1.0", report("Edema.")),
    50000001: (10000001, "train", "-1.0", report("Possible edema.")),
    50000002: (11000002, "test", "", report("Normal.")),
    50000004: (12000003, "validate", "0.0", report("No edema.")),
}


def mimic_folder(folder: Path, studies: dict[int, tuple[int, str, str, str]] = STUDIES, prefix: str = "") -> Path:
    """A MIMIC-CXR folder with a zip; the label file is in another order than the reports."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for study, (subject, _, _, text) in studies.items():
            archive.writestr(prefix + member(subject, study), text)
        archive.writestr(f"{prefix}files/index.html", "not a report")
    labels = [
        [subject, study, *(edema if name == "Edema" else "" for name in CHEXPERT)]
        for study, (subject, _, edema, _) in studies.items()
    ]
    write_csv(folder / "mimic-cxr-2.0.0-chexpert.csv", ["subject_id", "study_id", *CHEXPERT], reversed(labels))
    images = [[f"d{study}-{k}", study, s, split] for study, (s, split, _, _) in studies.items() for k in range(2)]
    write_csv(folder / "mimic-cxr-2.0.0-split.csv", ["dicom_id", "study_id", "subject_id", "split"], images)
    return folder


CT_REPORTS = ("VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN")


def ct_folder(
    folder: Path,
    reports: dict[str, str],
    labels: dict[str, str],
    names: tuple[str, str] = ("train_reports.csv", "train_predicted_labels.csv"),
) -> Path:
    """A CT-RATE folder: {volume: findings}, {volume: value of the first label}."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_csv(folder / names[0], CT_REPORTS, [[v, "", "", text, "Impression."] for v, text in reports.items()])
    rows = [[v, value, *("0" for _ in CT_RATE[1:])] for v, value in labels.items()]
    write_csv(folder / names[1], ["VolumeName", *CT_RATE], rows)
    return folder


def raises_quietly(call: Callable[[], object]) -> DataError:
    """The DataError that ``call`` raises, after checking that nothing printed with it holds the canary."""
    with pytest.raises(DataError) as caught:
        call()
    error = caught.value
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
    chain: BaseException | None = error
    while chain is not None:
        assert CANARY not in repr(chain)
        assert CANARY not in repr(vars(chain))
        chain = chain.__cause__ or chain.__context__
    assert CANARY not in str(error)
    assert CANARY not in shown
    return error
