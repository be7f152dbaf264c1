"""Files of a corpus: found under the names they are published with, and CSV read row by row.

Every error names the file, the row and the remedy. None carries a cell, neither in its message nor as its
cause: Python's and Arrow's own errors quote the line that they stumbled over, and that line may be a report.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from fedrad.errors import DataError

UTF8_REMEDY = "Save it again as UTF-8 (in a spreadsheet program: 'CSV UTF-8')."
_SEPARATORS = {";": "';'", "\t": "tabs"}
_COMMAS = "Save it with commas between the cells."
_LONGEST_NAME, _MOST_NAMES = 40, 12
# What a cell of a file without a header has sooner or later: white space, numbers, dates, identifiers, nothing.
_LIKE_DATA = re.compile(r"\s|^\W*\d|\d{3}|^$")
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


def csv_table(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """All of a CSV file (``.gz`` or not): its column names, and its rows one at a time.

    A blank line is no row, unless the file has a single column: there it is how an empty cell is written.

    Returns:
        The names, and an iterator of (row number from 1 for the first row after the header, all its cells).
    Raises:
        DataError: as ``csv_rows``, which see; the iterator raises what concerns the rows.
    """
    records = _records(path)
    header = [name.strip() for name in next(records)[1]]

    def rows() -> Iterator[tuple[int, list[str]]]:
        for row, record in records:
            if not record and len(header) > 1:
                continue  # a blank line, usually the last
            cells = record or [""]
            if len(cells) != len(header):
                message = f"has {len(cells)} cells where the header has {len(header)}."
                raise DataError(message, file=path, row=row, remedy=_QUOTE_REMEDY)
            yield row, cells

    return header, rows()


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of a CSV file (``.gz`` or not), one row at a time.

    Args:
        columns: names to read; others are skipped.
    Yields:
        (row number from 1 for the first row after the header, cells in the order of ``columns``).
    Raises:
        DataError: a column is missing or there twice, a row has another number of cells than the header, a
            quotation mark is not closed, it is not UTF-8, or it can't be read.
    """
    header, rows = csv_table(path)
    places = check_columns(path, header, columns)
    for row, cells in rows:
        yield row, [cells[place] for place in places]


def check_columns(
    path: Path,
    header: Sequence[str],
    columns: Sequence[str],
    remedy: str = "The first line must hold the column names.",
) -> list[int]:
    """The places of columns in the header.

    Raises:
        DataError: some are missing (with what is there instead, as far as it can't be a report), or one is there twice.
    """
    missing = [name for name in columns if name not in header]
    if missing:
        problem = f"the header lacks {', '.join(map(repr, missing))}"
        for separator, called in _SEPARATORS.items():
            pieces = {piece.strip().lower() for piece in ",".join(header).split(separator)}
            if any(name.lower() in pieces for name in missing):
                raise DataError(f"{problem}: its cells seem to be separated by {called}.", file=path, remedy=_COMMAS)
        lower = {name.lower(): name for name in header}
        hints = {}
        for name in missing:
            for close in get_close_matches(name.lower(), sorted(lower), n=1, cutoff=0.7):
                hints[name] = lower[close]
        hint = "".join(f" Did you mean {there!r} for {name!r}?" for name, there in hints.items())
        there = "" if len(hints) == len(missing) else _what_is_there(header, columns)
        raise DataError(f"{problem}.{hint}{there}", file=path, remedy=remedy)
    doubled = [name for name in columns if header.count(name) > 1]
    if doubled:
        raise DataError(f"the header has {doubled[0]!r} twice.", file=path, remedy="Rename or remove one of them.")
    return [header.index(name) for name in columns]


def _what_is_there(header: Sequence[str], columns: Sequence[str]) -> str:
    """The names in a header, or only their number where they may be data: a file may come without a header.

    Names are short. If none of those we look for is among them, they must also be single words, as a report is not.
    """
    if not header:
        return " Its first line is blank."
    known = any(name in columns for name in header)
    if all(len(name) <= _LONGEST_NAME and (known or not _LIKE_DATA.search(name)) for name in header):
        more = len(header) - _MOST_NAMES
        names = ", ".join(map(repr, header[:_MOST_NAMES]))
        return f" It has {names}{f' and {more} more' if more > 0 else ''}."
    return f" It has {len(header)} column{'s' if len(header) > 1 else ''}."


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(row, cells) with row 0 for the header."""
    problem, remedy, row, first = "", "", 0, ""
    try:
        with cast(BinaryIO, gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as file:
            lines = _lines(file, path, lambda: row)
            first = next(lines, "")
            reader = csv.reader(chain([first] if first else [], lines), strict=True)
            for record in reader:
                yield row, record
                row += 1
            if row == 0:
                problem, remedy = "is empty.", "Copy the file again."
    except csv.Error:
        problem, remedy = "is not valid CSV.", _QUOTE_REMEDY
        for separator, called in _SEPARATORS.items():
            if row == 0 and f'"{separator}"' in first:
                problem, remedy = f"is not valid CSV: its cells seem to be separated by {called}.", _COMMAS
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
