"""Files of a corpus: found under the names they are published with, and CSV read row by row.

Every error names the file, the row and the remedy. None carries a cell, neither in its message nor as its
cause: Python's and Arrow's own errors quote the line that they stumbled over, and that line may be a report.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, cast

from fedrad.errors import DataError

UTF8_REMEDY = "Save it again as UTF-8 (in a spreadsheet program: 'CSV UTF-8')."
_QUOTE_REMEDY = (
    "Look at the quotation marks of this row and the one before: a cell that holds a comma, a quotation mark or a "
    "line break must be quoted, and quotation marks inside it doubled."
)


def corpus_folder(path: str | Path | None, what: str) -> Path:
    """The folder that holds a corpus.

    Raises:
        DataError: no path was given, or it is no folder.
    """
    if not path:
        raise DataError(f"{what} needs a folder.", remedy="Set data.path to it.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(
            "is not there." if not folder.exists() else "is not a folder.", file=folder, remedy="Check data.path."
        )
    return folder


def find_file(folder: Path, patterns: Sequence[str], what: str) -> Path | None:
    """The file in ``folder`` that matches one of the glob patterns (the first pattern wins), or None.

    Raises:
        DataError: a pattern matches several files, so it is not clear which is meant.
    """
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found[:4])
            raise DataError(f"several files could be {what}: {names}.", file=folder, remedy="Keep one of them there.")
        if found:
            return found[0]
    return None


def need_file(folder: Path, patterns: Sequence[str], what: str) -> Path:
    """As ``find_file``, but not finding it is an error.

    Raises:
        DataError: it is not there (with the names looked for, and what in the folder comes close), or several are.
    """
    found = find_file(folder, patterns, what)
    if found is not None:
        return found
    wanted = " or ".join(patterns)
    close = get_close_matches(patterns[0], sorted(path.name for path in folder.iterdir()), n=1, cutoff=0.8)
    hint = (
        f"Did you mean to call {close[0]} so?"
        if close
        else "Copy it there, or point data.path to the folder that has it."
    )
    raise DataError(f"{what} is missing: looked for {wanted}.", file=folder, remedy=hint)


def decode(data: bytes, file: object, row: int | None = None, before: int = 0) -> str:
    """UTF-8 bytes as text.

    Args:
        before: how many bytes of the file come before ``data``.
    Raises:
        DataError: they are not UTF-8; names the byte.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = before + error.start
    raise DataError(f"byte {at:,} is not UTF-8.", file=file, row=row, remedy=UTF8_REMEDY)


def csv_header(path: Path) -> tuple[str, ...]:
    """The column names of a CSV file (``.gz`` or not).

    Raises:
        DataError: it can't be read or is empty.
    """
    return tuple(name.strip() for name in next(_records(path))[1])


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of a CSV file (``.gz`` or not), one row at a time.

    Args:
        columns: names to read; others are skipped.
    Yields:
        (row number from 1 for the first row after the header, cells in the order of ``columns``).
    Raises:
        DataError: a column is missing or there twice, a row has another number of cells than the header, a
        quotation mark
            is not closed, it is not UTF-8, or it can't be read.
    """
    records = _records(path)
    _, header = next(records)
    places = _places(path, [name.strip() for name in header], columns)
    for row, record in records:
        if not record:
            continue  # a blank line, usually the last
        if len(record) != len(header):
            message = f"has {len(record)} cells where the header has {len(header)}."
            raise DataError(message, file=path, row=row, remedy=_QUOTE_REMEDY)
        yield row, [record[place] for place in places]


def check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    """Checks that all columns are in the header.

    Raises:
        DataError: names those that are missing and the closest that are there.
    """
    _places(path, list(header), columns)


def _places(path: Path, header: list[str], columns: Sequence[str]) -> list[int]:
    missing = [name for name in columns if name not in header]
    if missing:
        # Only names that come close are shown: without a header the first line is data.
        lower = {name.lower(): name for name in header}
        hints = {}
        for name in missing:
            for close in get_close_matches(name.lower(), sorted(lower), n=1, cutoff=0.7):
                hints[name] = lower[close]
        hint = "".join(f" Did you mean {there!r} for {name!r}?" for name, there in hints.items())
        for separator, called in ((";", "semicolons"), ("\t", "tabs")):
            if len(header) == 1 and set(columns) <= {name.strip() for name in header[0].split(separator)}:
                hint = f" Its cells are separated by {called}: save it with commas."
        raise DataError(
            f"the header lacks {', '.join(map(repr, missing))}.{hint}",
            file=path,
            remedy="The first line must hold the column names.",
        )
    doubled = [name for name in columns if header.count(name) > 1]
    if doubled:
        raise DataError(f"the header has {doubled[0]!r} twice.", file=path, remedy="Rename or remove one of them.")
    return [header.index(name) for name in columns]


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(row, cells) with row 0 for the header."""
    problem, remedy, row = "", "", 0
    try:
        with cast(BinaryIO, gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as file:
            reader = csv.reader(_lines(file, path, lambda: row), strict=True)
            for record in reader:
                yield row, record
                row += 1
            if row == 0:
                problem, remedy = "is empty.", "Copy the file again."
    except csv.Error:
        problem, remedy = "is not valid CSV.", _QUOTE_REMEDY
    except (EOFError, zlib.error, gzip.BadGzipFile):
        problem, remedy = "is damaged: it can't be unpacked to its end.", "Copy the file again and compare checksums."
    except OSError as error:
        problem, remedy = f"can't be read ({error.strerror}).", "Check that it is there and may be read."
    if problem:
        raise DataError(problem, file=path, row=row or None, remedy=remedy)


def _lines(file: BinaryIO, path: Path, row: Callable[[], int]) -> Iterator[str]:
    done = 0
    for line in file:
        start = 3 if done == 0 and line.startswith(b"\xef\xbb\xbf") else 0  # byte order mark, as Excel writes it
        yield decode(line[start:], path, row() or None, done + start)
        done += len(line)
