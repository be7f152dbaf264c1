from __future__ import annotations

from pathlib import Path

import pytest

from fedrad.data.columns import check_columns
from fedrad.data.csv_file import csv_header, csv_rows
from fedrad.data.table_options import Form
from fedrad.errors import DataError

from .conftest import CANARY, raises_quietly


def rows(path: Path, *columns: str) -> list[tuple[int, list[str]]]:
    places = check_columns(path, csv_header(path), columns)
    return [(row, [cells[place] for place in places]) for row, cells in csv_rows(path)]


def test_reads_the_wanted_columns_in_the_wanted_order(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'\xef\xbb\xbfid,text , n\r\n1,"a\r\nb, ""c""",x\r\n\r\n2,\xc3\xa9,y\r\n')
    assert csv_header(file) == ("id", "text", "n")
    # the blank line counts as row 2, as it does in a spreadsheet
    assert rows(file, "text", "id") == [(1, ['a\r\nb, "c"', "1"]), (3, ["é", "2"])]


def test_a_blank_line_is_an_empty_cell_where_there_is_one_column(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text\na\n\nb\n")
    assert rows(file, "text") == [(1, ["a"]), (2, [""]), (3, ["b"])]
    file.write_bytes(b"id,text\n1,a\n\n2,b\n")  # control: of several columns it is none
    assert rows(file, "id", "text") == [(1, ["1", "a"]), (3, ["2", "b"])]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;\r", "sep=;;", "sep=;,,"])
def test_a_separator_line_is_obeyed_also_when_it_was_filled_up(tmp_path: Path, line: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(f"{line}\nid;text\n1;a, b\n".encode())
    assert rows(file, "id", "text") == [(1, ["1", "a, b"])]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("id;text\n1;a, b\n", Form()),
        ('"id";"te,xt;"\n1;"a, b"\n', Form()),
        ("id\ttext\n1\ta, b\n", Form()),
        ("id;text,more\n1;a, b\n", Form(";")),
        ("id\ttext, more\n1\ta, b\n", Form("tab")),
        ("sep=;\nid;text\n1;a, b\n", Form(",")),
    ],
)
def test_separators(tmp_path: Path, content: str, form: Form) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert csv_header(tmp_path / "a.csv", form)[0] == "id"
    assert list(csv_rows(tmp_path / "a.csv", form)) == [(1, ["1", "a, b"])]


def test_a_separator_in_the_text_of_a_file_with_one_column_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na; b\n")
    assert list(csv_rows(tmp_path / "a.csv")) == [(1, ["a; b"])]


@pytest.mark.parametrize(("encoding", "text"), [("cp1252", "Erguß – 3 €"), ("latin-1", "Erguß")])
def test_encodings(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "a.csv").write_bytes(f"id,text\n1,{text}\n".encode(encoding))
    assert list(csv_rows(tmp_path / "a.csv", Form(encoding=encoding))) == [(1, ["1", text])]
    assert "is not UTF-8. Save it again" in str(raises_quietly(lambda: list(csv_rows(tmp_path / "a.csv"))))
    (tmp_path / "a.csv").write_bytes(f"id,text\n1,{text}\n".encode("utf-8-sig"))  # a mark says more than a setting
    assert list(csv_rows(tmp_path / "a.csv", Form(encoding=encoding))) == [(1, ["1", text])]
    (tmp_path / "a.csv").write_bytes(b"id,text\n1," + CANARY.encode() + b"\x81\n")
    if encoding == "cp1252":
        error = raises_quietly(lambda: list(csv_rows(tmp_path / "a.csv", Form(encoding=encoding))))
        assert "is not the CP1252 that data.encoding says" in str(error)


