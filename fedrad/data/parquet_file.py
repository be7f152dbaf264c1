"""Reads Parquet batch by batch, with every cell as the text that it would be in a CSV file.

The types that a column may have depend on its ``Kind`` and are checked before the first row is read: a list, a date or
a decimal number turned into text would train on something that nobody wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fedrad.errors import DataError, Refuse, raise_it

Kind = Literal["text", "name", "label", "class", "time", "any"]
"""How a column is read: as reports, identifiers, 0/1, class names, times, or of "any" type, to be shown as it is."""

_ROWS_AT_ONCE = 1000
_BUFFER = 1 << 20  # without one, or with pre_buffer, pyarrow reads a whole row group at once
_WHOLE_NUMBERS = "Save the column as text or whole numbers."
_DECIMALS = " (Whole numbers become decimal ones where some are missing: fill those in first.)"
_BYTES_REMEDY = "Write the column again as text, or as bytes in UTF-8."
# kind -> (what the column must hold, what to do)
_NEEDS: Final[dict[Kind, tuple[str, str]]] = {
    "text": ("text", "Name a column of text, or save this one as text."),
    "name": ("identifiers (of patients, sites or reports)", _WHOLE_NUMBERS),
    "label": ("0 and 1", "Save the column as 0 and 1."),
    "class": ("class names", _WHOLE_NUMBERS),
    "time": ("times", "Save the column as dates, timestamps, or text like 2024-03-01."),
}


def parquet_header(path: Path) -> tuple[str, ...]:
    """The column names.

    Raises:
        DataError: the file can't be read.
    """
    with _opened(path) as file:
        return tuple(file.schema_arrow.names)


def parquet_rows(
    path: Path, columns: Sequence[tuple[int, Kind]], refuse: Refuse = raise_it
) -> Iterator[tuple[int, list[str]]]:
    """Some columns, row by row. Null and NaN are ""; in a label column NaN is ``nan``, since it is not a blank.

    Args:
        columns: places in the header, and how to read each.
        refuse: gets the DataError of each column or cell that can't be read. If it returns after a column, no rows are
            read; after a cell, the cell is "".
    Yields:
        (row number from 1, cells in the order of ``columns``).
    Raises:
        DataError: a column has the wrong type, bytes are not UTF-8, or the file is damaged.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        wrong = [(place, kind) for place, kind in columns if not _may_be(schema.field(place).type, kind)]
        for place, kind in wrong:
            refuse(_wrong_type(path, file, schema.field(place), kind))
        if wrong:
            return
        # pyarrow selects columns by name only: it returns them in the file's order, and all columns of one name.
        whole = sorted(place for place, _ in columns) == list(range(len(schema.names)))
        wanted = None if whole else list(dict.fromkeys(schema.names[place] for place, _ in columns))
        batches, row, broken = file.iter_batches(_ROWS_AT_ONCE, columns=wanted), 1, False
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError):
                broken = True
            if broken:
                raise DataError("is damaged.", file=path, row=row, remedy="Write the file again.")
            if batch is None:
                return
            values = [_values(batch, place, schema, whole, path, row) for place, _ in columns]
            readers = [_reader(kind, schema.field(place), path, refuse) for place, kind in columns]
            for cells in zip(*values, strict=True):
                yield row, [read(cell, row) for read, cell in zip(readers, cells, strict=True)]
                row += 1


def _values(batch: pa.RecordBatch, place: int, schema: pa.Schema, whole: bool, path: Path, first: int) -> list[Any]:
    """The values of a column of a batch that begins at row ``first`` of the file."""
    column = batch.column(place if whole else batch.schema.get_field_index(schema.names[place]))
    values: list[Any] = []
    try:
        values.extend(cell.as_py() for cell in column)
    except (pa.ArrowException, ValueError, OverflowError):  # Python's own message quotes the value
        pass
    else:
        return values
    name, type_ = schema.names[place], schema.field(place).type
    problem = f"column {name!r} holds {type_}, and this value can't be read"
    if pa.types.is_temporal(type_):
        problem += " (outside the years 1 to 9999, or in an unknown time zone)"
    remedy = "Correct the value, or save the column as text."
    raise DataError(f"{problem}.", file=path, row=first + len(values), remedy=remedy)


