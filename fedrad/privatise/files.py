"""Privatises a file, chunk by chunk.

The result holds the text and the columns that are named, no others, since other columns may identify a patient; every
value is text. It is complete or absent, and only its owner may read it.
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
from typing import BinaryIO

import numpy as np

from fedrad.errors import DataError
from fedrad.files import whole_file, write_whole
from fedrad.privatise.privatiser import DROPPED, Privatiser
from fedrad.privatise.report import manifest
from fedrad.privatise.sources import TEXT, Columns, Row, check_paths, manifest_of, rows_of

_ROWS, _CHARACTERS = 256, 1 << 20  # of a chunk

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
