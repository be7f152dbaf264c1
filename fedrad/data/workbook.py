"""Excel workbooks (.xlsx): the first sheet, row by row, with every cell as the text that it would be in a CSV file.

openpyxl reads them (the extra ``fedrad[xlsx]``). Of a formula the value counts that was saved with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedrad.errors import DataError, Refuse, raise_it

if TYPE_CHECKING:
    from fedrad.data.parquet_file import Kind

_READ_AS: Final[dict[Kind, str]] = {
    "text": "text",
    "name": "an identifier (text or a whole number)",
    "label": "0 or 1",
    "class": "a class name (text or a whole number)",
    "time": "a time",
}


def workbook_header(path: Path) -> tuple[str, ...]:
    """The column names: the first row of the first sheet.

    Raises:
        DataError: the file can't be read or is empty.
    """
    with _rows(path) as rows:
        return _header(path, rows)


def workbook_rows(
    path: Path, columns: Sequence[tuple[int, Kind]], refuse: Refuse = raise_it
) -> Iterator[tuple[int, list[str]]]:
    """Some columns, row by row. A row of blank cells is none, unless there is a single column and others follow.

    Args:
        columns: places in the header, and what each is read as.
        refuse: gets the DataError of each cell that can't be read; if it returns, the cell is "".
    Yields:
        (row number from 1 for the first row after the header, cells in the order of ``columns``).
    Raises:
        DataError: a cell is of a type that its column can't have, or the file is damaged.
    """
    with _rows(path) as rows:
        header, blanks = _header(path, rows), list[int]()
        for row, values in enumerate(rows, 1):
            if all(value is None for value in values):
                blanks.append(row)
                continue
            if len(header) == 1:
                yield from ((blank, [""] * len(columns)) for blank in blanks)
            blanks.clear()
            cells = []
            for place, kind in columns:
                cell = _text(values[place] if place < len(values) else None, kind)
                if cell is None:
                    problem = f"column {header[place]!r} is not {_READ_AS[kind]} here."
                    remedy = "Write it as text, or name another column."
                    refuse(DataError(problem, file=path, row=row, remedy=remedy))
                cells.append(cell or "")
            yield row, cells


def _text(value: Any, kind: Kind) -> str | None:
    """The cell as text; None if a column of this kind can't hold it."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Excel knows one kind of number
    if isinstance(value, date | datetime):
        return value.isoformat() if kind in ("time", "any") else None
    if isinstance(value, int):  # true and false too
        return str(value) if kind != "text" else None
    return str(value) if kind in ("label", "any") else None


def _header(path: Path, rows: Iterator[Sequence[Any]]) -> tuple[str, ...]:
    names = ["" if name is None else str(name).strip() for name in next(rows, ())]
    while names and not names[-1]:
        names.pop()  # columns that were only formatted
    if not names:
        raise DataError("is empty, or its first sheet is.", file=path, remedy="Put the table on the first sheet.")
    return tuple(names)


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[Sequence[Any]]]:
    try:
        from openpyxl import load_workbook
    except ImportError:
        load_workbook = None
    if load_workbook is None:
        raise DataError(
            "is an Excel workbook, and openpyxl, which reads it, is not installed.",
            file=path,
            remedy="pip install 'fedrad[xlsx]', or save it as 'CSV UTF-8'.",
        )
    broken = False
    try:
        with path.open("rb") as file:  # by its path, openpyxl would ask for the ending .xlsx
            book = load_workbook(file, read_only=True, data_only=True)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some programs write a wrong size
            yield sheet.iter_rows(values_only=True)
    except DataError:
        raise
    except Exception:  # of openpyxl, zip and XML, whose messages quote cells
        broken = True
    if broken:
        raise DataError("is an Excel workbook that can't be read.", file=path, remedy="Save it again, or as CSV.")
