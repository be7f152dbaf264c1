"""Unpacks and decodes a file by its content, whatever its name.

Text may be plain or compressed (gzip, bzip2, xz, zstd), in UTF-8, or in UTF-16 or UTF-32 with a byte order mark. For
other kinds of file that people call ``.csv``, the error says what they are.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa

from fedrad.errors import DataError, Refuse, raise_it

UTF8_REMEDY: Final = (
    "Save it again as UTF-8 (in a spreadsheet program: 'CSV UTF-8'), or say what it is: data.encoding=cp1252 for a "
    "table that Windows programs of Western Europe and America wrote."
)
_HEAD = 1 << 16
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_LAYERS = 3

_PACKED: Final[tuple[tuple[bytes, Callable[[BinaryIO], object]], ...]] = (
    (rb"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file, mode="rb")),
    (rb"BZh[1-9]1AY&SY", bz2.BZ2File),
    (rb"\xfd7zXZ\x00", lzma.LZMAFile),
    (rb"\x28\xb5\x2f\xfd", lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")),
)
_SAVE = "Save or export it as 'CSV UTF-8'."
_OTHERS: Final = (
    (rb"PK\x03\x04(?s:.)*(?:\[Content_Types\]|xl/)", "an Office file, or a workbook that is packed again", _SAVE),
    (rb"PK\x03\x04(?s:.)*mimetypeapplication/vnd\.oasis", "an OpenDocument file", _SAVE),
    (rb"PK(?:\x03\x04|\x05\x06)", "a zip archive", "Unpack it and name the file that was in it."),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls) or another Office file", _SAVE),
    (rb"PAR1[^ -~]", "a Parquet file that is compressed again or cut off", "Copy it again, uncompressed."),
    (rb"(?:ARROW1|FEA1)\x00", "an Arrow (Feather) file", "Save it as Parquet or CSV."),
    (
        rb"ORC[^ -~]|Obj\x01|\x89HDF|SQLite format 3\x00",
        "a table of another format",
        "Export it as Parquet or CSV.",
    ),
    (rb"%PDF-|\{\\rtf", "a document, not a table", _SAVE),
    (rb"7z\xbc\xaf|Rar!\x1a", "an archive", "Unpack it and name the file that was in it."),
    (rb"(?s:.){257}ustar", "a tar archive", "Unpack it and name the file that was in it."),
    (rb"\x80[\x02-\x05](?s:.)", "a Python pickle", "Save it as Parquet or CSV; a pickle could run any program."),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file that it stands for",
        "Get the file with: git lfs pull.",
    ),
    (rb"(?i:\s*<(?:!doctype|html|\?xml))", "a web page or XML, not a table", "Download the file again, logged in."),
    (rb'\s*[\[{]\s*["{\[]', "JSON, not a table", "Convert it to CSV or Parquet."),
)
_MARKED: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """The bytes of a file, uncompressed.

    Raises:
        DataError: it can't be opened or unpacked, or is of a known kind that is not text. Reading errors in the body
            of the ``with`` raise it too.
    """
    problem, remedy = "", "Copy the file again and compare checksums."
    try:
        with path.open("rb") as raw:
            layers: list[io.BufferedReader[Any]] = [io.BufferedReader(cast(io.RawIOBase, raw), _HEAD)]
            for _ in range(_MOST_LAYERS):
                head = layers[-1].peek(_HEAD)
                unpack = next((unpack for magic, unpack in _PACKED if re.match(magic, head)), None)
                if unpack is None:
                    break
                layers.append(io.BufferedReader(cast(io.RawIOBase, unpack(layers[-1])), _HEAD))
            file = layers[-1]
            for magic, name, advice in _OTHERS:
                if re.match(magic, file.peek(_HEAD)):
                    raise DataError(f"is {name}.", file=path, remedy=advice)
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException):
        problem = "is damaged: it can't be unpacked to its end."
    except OSError as error:  # without errno, it comes from bz2, gzip or zstd
        problem = "is damaged: it can't be unpacked to its end."
        if error.errno is not None:
            problem, remedy = f"can't be read ({error.strerror}).", "Check that it is there and may be read."
    if problem:
        raise DataError(problem, file=path, remedy=remedy)


def lines(
    file: io.BufferedReader[Any],
    path: Path,
    row: Callable[[], int | None],
    encoding: str = "utf-8",
    refuse: Refuse = raise_it,
) -> Iterator[str]:
    """The lines of a text, with their ends. A lone carriage return ends a line only if it ends the first one.

    Args:
        row: returns the row that is being read, for the error.
        encoding: of a file without a byte order mark.
        refuse: gets the DataError of a byte that is not UTF-8. If it returns, the line comes with U+FFFD in its place.
    Raises:
        DataError: names the byte that is not text, and the row.
    """
    head = file.peek(_HEAD)
    usual = "utf-8-sig" if encoding == "utf-8" or head.startswith(codecs.BOM_UTF8) else encoding
    encoding = next((name for mark, name in _MARKED if head.startswith(mark)), usual)
    first_end = re.search(r"\r+\n|\r|\n", head.decode(encoding, errors="ignore"))
    newline = "\r" if first_end and first_end[0] == "\r" else "\n"
    # Bytes that are not UTF-8 become lone surrogates, so that they are noticed in their own row.
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    broken, refused = False, False
    try:
        with io.TextIOWrapper(file, encoding, errors, newline=newline) as text:
            for line in text:
                if "\0" in line:
                    problem = "holds a zero byte: it is UTF-16 without a byte order mark, or no text."
                    raise DataError(problem, file=path, row=row(), remedy=UTF8_REMEDY)
                if _LONE_SURROGATE.search(line):
                    problem = "another byte is not UTF-8." if refused else f"byte {_bad_byte(path):,} is not UTF-8."
                    refuse(DataError(problem, file=path, row=row(), remedy=UTF8_REMEDY))
                    refused = True
                    line = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                yield line
    except UnicodeDecodeError:
        broken = True
    if broken:
        begins = "it begins as" if encoding.startswith("utf") else "data.encoding says"
        raise DataError(f"is not the {encoding.upper()} that {begins}.", file=path, remedy=UTF8_REMEDY)


def _bad_byte(path: Path) -> int:
    """Reads the file again to find the first byte that is not UTF-8."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
    with unpacked(path) as file:
        while chunk := file.read(_HEAD):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                before += error.start - pending
                break
            before += len(chunk)
    return before


