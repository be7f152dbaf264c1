"""Reads a table: CSV, Parquet or Excel, as its content says. All readers and ``fedrad predict`` use this.

Every error names the file, the row or column, and the remedy. None quotes a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedrad.data.columns import check_columns
from fedrad.data.content import is_parquet, is_workbook
from fedrad.data.csv_file import csv_header, csv_rows
from fedrad.data.table_options import USUAL, Form
from fedrad.errors import Refuse, raise_it

if TYPE_CHECKING:
    from fedrad.data.parquet_file import Kind


def header_of(path: Path, form: Form = USUAL) -> tuple[str, ...]:
    """The column names of a table.

    Raises:
        DataError: it can't be read, is empty, or is not a table.
    """
    if not is_parquet(path):
        if not is_workbook(path):
            return csv_header(path, form)
        from fedrad.data.workbook import workbook_header

        return workbook_header(path)
    from fedrad.data.parquet_file import parquet_header  # pyarrow takes a while, and most tables are CSV

    return parquet_header(path)


def rows_of(
    path: Path, columns: Sequence[tuple[str, Kind]], form: Form = USUAL, refuse: Refuse = raise_it
) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of a table, one row at a time.

    Args:
        columns: names, and how to read each; other columns are skipped.
        form: how a CSV file is written.
        refuse: gets the DataError of each row that can't be read; if it returns, reading goes on behind it.
    Yields:
        (row number, 1 for the first row after the header, cells in the order of ``columns``).
    Raises:
        DataError: a column is missing, there twice or of the wrong type, a cell is not text, or the file is damaged.
    """
    places = check_columns(path, header_of(path, form), [name for name, _ in columns])
    kinds = [(place, kind) for place, (_, kind) in zip(places, columns, strict=True)]
    yield from cells_of(path, kinds, form, refuse)


def cells_of(
    path: Path, columns: Sequence[tuple[int, Kind]], form: Form = USUAL, refuse: Refuse = raise_it
) -> Iterator[tuple[int, list[str]]]:
    """As ``rows_of``, for columns given by their places in the header."""
    if is_parquet(path):
        from fedrad.data.parquet_file import parquet_rows

        yield from parquet_rows(path, columns, refuse)
        return
    if is_workbook(path):
        from fedrad.data.workbook import workbook_rows

        yield from workbook_rows(path, columns, refuse)
        return
    places = [place for place, _ in columns]
    for row, cells in csv_rows(path, form, refuse):
        yield row, [cells[place] for place in places]
