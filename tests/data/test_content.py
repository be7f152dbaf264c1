"""Files are read by what they are, whatever they are called, and what can't be read is named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrad.data import ct_rate, mimic_cxr, openi, table
from fedrad.data.report import Row
from fedrad.data.table import TableColumns
from fedrad.data.tabular import header_of, rows_of

from .conftest import CANARY, ct_folder, mimic_folder, raises_quietly, read_all, write_csv

CSV = f"pid,text\n1,{CANARY} é\n2,b\n".encode()
EXPECTED = [(1, ["1", f"{CANARY} é"]), (2, ["2", "b"])]
Pack = Callable[[bytes], bytes]


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return packed


def packed(data: bytes) -> bytes:
    """Gzip without the time, which would give the parallel test processes different names for one test."""
    return gzip.compress(data, mtime=0)


PACK: dict[str, Pack] = {"gzip": packed, "bz2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


def parquet(data: bytes) -> bytes:
    """The Parquet of a CSV, all columns text."""
    lines = [line.split(",") for line in data.decode().splitlines()]
    out = io.BytesIO()
    pq.write_table(pa.table({name: [line[k] for line in lines[1:]] for k, name in enumerate(lines[0])}), out)
    return out.getvalue()


def zipped(*members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members:
            archive.writestr(name, CSV)
    return out.getvalue()


def read(path: Path, content: bytes) -> list[tuple[int, list[str]]]:
    path.write_bytes(content)
    assert header_of(path) == ("pid", "text")
    return list(rows_of(path, [("pid", "name"), ("text", "text")]))


@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz", "r.parquet", "r.txt", "r"])
@pytest.mark.parametrize("pack", [None, parquet, *PACK.values(), lambda data: packed(packed(data))])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str, pack: Pack | None) -> None:
    assert read(tmp_path / name, pack(CSV) if pack else CSV) == EXPECTED


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("cut", [5, 9, 20])
def test_a_damaged_file_is_called_damaged(tmp_path: Path, pack: str, cut: int) -> None:
    error = raises_quietly(lambda: read(tmp_path / "r.csv", PACK[pack](CSV * 3)[:-cut]))
    assert "is damaged: it can't be unpacked to its end" in str(error)
    assert error.remedy


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (zipped("r.csv"), "is a zip archive. Unpack it"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + CSV, "is an old Excel workbook"),
        (packed(zipped("r.csv")), "is a zip archive"),
        (packed(parquet(CSV)), "is a Parquet file that is compressed again"),
        (parquet(CSV)[:-30], "is a Parquet file that is compressed again or cut off"),
        (b"ARROW1\0\0" + CSV, "is an Arrow (Feather) file"),
        (b"SQLite format 3\0" + CSV, "is a table of another format"),
        (b"%PDF-1.7\n" + CSV, "is a document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html>" + CSV, "is a web page"),
        (b'[{"text": "' + CSV, "is JSON"),
        (b'{"text": "' + CSV, "is JSON"),
        (b"\x80\x04\x95" + CSV, "is a Python pickle"),
        (b"", "is empty"),
        (packed(b""), "is empty"),
    ],
)
@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz", "r.parquet"])
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, says: str, name: str) -> None:
    error = raises_quietly(lambda: read(tmp_path / name, content))
    assert says in str(error)
    assert error.file == tmp_path / name
    assert error.remedy


@pytest.mark.parametrize("first", ["PAR1", "ORCID", "FEA1", "ARROW1", "BZh", "PK", "7z", "html"])
def test_a_header_that_begins_like_another_kind_of_file(tmp_path: Path, first: str) -> None:
    (tmp_path / "r.csv").write_text(f"{first},text\n1,b\n")
    assert list(rows_of(tmp_path / "r.csv", [(first, "name")])) == [(1, ["1"])]


def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A second reading would find it half empty; opening it would wait for a writer."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        assert "is a pipe or a folder" in str(raises_quietly(lambda path=path: header_of(path)))


# the loaders


def _table(folder: Path) -> tuple[Path, Callable[[], list[Row]]]:
    folder.mkdir()
    file = write_csv(folder / "t.csv", ("text", "a", "b", "p"), [["A.", 0, 1, "p1"], ["B.", 1, 0, "p2"]])
    columns = TableColumns("text", ("a", "b"), "p")
    return file, lambda: read_all(table.source(file, columns))[0]


def _openi(folder: Path) -> tuple[Path, Callable[[], list[Row]]]:
    folder.mkdir()
    rows = [[1, "normal", "A.", "B."], [2, "Opacity", "", "C."]]
    file = write_csv(folder / "indiana_reports.csv", ("uid", "Problems", "findings", "impression"), rows)
    return file, lambda: read_all(openi.source(folder))[0]


def _ct_reports(folder: Path) -> tuple[Path, Callable[[], list[Row]]]:
    ct_folder(folder, {"train_1_a_1": "A.", "train_2_a_1": "B."}, {"train_1_a_1": "0", "train_2_a_1": "1"})
    return folder / "train_reports.csv", lambda: read_all(ct_rate.source(folder))[0]


def _ct_labels(folder: Path) -> tuple[Path, Callable[[], list[Row]]]:
    return _ct_reports(folder)[0].with_name("train_predicted_labels.csv"), lambda: read_all(ct_rate.source(folder))[0]


def _mimic_labels(folder: Path) -> tuple[Path, Callable[[], list[Row]]]:
    file = mimic_folder(folder) / "mimic-cxr-2.0.0-chexpert.csv"
    return file, lambda: read_all(mimic_cxr.source(folder))[0]


def _mimic_splits(folder: Path) -> tuple[Path, Callable[[], list[Row]]]:
    file = mimic_folder(folder) / "mimic-cxr-2.0.0-split.csv"
    return file, lambda: read_all(mimic_cxr.source(folder))[0]


LOADERS = [_table, _openi, _ct_reports, _ct_labels, _mimic_labels, _mimic_splits]


@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_reads_by_content(
    tmp_path: Path, loader: Callable[[Path], tuple[Path, Callable[[], list[Row]]]]
) -> None:
    file, rows = loader(tmp_path / "corpus")
    content, expected = file.read_bytes(), rows()
    assert len(expected) > 1
    forms = {
        **{name: pack(content) for name, pack in PACK.items()},
        "parquet": parquet(content),
        "utf-16": content.decode().encode("utf-16"),
        "utf-8-sig": content.decode().encode("utf-8-sig"),
        "bare carriage returns": content.replace(b"\r\n", b"\r"),
        "sep": b"sep=;\r\n" + content.replace(b",", b";"),
    }
    for name, form in forms.items():
        file.write_bytes(form)
        assert rows() == expected, name
    packed = file.with_name(f"{file.name}.gz") if loader is not _table else file
    file.rename(packed)
    packed.write_bytes(content)  # plain text under the name of a packed file
    assert rows() == expected


@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_names_what_it_can_not_read(
    tmp_path: Path, loader: Callable[[Path], tuple[Path, Callable[[], list[Row]]]]
) -> None:
    file, rows = loader(tmp_path / "corpus")
    lines = file.read_bytes().splitlines(keepends=True)
    for content, says, row in (
        (zipped("r.csv"), "zip archive", None),
        (b"".join([*lines[:2], lines[2].replace(b",", b"\xe9,", 1)]), "is not UTF-8", 2),
        (b"".join([*lines[:2], lines[2].replace(b",", b"\0,", 1)]), "zero byte", 2),
        (packed(b"".join(lines))[:-9], "damaged", None),
    ):
        file.write_bytes(content)
        error = raises_quietly(rows)
        assert says in str(error)
        assert error.file == file
        assert row is None or error.row == row


@pytest.mark.parametrize(("data", "says"), [(b"FINDINGS: \xe9", "byte 10 is not UTF-8"), (b"\0", "byte 0 is zero")])
@pytest.mark.parametrize("tree", [False, True])
def test_a_stray_byte_names_the_member(tmp_path: Path, data: bytes, says: str, tree: bool) -> None:
    folder = mimic_folder(tmp_path / "m")
    archive = folder / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    bad = next(name for name in members if "50000002" in name)
    members[bad] = data
    archive.unlink()
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    if tree:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        archive.unlink()
    error = raises_quietly(lambda: read_all(mimic_cxr.source(folder))[0])
    assert bad.removeprefix("files/") in str(error.file)
    assert f"{says}" in str(error)
    assert "compare checksums" in str(error)
    assert "spreadsheet" not in str(error)


def test_a_report_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = mimic_folder(tmp_path / "m")
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "a") as archive:
        archive.writestr("files/p13/p13000001/s50000010.txt", "\ufeffFINDINGS: Clear.".encode())
        archive.writestr("files/p13/p13000001/s50000011.txt", "FINDINGS: Clear é.".encode("utf-16"))
    with (folder / "mimic-cxr-2.0.0-chexpert.csv").open("a") as file:
        file.writelines(f"13000001,{study}{',' * 14}\n" for study in (50000010, 50000011))
    rows = read_all(mimic_cxr.source(folder))[0]
    assert [row["text"] for row in rows[-2:]] == ["Clear.", "Clear é."]