def decode(data: bytes, file: object, remedy: str = UTF8_REMEDY) -> str:
    """The text of a small file.

    Raises:
        DataError: names the byte that is not text.
    """
    encoding = next((name for mark, name in _MARKED if data.startswith(mark)), "utf-8-sig")
    at, problem = data.find(b"\0") if encoding == "utf-8-sig" else -1, "is zero, so this is not text."
    if at < 0:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            at, problem = error.start, f"is not {encoding.removesuffix('-sig').upper()}."
        if encoding == "utf-8-sig" and data.startswith(codecs.BOM_UTF8):
            at += len(codecs.BOM_UTF8)
    raise DataError(f"byte {at:,} {problem}", file=file, remedy=remedy)


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet; one that can't be opened is not.

    Raises:
        DataError: it is a pipe or a folder; tables are read more than once.
    """
    if path.exists() and not path.is_file():
        raise DataError("is a pipe or a folder, not a file.", file=path, remedy="Write the table to a file first.")
    with suppress(OSError), path.open("rb") as file:
        if file.read(4) == b"PAR1":
            file.seek(-4, 2)
            return file.read(4) == b"PAR1"
    return False


def is_workbook(path: Path) -> bool:
    """Whether a file is an Excel workbook (.xlsx); one that can't be opened is not."""
    with suppress(OSError, zipfile.BadZipFile), path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return "xl/workbook.xml" in zipfile.ZipFile(file).namelist()
    return False
