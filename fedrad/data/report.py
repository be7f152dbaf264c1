"""The columns of a report, and the Arrow file that stores a corpus.

| column  | type | meaning |
|---|---|---|
| text    | string | the reading, white space normalised, never empty |
| labels  | struct of int8, one per label name | multi-label: 1 positive, 0 negative, -1 masked out of loss and score |
|         | ClassLabel | single-label: one class |
| patient | string | the same for all reports of a person |
| site    | string | hospital, "" if unknown |
| time    | string | ISO-like, so that sorting strings sorts by time, "" if unknown |
| split   | string | "train", "validate" or "test" as published, "" if there is none |

Rows are written to disk one by one and then memory-mapped, so memory use does not grow with the corpus.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrad.errors import ConfigError, DataError
from fedrad.files import whole_file

Row = dict[str, Any]
Warn = Callable[[str], None]

_ROWS_AT_ONCE = 1000


def row_of(
    text: str, labels: int | dict[str, int], patient: str, *, site: str = "", time: str = "", split: str = ""
) -> Row:
    """A report with the columns described above."""
    return {"text": text, "labels": labels, "patient": patient, "site": site, "time": time, "split": split}


def value_of_doubt(uncertain: str) -> int:
    """The value of an uncertain label: 0 negative, 1 positive, -1 masked out of loss and score.

    Args:
        uncertain: "negative" (the default), "positive" or "ignore".
    Raises:
        ConfigError: another word.
    """
    values = {"negative": 0, "positive": 1, "ignore": -1}
    if uncertain not in values:
        raise ConfigError(f"data.uncertain must be one of {', '.join(values)}")
    return values[uncertain]


class Source(NamedTuple):
    """A corpus whose files were found. Every reader's function ``source`` returns one.

    Attributes:
        files: files or folders that are read; the cache depends on their sizes and times.
        read: returns (the columns, the rows in the order of the files), and calls its argument with each warning.
            Raises DataError if something is damaged, contradictory or out of range.
        remedy: advice if no report can be used.
    """

    files: Sequence[Path]
    read: Callable[[Warn], tuple[datasets.Features, Iterator[Row]]]
    remedy: str = "Use the files of one release, as they are published."


class DataWarning(UserWarning):
    """Something in a corpus was left out or looks odd. Names file, count and first place; quotes no text."""


def warn(message: str) -> None:
    """Issues a ``DataWarning``."""
    warnings.warn(message, DataWarning, stacklevel=3)


@contextmanager
def silent() -> Iterator[None]:
    """Within it, no ``DataWarning`` is shown: for who lists them otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        yield


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Shows each ``DataWarning`` once, as a line ``warning: ...`` on standard error.

    For commands: Python's own format quotes a line of our source, which does not help users. Other warnings are not
    affected.
    """
    with warnings.catch_warnings():
        others, said = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
            if not issubclass(category, DataWarning):
                others(message, category, *where, **how)
            elif str(message) not in said:  # the server and the hospitals of a simulation read the same corpus
                said.add(str(message))
                print(f"warning: {message}", file=sys.stderr, flush=True)

        warnings.showwarning = show
        yield


def FEATURES(label_names: Sequence[str] = (), *, class_names: Sequence[str] = ()) -> datasets.Features:  # noqa: N802
    """The columns of a corpus: multi-label with ``label_names``, or single-label with ``class_names``.

    Raises:
        ValueError: neither or both are given.
    """
    if bool(label_names) == bool(class_names):
        raise ValueError("give either label_names (multi-label) or class_names (single-label)")
    if class_names:
        labels: Any = datasets.ClassLabel(names=list(class_names))
    else:
        labels = {name: datasets.Value("int8") for name in label_names}
    text = datasets.Value("string")
    return datasets.Features(
        {"text": text, "labels": labels, "patient": text, "site": text, "time": text, "split": text}
    )


def is_single_label(features: datasets.Features) -> bool:
    """Whether each report has exactly one class."""
    return isinstance(features["labels"], datasets.ClassLabel)


def label_names(features: datasets.Features) -> tuple[str, ...]:
    """The label (or class) names in the order of ``label_matrix``'s columns."""
    labels = features["labels"]
    return tuple(labels.names) if isinstance(labels, datasets.ClassLabel) else tuple(labels)


