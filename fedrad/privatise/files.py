"""Privatises a file, chunk by chunk: a table (CSV, Parquet, Excel) or a text file with one text a line.

The file is read twice: the first pass finds all errors before anything is drawn. The result holds the text and the
columns that are named, no others, since other columns may identify a patient; every value is text. It is complete or
absent, and only its owner may read it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from fedrad.data.columns import check_columns
from fedrad.data.content import lines, unpacked
from fedrad.data.table_options import USUAL, Form
from fedrad.data.tabular import cells_of, header_of
from fedrad.errors import ConfigError, DataError
from fedrad.files import whole_file, write_whole
from fedrad.privatise.privatiser import DROPPED, Privatiser
from fedrad.privatise.report import manifest

if TYPE_CHECKING:
    from fedrad.data.parquet_file import Kind

TEXT: Final = ".txt"
_SUFFIXES: Final = (".csv", ".parquet", TEXT)
_ROWS, _CHARACTERS = 256, 1 << 20  # of a chunk

Row = list[str]
Write = Callable[[list[Row]], None]


@dataclass
class Tally:
    """What was done. Private, since it is counted from the texts.

    Attributes:
        texts: rows, also those without text.
        groups: tokens in each group, [4].
        dropped, same, other: tokens without an answer, answered by themselves, and by others.
        worst_text: the largest composed guarantee of a text, over all pairs with its groups.
        worst_patient: the largest sum over a patient's texts; 0 without a patient column.
    """

    texts: int = 0
    groups: np.ndarray = field(default_factory=lambda: np.zeros(4, dtype=np.int64))
    dropped: int = 0
    same: int = 0
    other: int = 0
    worst_text: float = 0.0
    worst_patient: float = 0.0


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read.

    Attributes:
        text: the column to privatise.
        keep: columns that go into the result as they are, behind the text.
        patient: whose texts they are, to add up what they give away; it is not written unless it is in ``keep``.
        form: how a CSV file is written.
    """

    text: str = "text"
    keep: tuple[str, ...] = ()
    patient: str = ""
    form: Form = USUAL

    def __post_init__(self) -> None:
        if self.text in self.keep or len(set(self.keep)) < len(self.keep):
            raise ConfigError("--keep names the text's column, or a column twice: name others, each once")


def manifest_of(out: Path) -> Path:
    """Where the manifest of a result stands."""
    return out.with_name(f"{out.name}.manifest.json")


def check_paths(source: Path, out: Path, columns: Columns) -> None:
    """Refuses what can't work, before anything heavy is loaded.

    Raises:
        ConfigError: the kind of ``out`` is unknown, or text files and columns are mixed.
        DataError: ``source`` is not there or lacks a column, ``out`` or its manifest is, or there is no folder for it.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"OUT must end in {', '.join(_SUFFIXES)}")
    plain = source.suffix.lower() == TEXT
    if plain != (out.suffix.lower() == TEXT) or (plain and (columns.keep or columns.patient)):
        raise ConfigError("a .txt file has one text a line and no columns: both IN and OUT end in .txt, or neither")
    if not source.is_file():
        raise DataError("there is no such file.", file=source)
    for path in (out, manifest_of(out)):
        if path.exists():
            raise DataError("exists already; nothing is overwritten.", file=path, remedy="Name another file.")
    if not out.absolute().parent.is_dir():
        raise DataError("there is no such folder.", file=out.absolute().parent, remedy="Make it, or name another.")
    if not plain:
        _kinds(source, columns)


def count(source: Path, columns: Columns) -> int:
    """How many rows it has.

    Raises:
        DataError: a row can't be read.
    """
    return sum(1 for _ in rows_of(source, columns))


def rows_of(source: Path, columns: Columns) -> Iterator[Row]:
    """Of each row the text, the columns to keep, and the patient if there is one."""
    if source.suffix.lower() == TEXT:
        with unpacked(source) as file:
            for line in lines(file, source, lambda: None):
                yield [line.strip()]
        return
    for _, cells in cells_of(source, _kinds(source, columns), columns.form):
        yield cells


def privatise_file(
    privatiser: Privatiser, source: Path, out: Path, columns: Columns, tell: Callable[[int], None] = lambda _: None
) -> Tally:
    """Writes the privatised texts of ``source`` to ``out``, with a manifest beside it.

    Args:
        tell: called with the number of rows after each chunk.

    Raises:
        ConfigError, DataError: as ``check_paths``; or a row can't be read. Nothing is written then.
    """
    check_paths(source, out, columns)
    tally, sums = Tally(), defaultdict[str, float](float)
    try:
        with (
            whole_file(out, durable=True, shared=True) as file,
            _writer(file, out, (columns.text, *columns.keep)) as write,
        ):
            for part, rows in enumerate(_chunks(rows_of(source, columns))):
                walks = privatiser.walks([row[0] for row in rows], part)
                write([[privatiser.spelt(w), *r[1 : 1 + len(columns.keep)]] for w, r in zip(walks, rows, strict=True)])
                for walk, row in zip(walks, rows, strict=True):
                    worst = privatiser.worst(walk)
                    tally.worst_text = max(tally.worst_text, worst)
                    if columns.patient:
                        sums[row[-1]] += worst
                    same = int((walk.answers == walk.tokens).sum())
                    dropped = int((walk.answers == DROPPED).sum())
                    tally.groups += np.bincount(walk.groups, minlength=4)
                    tally.same, tally.dropped = tally.same + same, tally.dropped + dropped
                    tally.other += len(walk.tokens) - same - dropped
                tally.texts += len(rows)
                tell(len(rows))
        with out.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        content = json.dumps(manifest(privatiser, tally.texts, digest), indent=2, allow_nan=False) + "\n"
        write_whole(manifest_of(out), content.encode(), durable=True, shared=True)
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=out) from None
    tally.worst_patient = max(sums.values(), default=0.0)
    return tally


def _kinds(source: Path, columns: Columns) -> list[tuple[int, Kind]]:
    names = [columns.text, *columns.keep, *([columns.patient] if columns.patient else [])]
    remedy = "Name the column with the text with --column."
    places = check_columns(source, header_of(source, columns.form), names, remedy=remedy)
    kinds: list[Kind] = ["text", *["any"] * len(columns.keep), "name"]  # type: ignore[list-item]
    return list(zip(places, kinds, strict=False))


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row[0])
        if len(chunk) == _ROWS or size > _CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@contextmanager
def _writer(file: BinaryIO, out: Path, header: Sequence[str]) -> Iterator[Write]:
    if out.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.string()) for name in header])
        with pq.ParquetWriter(file, schema) as parquet:

            def write_batch(rows: list[Row]) -> None:
                arrays = [pa.array(list(cells), pa.string()) for cells in zip(*rows, strict=True)]
                parquet.write_batch(pa.record_batch(arrays, schema=schema))

            yield write_batch
        return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    if out.suffix.lower() == TEXT:
        yield lambda rows: text.writelines(f"{row[0]}\n" for row in rows)
    else:
        table = csv.writer(text, lineterminator="\n")
        table.writerow(header)
        yield table.writerows
    text.detach()