def _may_be(kind_of: pa.DataType, kind: Kind) -> bool:
    is_, type_ = pa.types, kind_of.value_type if pa.types.is_dictionary(kind_of) else kind_of
    if kind == "any" or is_.is_null(type_) or _is_text(type_):
        return True
    whole = is_.is_integer(type_) or (is_.is_decimal(type_) and type_.scale == 0)
    match kind:
        case "name":
            return bool(whole)
        case "time":
            return bool(whole or is_.is_date(type_) or is_.is_timestamp(type_))
        case "label" | "class":
            return bool(whole or is_.is_boolean(type_) or is_.is_floating(type_) or is_.is_decimal(type_))
    return False


def _is_text(type_: pa.DataType) -> bool:
    is_ = pa.types
    tests = (
        is_.is_string, is_.is_large_string, is_.is_string_view,
        is_.is_binary, is_.is_large_binary, is_.is_binary_view, is_.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(type_) for test in tests)


def _wrong_type(path: Path, file: pq.ParquetFile, field: pa.Field, kind: Kind) -> DataError:
    (what, remedy), row = _NEEDS[kind], None
    problem = f"column {field.name!r} holds {field.type}, not {what}."
    if kind == "name" and pa.types.is_floating(field.type):
        # Most likely these are whole numbers, and became decimal ones because some are missing.
        remedy += _DECIMALS
        cells = (cell for batch in file.iter_batches(columns=[field.name]) for cell in batch.column(0).to_pylist())
        row = next((row for row, cell in enumerate(cells, 1) if cell is None or cell != cell), None)
        problem = f"column {field.name!r} is missing here, and holds {field.type}, not {what}." if row else problem
    return DataError(problem, file=path, row=row, remedy=remedy)


def _reader(kind: Kind, field: pa.Field, path: Path, refuse: Refuse) -> Callable[[Any, int], str]:
    """A function from a cell of this column, and its row, to text."""
    type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    whole = pa.types.is_decimal(type_) and type_.scale == 0

    def read(cell: Any, row: int) -> str:
        if cell is None:
            return ""
        if isinstance(cell, bytes):
            cell = _decoded(cell, kind, field, path, row, refuse)
        if isinstance(cell, str):
            if "\0" in cell and kind != "any":
                problem = f"column {field.name!r} holds a zero byte, as UTF-16 does."
                refuse(DataError(problem, file=path, row=row, remedy=_BYTES_REMEDY))
            return cell
        if isinstance(cell, float | Decimal) and not whole:
            if kind in ("label", "class") and cell in (0, 1, -1):
                return str(float(cell) or 0.0)  # 1.00 is 1.0, and -0.0 is 0.0
            if kind == "class" and cell == cell:
                problem = f"column {field.name!r} holds decimal numbers ({field.type}), not class names."
                refuse(DataError(problem, file=path, row=row, remedy=_NEEDS[kind][1] + _DECIMALS))
                return ""
            return "" if kind == "any" and cell != cell else str(cell)
        if isinstance(cell, date | datetime):
            return cell.isoformat()
        return json.dumps(cell, default=str, ensure_ascii=False) if isinstance(cell, list | dict) else str(cell)

    return read


def _decoded(cell: bytes, kind: Kind, field: pa.Field, path: Path, row: int, refuse: Refuse) -> str:
    try:
        # Zero bytes pad a value to the fixed width.
        return (cell.rstrip(b"\0") if pa.types.is_fixed_size_binary(field.type) else cell).decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
    if kind == "any":
        return cell.hex()
    problem = f"byte {at:,} of column {field.name!r} is not UTF-8."
    refuse(DataError(problem, file=path, row=row, remedy=_BYTES_REMEDY))
    return ""


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError):
        pass
    raise DataError("is not a readable Parquet file.", file=path, remedy="Write the file again.")