def label_matrix(ds: datasets.Dataset) -> NDArray[np.int8]:
    """All labels, int8 [n, L]: 1 positive, 0 negative, -1 masked; single-label as one-hot. Texts are not read."""
    names = label_names(ds.features)
    column = arrow_column(ds, "labels")
    matrix = np.empty((len(ds), len(names)), dtype=np.int8)
    if is_single_label(ds.features):
        matrix[:] = np.asarray(column)[:, None] == np.arange(len(names))
    else:
        for k, values in enumerate(column.flatten()):
            matrix[:, k] = np.asarray(values)
    return matrix


def arrow_column(ds: datasets.Dataset, name: str) -> pa.Array:
    """One column of [n] values as an Arrow array, without touching the other columns."""
    if len(ds) == 0:
        return pa.array([], type=ds.features.arrow_schema.field(name).type)
    table: pa.Table = ds.select_columns([name]).with_format("arrow")[:]
    return table.column(name).combine_chunks()


class NothingLeft(DataError):
    """A corpus has no usable report. Callers that know the source add the reason."""


def write_reports(rows: Iterable[Row], features: datasets.Features, path: Path) -> datasets.Dataset:
    """Streams rows into an Arrow file at ``path`` (mode 0600), which appears whole or not at all, and memory-maps it.

    Args:
        rows: as described at the top of this module.
        features: from ``FEATURES``.
        path: in a folder that exists.
    Raises:
        NothingLeft: there are no rows.
        DataError: a row does not fit the features. Errors from ``rows`` pass through.
    """
    schema = features.arrow_schema
    stream, count = iter(rows), 0
    with whole_file(path, durable=True, shared=True) as file:
        with pa.ipc.new_stream(file, schema) as writer:
            while chunk := list(islice(stream, _ROWS_AT_ONCE)):
                writer.write_batch(_record_batch(chunk, schema, count))
                count += len(chunk)
        if count == 0:
            raise NothingLeft("no report is left to use.")
    return datasets.Dataset.from_file(str(path))


def _record_batch(chunk: list[Row], schema: pa.Schema, before: int) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_pylist(chunk, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass  # Arrow's message quotes the value, so it must not even be the cause of ours
    raise DataError(f"one of the rows {before + 1} to {before + len(chunk)} does not fit the columns of a corpus.")


class Oddities:
    """Counts the reports of ``file`` that are left out or look odd. Each kind is one warning, with its first place."""

    def __init__(self, file: object) -> None:
        self.file = file
        self.found: dict[str, tuple[int, object]] = {}

    def add(self, kind: str, row: object) -> None:
        """Counts one report. ``kind`` is like "left out: no text"; ``row`` is its row number or file name."""
        count, first = self.found.get(kind, (0, f"row {row}" if isinstance(row, int) else row))
        self.found[kind] = count + 1, first

    def tell(self, warn: Warn) -> None:
        """Warns of each kind, starting with reports that are left out."""
        for kind in sorted(self.found, key=lambda kind: not kind.startswith("left out")):
            count, first = self.found[kind]
            warn(f"{self.file}: {_count(count)} {kind} (first: {first}).")


def _count(reports: int) -> str:
    return "1 report" if reports == 1 else f"{reports:,} reports"


def count_copies(rows: Iterable[tuple[int, Row]], file: object, warn: Warn, place: str = "row {}") -> Iterator[Row]:
    """Passes rows through, and at the end warns of texts that occur more than once for the same patient.

    Copies are kept: each is a report. But report-level privacy covers one copy only, which the user should know.

    Args:
        rows: each with its number in ``file``.
        place: what to call the row with that number.
    """
    seen: dict[bytes, int] = {}
    copies, first = 0, ""
    for number, row in rows:
        digest = blake2b(f"{row['patient']}\0{row['text']}".encode(), digest_size=8).digest()
        original = seen.setdefault(digest, number)
        if original != number:
            copies += 1
            first = first or f"{place.format(number)}, like {place.format(original)}"
        yield row
    if copies:
        warn(
            f"{file}: {_count(copies)} with the same text as another of the same patient (first: {first}). "
            "All are kept, but the privacy unit 'report' protects one copy only."
        )
