from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrad.corpora import CHEXPERT
from fedrad.data import mimic_cxr
from fedrad.data.load import load_corpus
from fedrad.data.mimic_tables import chexpert_values
from fedrad.data.report import Row
from fedrad.errors import ConfigError

from .conftest import CANARY, STUDIES, member, mimic_folder, raises_quietly, read_all, report, write_csv

ZIP, CHEXPERT_FILE, SPLIT_FILE = "mimic-cxr-reports.zip", "mimic-cxr-2.0.0-chexpert.csv", "mimic-cxr-2.0.0-split.csv"


def read(folder: Path, uncertain: str = "negative") -> tuple[list[Row], list[str]]:
    return read_all(mimic_cxr.source(folder, uncertain))


def test_rows_are_ordered_by_patient_and_study(tmp_path: Path) -> None:
    rows, notes = read(mimic_folder(tmp_path))
    assert notes == []
    assert [(r["patient"], r["split"], r["labels"]["Edema"]) for r in rows] == [
        ("p10000001", "train", 0),
        ("p10000001", "train", 1),
        ("p11000002", "test", 0),
        ("p12000003", "validate", 0),
    ]
    assert rows[1]["text"] == f"{CANARY} lungs are clear. Edema."
    assert all(tuple(r["labels"]) == CHEXPERT and (r["site"], r["time"]) == ("", "") for r in rows)


@pytest.mark.parametrize(("policy", "value"), [("negative", 0), ("positive", 1), ("ignore", -1)])
def test_uncertain(tmp_path: Path, policy: str, value: int) -> None:
    rows, _ = read(mimic_folder(tmp_path), policy)
    assert rows[0]["labels"]["Edema"] == value
    assert rows[0]["labels"]["Pneumonia"] == 0
    meaning = chexpert_values(policy)
    assert (meaning["-1.0"], meaning["1.0"], meaning["0.0"], meaning[""]) == (value, 1, 0, 0)


def test_an_unknown_policy() -> None:
    with pytest.raises(ConfigError, match=r"data\.uncertain"):
        chexpert_values("maybe")


def test_zip_with_a_leading_folder_tree_and_gzip_give_the_same(tmp_path: Path) -> None:
    plain = mimic_folder(tmp_path / "plain")
    expected, _ = read(plain)
    leading = mimic_folder(tmp_path / "leading", prefix="mimic-cxr-reports/")
    assert read(leading)[0] == expected
    for name in (CHEXPERT_FILE, SPLIT_FILE):
        (leading / f"{name}.gz").write_bytes(gzip.compress((leading / name).read_bytes()))
        (leading / name).unlink()
    assert read(leading)[0] == expected
    with zipfile.ZipFile(plain / ZIP) as archive:
        archive.extractall(plain)
    (plain / ZIP).unlink()
    assert read(plain)[0] == expected
    (plain / "mimic-cxr-reports").mkdir()
    shutil.move(plain / "files", plain / "mimic-cxr-reports" / "files")
    assert read(plain)[0] == expected


def test_times_come_from_the_first_image(tmp_path: Path) -> None:
    folder = mimic_folder(tmp_path)
    rows = [
        ["d1", 10000001, 50000001, "21800506", "213014.531"],
        ["d2", 10000001, 50000001, "21800506", "213016"],
        ["d3", 10000001, 50000003, "21800626", "80556.0"],
        ["d4", 11000002, 50000002, "", ""],
        ["d5", 12000003, 50000004, "nan", "NaT"],
    ]
    header = ["dicom_id", "subject_id", "study_id", "StudyDate", "StudyTime"]
    write_csv(folder / "mimic-cxr-2.0.0-metadata.csv", header, rows)
    assert [r["time"] for r in read(folder)[0]] == ["2180-05-06T21:30:14", "2180-06-26T08:05:56", "", ""]
    write_csv(folder / "mimic-cxr-2.0.0-metadata.csv", header, [["d1", 1, 2, "06/05/2180", CANARY]])
    error = raises_quietly(lambda: read(folder))
    assert error.row == 1


def test_counted_warnings(tmp_path: Path) -> None:
    studies = {
        **STUDIES,
        50000005: (13000001, "train", "", "   \n"),
        50000006: (13000001, "train", "", report("Copy.")),
        50000007: (13000001, "train", "", report("Copy.")),
        50000008: (13000001, "train", "", report("No labels.")),
        50000009: (13000001, "train", "", report("No split.")),
    }
    folder = mimic_folder(tmp_path, studies)
    for name, study in ((CHEXPERT_FILE, "50000008"), (SPLIT_FILE, "50000009")):
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(line for line in lines if study not in line))
    rows, notes = read(folder)
    assert [r["split"] for r in rows[4:]] == ["train", "train", ""]
    assert len(notes) == 4
    empty, unlabelled, unsplit, copies = notes
    assert "1 report in neither train nor test: no row in the split file" in unsplit
    assert member(13000001, 50000009) in unsplit
    assert "1 report left out: no row in the label file" in unlabelled
    assert member(13000001, 50000008) in unlabelled
    assert "left out" in empty
    assert member(13000001, 50000005) in empty
    assert "1 report with the same text" in copies
    assert not any(CANARY in note for note in notes)


