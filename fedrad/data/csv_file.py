"""Reads CSV row by row.

``Form`` names the separator: by default a comma, or a semicolon or tab if the header has no comma. Excel's first line
``sep=;`` goes before that. No error quotes a cell. Errors have no cause either: Python's own errors quote the line,
which may be a report.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fedrad.data.columns import SEPARATE, SEPARATORS
from fedrad.data.content import lines, unpacked
from fedrad.data.table_options import USUAL, Form
from fedrad.errors import DataError, Refuse, raise_it

_LONGEST_CELL = 1 << 24
# Programs that save such a file again pad the line with separators.
_SEPARATOR_LINE = re.compile(r'"?sep=([^\w"\r\n])"?[\s,;]*', re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"')
_LIKE_SEPARATOR_LINE = re.compile(r'"?sep=', re.IGNORECASE)
_QUOTE_REMEDY = (
    "Look at the quotation marks of this row and the one before: a cell that holds a comma, a quotation mark or a "
    "line break must be quoted, and quotation marks inside it doubled."
)
_LINE_END_REMEDY = (
    "Give all lines the same line end: tr -d '\\r' removes carriage returns; put quotation marks around such cells."
)

# Python's limit, 131,072 characters for the whole process, is too small for some cells. A limit bounds memory if a
# quotation mark is not closed.
csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))


def csv_header(path: Path, form: Form = USUAL) -> tuple[str, ...]:
    """The column names.

    Raises:
        DataError: the file can't be read or is empty.
    """
    return tuple(name.strip() for name in next(_records(path, form))[1])


def csv_rows(path: Path, form: Form = USUAL, refuse: Refuse = raise_it) -> Iterator[tuple[int, list[str]]]:
    """The rows after the header.

    A blank line is not a row, unless the file has a single column: there it is an empty cell.

    Args:
        refuse: gets the DataError of a row with another number of cells, or a byte that is no text. If it returns,
            such a row is left out, and such a byte replaced.
    Yields:
        (row number from 1, all its cells).
    Raises:
        DataError: a row has more or fewer cells than the header, a quotation mark is not closed, or the file can't be
            read as text.
    """
    records = _records(path, form, refuse)
    width = len(next(records)[1])
    for row, cells in records:
        cells = cells or [""]
        if width > 1 and len(cells) == 1 and not cells[0].strip():
            continue  # a blank line, usually the last
        if len(cells) != width:
            message = f"has {len(cells)} cell{'s' if len(cells) > 1 else ''} where the header has {width}."
            refuse(DataError(message, file=path, row=row, remedy=_QUOTE_REMEDY))
            continue
        yield row, cells


def _records(path: Path, form: Form, refuse: Refuse = raise_it) -> Iterator[tuple[int, list[str]]]:
    """As ``csv_rows``, with row 0 for the header."""
    problem, remedy, row, first = "", _QUOTE_REMEDY, 0, ""
    with unpacked(path) as file:
        text = lines(file, path, lambda: row or None, form.encoding, refuse)
        try:
            first = next(text, "")
            separator = _separator(first, form.separator)
            if match := _SEPARATOR_LINE.fullmatch(first):
                first, separator = next(text, ""), match[1]
            elif _LIKE_SEPARATOR_LINE.match(first):
                problem = "its first line, sep=, names no usable separator."
                raise DataError(problem, file=path, remedy="Remove that line, or name a sign such as ; in it.")
            for record in csv.reader(chain([first] if first else [], text), delimiter=separator, strict=True):
                yield row, record
                row += 1
            if row == 0:
                problem, remedy = "is empty.", "Copy the file again."
        except csv.Error as error:
            problem = "is not valid CSV."
            if str(error).startswith("new-line character"):
                problem = "is not valid CSV: line ends of several kinds are mixed, or one stands in an unquoted cell."
                remedy = _LINE_END_REMEDY
            if str(error).startswith("field larger"):
                problem = f"has a cell of more than {_LONGEST_CELL:,} characters, or a quotation mark is not closed."
            for other, called in SEPARATORS.items():
                if row == 0 and f'"{other}"' in first:
                    problem, remedy = f"is not valid CSV: its cells seem to be separated by {called}.", SEPARATE
    if problem:
        raise DataError(problem, file=path, row=row or None, remedy=remedy)


def _separator(header: str, named: str) -> str:
    """What separates the cells of a file with this first line."""
    if named != "auto":
        return "\t" if named == "tab" else named
    unquoted = _QUOTED.sub("", header)
    return "," if "," in unquoted else max(",;\t", key=unquoted.count)  # the comma, if it holds none of them
