from __future__ import annotations

from pathlib import Path

import pytest

from fedrad.corpora import CT_RATE
from fedrad.data import ct_rate
from fedrad.data.load import load_corpus
from fedrad.data.report import Row

from .conftest import CANARY, ct_folder, raises_quietly, read_all

TEXT = f"{CANARY}\nnodule."
REPORTS = {
    "train_1_a_1.nii.gz": TEXT,
    "train_1_a_2.nii.gz": TEXT,
    "train_1_b_1.nii.gz": "B.",
    "train_2_a_1.nii.gz": "C.",
}
LABELS = {"train_1_a_1.nii.gz": "1", "train_1_a_2.nii.gz": "1", "train_1_b_1.nii.gz": "0", "train_2_a_1.nii.gz": "0.0"}


def read(folder: Path) -> tuple[list[Row], list[str]]:
    return read_all(ct_rate.source(folder))


def bare(volumes: dict[str, str]) -> dict[str, str]:
    return {name.removesuffix(".nii.gz"): value for name, value in volumes.items()}


def test_a_scan_counts_once(tmp_path: Path) -> None:
    rows, notes = read(ct_folder(tmp_path, REPORTS, LABELS))
    assert notes == []
    assert [(r["patient"], r["labels"]["Medical material"], r["split"]) for r in rows] == [
        ("train_1", 1, "train"),
        ("train_1", 0, "train"),
        ("train_2", 0, "train"),
    ]
    assert rows[0]["text"] == f"{CANARY} nodule. Impression."
    assert tuple(rows[0]["labels"]) == CT_RATE
    assert {(r["site"], r["time"]) for r in rows} == {("", "")}


@pytest.mark.parametrize(
    "names",
    [
        (
            "dataset_radiology_text_reports_train_reports.csv",
            "dataset_multi_abnormality_labels_train_predicted_labels.csv",
        ),
        ("radiology_text_reports/train_reports.csv", "multi_abnormality_labels/train_predicted_labels.csv"),
    ],
)
def test_other_places_and_names_without_ending(tmp_path: Path, names: tuple[str, str]) -> None:
    expected, _ = read(ct_folder(tmp_path / "a", REPORTS, LABELS))
    assert read(ct_folder(tmp_path / "b", bare(REPORTS), LABELS, names))[0] == expected
    assert read(ct_folder(tmp_path / "c", REPORTS, bare(LABELS), names))[0] == expected


def test_validation_patients_are_the_test_split(tmp_path: Path) -> None:
    ct_folder(tmp_path, REPORTS, LABELS)
    names = ("validation_reports.csv", "valid_predicted_labels.csv")
    ct_folder(tmp_path, {"valid_1_a_1.nii.gz": "V."}, {"valid_1_a_1.nii.gz": "1"}, names)
    rows, _ = read(tmp_path)
    assert [(r["patient"], r["split"]) for r in rows[2:]] == [("train_2", "train"), ("valid_1", "test")]


def test_counted_warnings(tmp_path: Path) -> None:
    reports = {**REPORTS, "train_1_a_3": "Another.", "train_3_a_1": "D.", "train_1_c_1": "B."}
    labels = {**LABELS, "train_1_c_1": "0"}
    rows, notes = read(ct_folder(tmp_path, reports, labels))
    assert len(rows) == 4
    assert [note.split(": ", 1)[1].split(" (")[0] for note in notes[:2]] == [
        "1 report left out: not the same as the first of its scan",
        "1 report left out: no row in the label file",
    ]
    assert "(first: row 5)" in notes[0]
    assert "(first: row 6)" in notes[1]
    assert "1 report with the same text" in notes[2]
    assert not any(CANARY in note for note in notes)


def test_empty_reports_are_left_out(tmp_path: Path) -> None:
    folder = ct_folder(tmp_path, REPORTS, LABELS)
    file = folder / "train_reports.csv"
    file.write_text(file.read_text().replace("C.,Impression.", " ,"))
    rows, notes = read(folder)
    assert len(rows) == 2
    assert "no findings and no impression" in notes[0]
    assert "(first: row 4)" in notes[0]


BAD = {
    "header": ("reports", "Findings_EN", "Findings", "Did you mean 'Findings' for 'Findings_EN'?", None),
    "label header": ("labels", "Emphysema", "emphysema", "Did you mean 'emphysema'", None),
    "volume": ("reports", "train_1_b_1.nii.gz", CANARY, "not the name of a volume", 3),
    "twice": ("reports", "train_1_a_2.nii.gz", "train_1_a_1", "volume train_1_a_1 is there twice", 2),
    "labels twice": ("labels", "train_1_a_2.nii.gz", "train_1_a_1", "volume train_1_a_1 is there twice", 2),
    "other split": ("reports", "train_2_a_1", "valid_2_a_1", "patient valid_2 belongs to the other split", 4),
    "value": ("labels", "train_1_b_1.nii.gz,0", f"train_1_b_1.nii.gz,{CANARY}", "'Medical material' is unknown", 3),
    "disagree": (
        "labels",
        "train_1_a_2.nii.gz,1",
        "train_1_a_2.nii.gz,0",
        "labels of scan train_1_a differ from row 1",
        2,
    ),
    "quote": ("reports", "B.", '"B.', "not valid CSV", 3),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path: Path, case: str) -> None:
    which, old, new, says, row = BAD[case]
    folder = ct_folder(tmp_path / "ct", REPORTS, LABELS)
    file = folder / ("train_reports.csv" if which == "reports" else "train_predicted_labels.csv")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    error = raises_quietly(lambda: load_corpus("ct-rate", folder, cache_dir=tmp_path / "cache"))
    assert says in str(error)
    assert (error.file, error.row) == (file, row)
    assert error.remedy
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_missing_files(tmp_path: Path) -> None:
    assert "the file of reports is missing" in str(raises_quietly(lambda: read(tmp_path)))
    folder = ct_folder(tmp_path, REPORTS, LABELS)
    (folder / "train_predicted_labels.csv").unlink()
    assert "the train labels is missing" in str(raises_quietly(lambda: read(folder)))