def _rezip(folder: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / ZIP, "a") as archive:
        archive.writestr(name, content)


def _corrupt(folder: Path) -> None:
    data = bytearray((folder / ZIP).read_bytes())
    at = data.find(b"PK\x03\x04", 10)  # the second member
    data[at + 70] ^= 0xFF
    (folder / ZIP).write_bytes(data)


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


BAD = {
    "no zip": (lambda f: (f / ZIP).unlink(), "reports (or the unpacked folder files/) is missing", None),
    "no labels": (lambda f: (f / CHEXPERT_FILE).unlink(), "the file of labels is missing", None),
    "no splits": (lambda f: (f / SPLIT_FILE).unlink(), "the file of splits is missing", None),
    "not a zip": (lambda f: (f / ZIP).write_bytes(CANARY.encode() * 9), "not a readable zip", None),
    "cut zip": (lambda f: (f / ZIP).write_bytes((f / ZIP).read_bytes()[:-40]), "not a readable zip", None),
    "corrupt member": (_corrupt, f"{member(10000001, 50000001)}: this member of the zip is damaged", None),
    "huge member": (lambda f: _rezip(f, member(19000001, 59), b"a" * (2 << 20)), "larger than any report", None),
    "not UTF-8": (lambda f: _rezip(f, member(11000002, 50000009), b"\xff"), None, None),
    "study twice": (lambda f: _rezip(f, member(12000003, 50000001), b"x"), "study s50000001 is there twice", None),
    "wrong label header": (_edit(CHEXPERT_FILE, "Edema", "Oedema"), "Did you mean 'Oedema' for 'Edema'?", None),
    "wrong split header": (_edit(SPLIT_FILE, "split", "Split"), "Did you mean 'Split'", None),
    "label value": (_edit(CHEXPERT_FILE, "1.0", f"2.0{CANARY}"), "'Edema' is unknown", 3),
    "subject": (_edit(CHEXPERT_FILE, "12000003", CANARY), "subject_id is not a number", 1),
    "other subject": (_edit(CHEXPERT_FILE, "12000003", "12000004"), "under another subject_id", None),
    "split value": (_edit(SPLIT_FILE, "train", CANARY), "unknown name", 1),
    "patient in two splits": (_edit(SPLIT_FILE, "10000001,train", "10000001,test"), "patient 10000001 is in two", 2),
    "label row twice": (_edit(CHEXPERT_FILE, ",50000002,", ",50000004,"), "study 50000004 has a second row", 2),
    "unbalanced quote": (_edit(CHEXPERT_FILE, "12000003", f'"{CANARY}'), "not valid CSV", 1),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path: Path, case: str) -> None:
    change, says, row = BAD[case]
    folder = mimic_folder(tmp_path / "mimic")
    change(folder)
    if case == "not UTF-8":
        with (folder / CHEXPERT_FILE).open("a") as file:
            file.write(f"11000002,50000009{',' * 14}\n")
        says = f"{member(11000002, 50000009)}: byte 0 is not UTF-8"
    error = raises_quietly(lambda: load_corpus("mimic-cxr", folder, cache_dir=tmp_path / "cache"))
    assert says in str(error)
    assert error.row == row
    assert error.remedy
    assert str(folder) in str(error.file)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_empty_zip(tmp_path: Path) -> None:
    folder = mimic_folder(tmp_path, {})
    assert "holds no reports named like" in str(raises_quietly(lambda: read(folder)))


def test_an_unreadable_file_of_the_tree(tmp_path: Path) -> None:
    folder = mimic_folder(tmp_path)
    with zipfile.ZipFile(folder / ZIP) as archive:
        archive.extractall(folder)
    (folder / ZIP).unlink()
    (folder / member(10000001, 50000001)).write_bytes(b"a" * (2 << 20))
    assert "larger than any report" in str(raises_quietly(lambda: read(folder)))


def test_a_member_with_endless_numbers_is_no_report(tmp_path: Path) -> None:
    folder = mimic_folder(tmp_path)
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "a") as archive:
        archive.writestr(f"files/p10/p{'9' * 20}/s{'9' * 20}.txt", "FINDINGS: clear.")
    assert read(folder) == read(mimic_folder(tmp_path / "same"))
