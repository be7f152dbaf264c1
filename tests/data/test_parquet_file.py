"""What a Parquet cell may be, as what; nothing becomes text by accident."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrad.data import table
from fedrad.data.parquet_file import Kind
from fedrad.data.report import Row
from fedrad.data.table import TableColumns
from fedrad.data.tabular import rows_of

from .conftest import CANARY, names_of, raises_quietly, read_all

TEXT = pa.array(["Clear é.", None])
BYTES = pa.array(["Clear é.".encode(), None])
ODD: dict[str, pa.Array] = {
    "list": pa.array([["a"], None]),
    "struct": pa.array([{"a": CANARY}, None]),
    "map": pa.array([[("a", "b")], None], pa.map_(pa.string(), pa.string())),
    "double": pa.array([1.5, float("nan")]),
    "float": pa.array([1.5, None], pa.float32()),
    "bool": pa.array([True, None]),
    "date32": pa.array([date(2024, 3, 1), None]),
    "timestamp": pa.array([datetime(2024, 3, 1), None]),
    "duration": pa.array([timedelta(1), None]),
    "decimal": pa.array([Decimal("1.5"), None]),
    "int64": pa.array([1, None]),
}


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def read(path: Path, kind: Kind, **columns: Any) -> list[str]:
    return [cells[0] for _, cells in rows_of(write(path, **columns), [("c", kind)])]


@pytest.mark.parametrize(
    "cells",
    [
        TEXT,
        TEXT.cast(pa.large_string()),
        TEXT.cast(pa.string_view()),
        TEXT.dictionary_encode(),
        BYTES,
        BYTES.cast(pa.large_binary()),
        BYTES.cast(pa.binary_view()),
        BYTES.dictionary_encode(),
        pa.array(["Clear é.".encode(), None], pa.binary(9)),
        pa.array(["Clear é.".encode() + b"\0\0", None], pa.binary(11)),
    ],
    ids=lambda cells: str(cells.type),
)
@pytest.mark.parametrize("kind", ["text", "name", "class", "label", "time", "any"])
def test_every_kind_of_text_is_read_as_text(tmp_path: Path, cells: pa.Array, kind: Kind) -> None:
    assert read(tmp_path / "t.parquet", kind, c=cells, n=[1, 2]) == ["Clear é.", ""]


def test_a_column_of_nothing_is_missing(tmp_path: Path) -> None:
    assert read(tmp_path / "t.parquet", "text", c=pa.nulls(2), n=[1, 2]) == ["", ""]


@pytest.mark.parametrize("type_", ODD)
def test_no_other_type_is_a_text(tmp_path: Path, type_: str) -> None:
    error = raises_quietly(lambda: read(tmp_path / "t.parquet", "text", c=ODD[type_], n=[1, 2]))
    assert f"column 'c' holds {type_}" in str(error)
    assert "not text" in str(error)
    assert error.file == tmp_path / "t.parquet"
    assert error.remedy


@pytest.mark.parametrize("type_", [type_ for type_ in ODD if type_ != "int64"])
def test_nor_an_identifier(tmp_path: Path, type_: str) -> None:
    error = raises_quietly(lambda: read(tmp_path / "t.parquet", "name", c=ODD[type_], n=[1, 2]))
    assert "column 'c'" in str(error)
    assert f"holds {type_}" in str(error)
    if type_ in ("double", "float"):  # as pandas writes whole numbers of which some are missing
        assert error.row == 2
        assert "is missing here" in str(error)
        assert "Whole numbers become decimal ones where some are missing" in str(error)
    else:
        assert error.row is None


def test_whole_numbers_are_identifiers(tmp_path: Path) -> None:
    for cells in (pa.array([12, None]), pa.array([12, None], pa.uint8()), pa.array([Decimal(12), None])):
        assert read(tmp_path / "t.parquet", "name", c=cells, n=[1, 2]) == ["12", ""]
    assert "double, not identifiers (of patients" in str(
        raises_quietly(lambda: read(tmp_path / "t.parquet", "name", c=[12.0]))
    )


@pytest.mark.parametrize("kind", ["text", "name", "class", "label", "time"])
def test_bytes_that_are_no_text_name_row_and_column(tmp_path: Path, kind: Kind) -> None:
    good = [CANARY.encode()] * 2500
    for bad, says in ((b"a\xff", "byte 1 of column 'c' is not UTF-8"), (b"a\0b", "column 'c' holds a zero byte")):
        error = raises_quietly(lambda bad=bad: read(tmp_path / "t.parquet", kind, c=[*good, bad]))
        assert (error.file, error.row) == (tmp_path / "t.parquet", 2501)
        assert says in str(error)


def test_what_is_only_shown_may_be_anything(tmp_path: Path) -> None:
    """Control for the refusals: the other columns of ``fedrad predict``."""
    shown = {type_: read(tmp_path / "t.parquet", "any", c=cells, n=[1, 2])[0] for type_, cells in ODD.items()}
    assert shown["list"] == '["a"]'
    assert shown["struct"] == f'{{"a": "{CANARY}"}}'
    assert (shown["double"], shown["bool"], shown["date32"]) == ("1.5", "True", "2024-03-01")
    assert read(tmp_path / "t.parquet", "any", c=[b"\xff", None]) == ["ff", ""]
    assert read(tmp_path / "t.parquet", "any", c=[1.0, float("nan")]) == ["1.0", ""]


@pytest.mark.parametrize("kind", ["time", "any"])
@pytest.mark.parametrize(
    ("type_", "zone"), [(pa.timestamp("us"), ""), (pa.timestamp("us", "Foo/Bar"), "Foo"), (pa.date32(), "")], ids=str
)
def test_a_time_that_python_lacks_names_row_and_column(
    tmp_path: Path, type_: pa.DataType, zone: str, kind: Kind
) -> None:
    values = pa.array([1] * 1500 + [2**30], pa.int32())
    cells = values.cast(type_) if type_ == pa.date32() else values.cast(pa.int64())
    if type_ != pa.date32():
        cells = pa.array([*cells.to_pylist()[:-1], 2**62], pa.int64()).cast(type_)
    error = raises_quietly(lambda: read(tmp_path / "t.parquet", kind, c=cells))
    assert (error.file, error.row) == (tmp_path / "t.parquet", 1 if zone else 1501)
    assert "column 'c' holds" in str(error)
    assert "outside the years 1 to 9999, or in an unknown time zone" in str(error)
    assert error.remedy


# a table


def table_of(path: Path, labels: tuple[str, ...] = ("c",), **columns: Any) -> tuple[tuple[str, ...], list[Row]]:
    file = write(path, **{"text": ["A.", "B.", "C."], "patient": [1, 2, 3], **columns})
    wanted = TableColumns("text", labels, "patient")
    source = table.source(file, wanted)
    return names_of(source), read_all(source)[0]


def test_class_columns(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    assert table_of(file, c=["x", None, "nan"])[0] == ("x",)
    names, rows = table_of(file, c=[2, None, 3])
    assert (names, [row["labels"] for row in rows]) == (("2", "3"), [0, 1])
    for cells in ([True, False, None], [1, 0, None], [1.0, 0.0, None]):
        names, rows = table_of(file, c=cells)  # 0 and 1 are a label, not two classes
        assert (names, [row["labels"]["c"] for row in rows]) == (("c",), [1, 0, 0])
    error = raises_quietly(lambda: table_of(file, c=[1.0, 2.0, 3.0]))
    assert error.row == 2
    assert "column 'c' holds decimal numbers (double), not class names" in str(error)
    decimals = [Decimal("1.50"), Decimal("2.00"), Decimal("3.00")]
    assert "(decimal128(3, 2)), not class names" in str(raises_quietly(lambda: table_of(file, c=decimals)))
    assert table_of(file, c=[Decimal(1), Decimal(2), Decimal(30)])[0] == ("1", "2", "30")
    assert "holds date32[day], not class names" in str(raises_quietly(lambda: table_of(file, c=[date(2024, 3, 1)] * 3)))


def test_label_columns(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    _, rows = table_of(file, ("c", "d"), c=[1.0, None, 0.0], d=[True, False, None])
    assert [tuple(row["labels"].values()) for row in rows] == [(1, 1), (0, 0), (0, 0)]
    numbers = [Decimal("1.00"), Decimal("0.00"), None]  # as SQL programs write them
    _, rows = table_of(file, ("c", "d"), c=numbers, d=[-0.0, 1.0, 0.0])
    assert [tuple(row["labels"].values()) for row in rows] == [(1, 0), (0, 1), (0, 0)]
    assert table_of(file, c=numbers)[0] == ("c",)
    for value, column in ((float("nan"), "c"), (-1.0, "c"), (0.5, "c")):
        cells = pa.array([1.0, value, 0.0], from_pandas=False)
        error = raises_quietly(lambda cells=cells: table_of(file, ("c", "d"), c=cells, d=[0, 0, 0]))
        assert error.row == 2
        assert f"label {column!r} is unknown. Allowed are" in str(error)
    for type_ in ("list", "date32", "struct"):
        cells = pa.concat_arrays([ODD[type_], ODD[type_][:1]])
        error = raises_quietly(lambda cells=cells: table_of(file, ("c", "d"), c=cells, d=[0, 0, 0]))
        assert f"column 'c' holds {type_}" in str(error)


def test_patients_that_are_missing(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    for cells in (["a", None, "c"], [1, None, 3], ["a", "NaN", "c"], [1.0, float("nan"), 3.0], [b"a", b" ", b"c"]):
        assert raises_quietly(lambda cells=cells: table_of(file, c=[0, 1, 0], patient=cells)).row == 2


def test_columns_in_any_order_and_with_any_name(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", **{"b.x": ["1", "2"], "a": ["3", "4"], "b": [{"x": "no"}, None]})
    assert list(rows_of(file, [("a", "text"), ("b.x", "text")])) == [(1, ["3", "1"]), (2, ["4", "2"])]
    assert list(rows_of(file, [("a", "text"), ("a", "name")])) == [(1, ["3", "3"]), (2, ["4", "4"])]


def test_one_big_row_group_does_not_fill_memory(tmp_path: Path) -> None:
    """A file that many tools write: all rows in one group, here 80 MB of texts that do not compress."""
    rng, file = random.Random(0), tmp_path / "t.parquet"
    schema = pa.schema({"text": pa.string()})
    pages = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 16}
    with pq.ParquetWriter(file, schema, **pages) as writer:
        texts = pa.array([rng.randbytes(4000).hex() for _ in range(10_000)])
        writer.write_table(pa.table([texts], schema), row_group_size=10_000)
    assert pq.ParquetFile(file).num_row_groups == 1
    script = (
        "import sys; import pyarrow; from pathlib import Path; from fedrad.data.tabular import rows_of\n"
        "count = sum(1 for _ in rows_of(Path(sys.argv[1]), [('text', 'text')]))\n"
        "print(count, pyarrow.default_memory_pool().max_memory())"
    )
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == 10_000
    assert peak < 50e6
