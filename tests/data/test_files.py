from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fedrad.data.files import corpus_folder, csv_header, csv_rows, csv_table, find_file, need_file
from fedrad.errors import DataError

from .conftest import CANARY, raises_quietly


def rows(path: Path, *columns: str) -> list[tuple[int, list[str]]]:
    return list(csv_rows(path, columns))


def test_reads_the_wanted_columns_in_the_wanted_order(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'\xef\xbb\xbfid,text , n\r\n1,"a\r\nb, ""c""",x\r\n\r\n2,\xc3\xa9,y\r\n')
    assert csv_header(file) == ("id", "text", "n")
    # the blank line counts as row 2, as it does in a spreadsheet
    assert rows(file, "text", "id") == [(1, ['a\r\nb, "c"', "1"]), (3, ["é", "2"])]


def test_reads_gzip(tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert rows(file, "b") == [(1, ["2"])]
    file.write_bytes(file.read_bytes()[:-9])
    assert "damaged" in str(raises_quietly(lambda: rows(file, "b")))
    file.write_bytes(b"a,b\n1,2\n")
    assert "damaged" in str(raises_quietly(lambda: rows(file, "b")))


def test_a_blank_line_is_an_empty_cell_where_there_is_one_column(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text\na\n\nb\n")
    assert rows(file, "text") == [(1, ["a"]), (2, [""]), (3, ["b"])]
    file.write_bytes(b"id,text\n1,a\n\n2,b\n")  # control: of several columns it is none
    header, found = csv_table(file)
    assert (header, list(found)) == (["id", "text"], [(1, ["1", "a"]), (3, ["2", "b"])])


@pytest.mark.parametrize(
    ("content", "row", "says"),
    [
        (b"", None, "is empty"),
        (b"id,test\n1,%s\n", None, "lacks 'text'. Did you mean 'test' for 'text'?"),
        (b"id,Text\n1,%s\n", None, "Did you mean 'Text' for 'text'?"),
        (b"1,%s is here\n", None, "lacks 'id', 'text'."),
        (b"Befund,Nummer\n%s,1\n", None, "lacks 'id', 'text'. It has 'Befund', 'Nummer'."),
        (b"id,MRN 4711,Befund (de)\n", None, "lacks 'text'. It has 'id', 'MRN 4711', 'Befund (de)'."),
        (b"%s,0,1\n", None, "lacks 'id', 'text'. It has 3 columns."),
        (b"p0017,%s\n", None, "It has 2 columns."),
        (b"id,%s" + b"x" * 40 + b"\n", None, "It has 2 columns."),
        (b"id;Text\n1;%s\n", None, "its cells seem to be separated by ';'. Save it with commas"),
        (b"id;text;note, if any\n1;%s;\n", None, "its cells seem to be separated by ';'."),
        (b'"id";"text"\n"1";"%s"\n', None, "not valid CSV: its cells seem to be separated by ';'."),
        (b'"id"\t"text"\n"1"\t"%s"\n', None, "its cells seem to be separated by tabs."),
        (b"\nid,text\n1,%s\n", None, "lacks 'id', 'text'. Its first line is blank."),
        (b"1;%s is here\n", None, "lacks 'id', 'text'. It has 1 column."),
        (b"id,id,text\n", None, "has 'id' twice"),
        (b"id,text\n1,a\n2,%s,c\n", 2, "has 3 cells where the header has 2"),
        (b"id,text\n1\n", 1, "has 1 cells"),
        (b'id,text\n1,a\n2,"%s\n3,b\n', 2, "not valid CSV"),
        (b'id,text\n1,"%s" b"\n', 1, "not valid CSV"),
        (b"id,text\n1,a\n2,%s \xe9\n", 2, "byte 22 is not UTF-8"),
        ("id,text\n1,%s\n".encode("utf-16"), None, "byte 0 is not UTF-8"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, row: int | None, says: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content.replace(b"%s", CANARY.encode()))
    error = raises_quietly(lambda: rows(file, "id", "text"))
    assert says in str(error)
    assert (error.file, error.row) == (file, row)
    assert error.remedy


def test_an_endless_cell_does_not_fill_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'id,text\n1,"' + b"word\n" * 100_000)
    assert raises_quietly(lambda: rows(file, "id")).row == 1


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        corpus_folder(tmp_path / "none", "x")
    with pytest.raises(DataError, match=r"Set data\.path"):
        corpus_folder(None, "x")
    (tmp_path / "train_report.csv").touch()
    with pytest.raises(DataError, match="is not a folder"):
        corpus_folder(tmp_path / "train_report.csv", "x")
    with pytest.raises(DataError, match=r"Did you mean to call train_report\.csv so") as caught:
        need_file(tmp_path, ("train_reports.csv",), "the file")
    assert caught.value.file == tmp_path
    with pytest.raises(DataError, match="can't be read"):
        rows(tmp_path / "none.csv", "a")


def test_several_files_for_one_are_refused(tmp_path: Path) -> None:
    for name in ("a-1.csv", "a-2.csv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"a-1\.csv, a-2\.csv"):
        find_file(tmp_path, ("a-*.csv",), "the file")
    assert find_file(tmp_path, ("b", "a-2.csv"), "the file") == tmp_path / "a-2.csv"


def test_the_check_for_leaks_notices_one() -> None:
    def in_the_message() -> None:
        raise DataError(f"bad value {CANARY}")

    def in_the_cause() -> None:
        try:
            int(CANARY)
        except ValueError as error:
            raise DataError("bad value") from error

    def hidden_behind_from_none() -> None:
        try:
            int(CANARY)
        except ValueError:
            raise DataError("bad value") from None

    for leak in (in_the_message, in_the_cause, hidden_behind_from_none):
        with pytest.raises(AssertionError):
            raises_quietly(leak)