def test_all_problems_are_found_where_they_are_not_raised(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,a\n2\n3,\xe9\n4,b,c\n5,\xe9\n6,d\n")
    found: list[DataError] = []
    read = list(csv_rows(tmp_path / "a.csv", refuse=found.append))
    assert [error.row for error in found] == [2, 3, 4, 5]
    assert read == [(1, ["1", "a"]), (3, ["3", "\ufffd"]), (5, ["5", "\ufffd"]), (6, ["6", "d"])]


def test_a_line_of_white_space_is_no_row(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"id,text\n1,a\n  \t\n2,b\n \n")
    assert rows(file, "id", "text") == [(1, ["1", "a"]), (3, ["2", "b"])]


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
        (b"id;Text\n1;%s\n", None, "Did you mean 'Text' for 'text'?"),
        (b"id;text;note, if any\n1;%s;\n", None, "its cells seem to be separated by ';'."),
        (b'"id"|"text"\n"1"|"%s"\n', None, "not valid CSV: its cells seem to be separated by '|'."),
        (b"\nid,text\n1,%s\n", None, "lacks 'id', 'text'. Its first line is blank."),
        (b"1;%s is here\n", None, "lacks 'id', 'text'. It has 2 columns."),
        (b"id,id,text\n", None, "has 'id' twice"),
        (b"id,text\n1,a\n2,%s,c\n", 2, "has 3 cells where the header has 2"),
        (b"id,text\n1\n", 1, "has 1 cell where"),
        (b'id,text\n1,a\n2,"%s\n3,b\n', 2, "not valid CSV"),
        (b'id,text\n1,"%s" b"\n', 1, "not valid CSV"),
        (b"id,text\n1,a\n2,%s \xe9\n", 2, "byte 22 is not UTF-8"),
        ("id,text\n1,%s\n".encode("utf-16-le"), None, "holds a zero byte: it is UTF-16 without a byte order mark"),
        (b"id,text\n1,a\n2,%s\0\n", 2, "holds a zero byte"),
        (b"id,text\n1,%s\rb\n", 1, "line ends of several kinds are mixed, or one stands in an unquoted cell. Give all"),
        (b"id,text\r1,%s\r2,b\n3,c\r", 2, "line ends of several kinds are mixed"),
        (b"sep=;\n", None, "is empty"),
        (b"sep=\nid,text\n1,%s\n", None, "sep=, names no usable separator. Remove that line"),
        (b"sep=tab\nid\ttext\n1\t%s\n", None, "sep=, names no usable separator"),
        (b"id|text\n1|%s\n", None, "its cells seem to be separated by '|'."),
        (b"id,text\n1,%s\n   x\n", 2, "has 1 cell where the header has 2"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, row: int | None, says: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content.replace(b"%s", CANARY.encode()))
    error = raises_quietly(lambda: rows(file, "id", "text"))
    assert says in str(error)
    assert (error.file, error.row) == (file, row)
    assert error.remedy


def test_a_bad_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    """Reading ahead, characters of several bytes and a byte order mark change neither the row nor the byte."""
    for before in (b"", b"\xef\xbb\xbf"):
        start = before + b"id,text\n" + "".join(f"{k},\u00e9\U0001f600{CANARY}\n" for k in range(9000)).encode()
        (tmp_path / "a.csv").write_bytes(start + b"x,\xe9\n" + b"y,z\n" * 9000)
        error = raises_quietly(lambda: rows(tmp_path / "a.csv", "id"))
        assert error.row == 9001
        assert f"byte {len(start) + 2:,} is not UTF-8" in str(error)


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_line_ends_and_encodings(tmp_path: Path, end: bytes, encoding: str) -> None:
    text = b'id,text\n1,"a\n\xc3\xa9"\n2,b\n'.replace(b"\n", end).decode()
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert rows(tmp_path / "a.csv", "id", "text") == [(1, ["1", f"a{end.decode()}\u00e9"]), (2, ["2", "b"])]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;", "sep=\t", "sep=|", "sep=,"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_excels_first_line(tmp_path: Path, first: str, end: str) -> None:
    separator = first.strip('"')[-1]
    text = f"{first}\nid,text\n1,a b\n".replace(",", separator).replace("\n", end)
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert rows(tmp_path / "a.csv", "text") == [(1, ["a b"])]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1," + "word " * 60_000 + "\n")
    assert rows(tmp_path / "a.csv", "text") == [(1, ["word " * 60_000])]


def test_an_endless_cell_does_not_fill_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'id,text\n1,"' + CANARY.encode() + b"word\n" * 4_000_000)
    error = raises_quietly(lambda: rows(file, "id"))
    assert error.row == 1
    assert "a cell of more than 16,777,216 characters, or a quotation mark is not closed" in str(error)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "can't be read (No such file" in str(raises_quietly(lambda: rows(tmp_path / "none.csv", "a")))
