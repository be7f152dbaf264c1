"""``fedrad predict``: reads a table of reports and writes the same rows with probabilities, chunk by chunk.

The file is read twice. The first pass finds all errors before anything is predicted. The second holds one chunk in
memory and flushes it before the next, so that its rows survive if the process dies. An output file gets its final name
when it is complete.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedrad.data.cells import joined
from fedrad.data.columns import check_columns
from fedrad.data.table_options import Form
from fedrad.data.tabular import cells_of, header_of
from fedrad.errors import DataError
from fedrad.keys import read_flat
from fedrad.model.folder import MANIFEST
from fedrad.settings_data import Data

if TYPE_CHECKING:
    from fedrad.data.parquet_file import Kind

# Size of a chunk. Sorting by length within a chunk is nearly as good as over the file. The first chunks are smaller, to
# show output soon.
_FIRST_ROWS, _ROWS, _CHARACTERS = 32, 512, 1 << 23
_SECONDS = 30.0  # between lines of progress if standard error is not a terminal

Rows = Iterator[tuple[int, list[str]]]
Write = Callable[[list[list[str]]], None]


def predict(
    run: Path,
    reports: Path,
    column: str | None,
    out: Path | None,
    device: str,
    separator: str | None = None,
    encoding: str | None = None,
) -> None:
    """Writes the rows of ``reports`` without their text, followed by a probability for each label.

    The new columns have the names of the labels. A column of the file with such a name is renamed to ``NAME (input)``.

    Args:
        column: of the texts; default: the one that the run was trained on.
        out: a new file; None means standard output.
        separator, encoding: of a CSV file, as in ``Form``; None: those that the run was trained with.
    Raises:
        ModelError: the run can't be used.
        DataError: the file can't be read, or ``out`` can't be written.
        BrokenPipeError: the reader of standard output is gone.
    """
    if out is not None:
        _check_free(out)
        _check_free(_partial(out))
        if not out.absolute().parent.is_dir():
            raise DataError("there is no such folder.", file=out.absolute().parent, remedy="Make it, or name another.")
    settings = _settings(run)
    column = column or settings.text_column
    form = Form(separator or settings.separator, encoding or settings.encoding)
    header = header_of(reports, form)
    (place,) = check_columns(reports, header, [column], remedy="Name the column with the text with --column.")
    kinds: list[tuple[int, Kind]] = [(k, "text" if k == place else "any") for k in range(len(header))]
    count = _look_through(reports, kinds, place, form)
    from fedrad.tasks.classifier import Classifier  # torch takes seconds to import, and the checks above don't need it

    classifier = Classifier.load(run, device=device)
    names = output_names([*header[:place], *header[place + 1 :]], classifier.labels)
    with _output(out) as write, _progress(count, to_terminal=out is None and sys.stdout.isatty()) as tell:
        write([names])
        for rows in _chunks(cells_of(reports, kinds, form)):
            texts = [joined([cells[place]])[0] for cells in rows]
            found = iter(classifier.predict([text for text in texts if text]))
            nothing = [""] * len(classifier.labels)
            values = [[classifier.task.cell(value) for value in next(found)] if text else nothing for text in texts]
            write([[*cells[:place], *cells[place + 1 :], *row] for cells, row in zip(rows, values, strict=True)])
            tell(len(rows))


def output_names(columns: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The header of the output: the file's columns, then the labels, without duplicates."""
    taken, names = set(labels), []
    for column in columns:
        name, again = column, 1
        while name in taken:
            name, again = f"{column} (input{f' {again}' if again > 1 else ''})", again + 1
        taken.add(name)
        names.append(name)
    return [*names, *labels]


def _look_through(reports: Path, kinds: list[tuple[int, Kind]], place: int, form: Form) -> int:
    """Counts the rows, and warns of those without text. Raises DataError if a row can't be read."""
    count, blank, first = 0, 0, 0
    for row, cells in cells_of(reports, kinds, form):
        count += 1
        if not joined([cells[place]])[0]:
            blank, first = blank + 1, first or row
    if blank:
        print(
            f"warning: {reports}: {blank:,} of {count:,} rows have no text (first: row {first}):"
            " no probabilities for them.",
            file=sys.stderr,
            flush=True,
        )
    return count


def _chunks(rows: Rows) -> Iterator[list[list[str]]]:
    chunk: list[list[str]] = []
    size, most = 0, min(_FIRST_ROWS, _ROWS)
    for _, cells in rows:
        chunk.append(cells)
        size += sum(map(len, cells))
        if len(chunk) == most or size > _CHARACTERS:
            yield chunk
            chunk, size, most = [], 0, min(2 * most, _ROWS)
    if chunk:
        yield chunk


@contextmanager
def _output(out: Path | None) -> Iterator[Write]:
    """A function that writes and flushes rows. The file is called ``OUT.partial`` until it is complete."""
    try:
        if out is None:
            yield _writer(sys.stdout)
            return
        with _partial(out).open("x", newline="", encoding="utf-8") as file:
            try:
                yield _writer(file)
                os.fsync(file.fileno())
            except BaseException:
                print(f"fedrad: what was predicted so far is in {_partial(out)}", file=sys.stderr, flush=True)
                raise
        _check_free(out)
        _partial(out).rename(out)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=out or "standard output") from None


def _writer(file: TextIO) -> Write:
    rows = csv.writer(file, lineterminator="\n")

    def write(lines: list[list[str]]) -> None:
        rows.writerows(lines)
        file.flush()

    return write


@contextmanager
def _progress(total: int, to_terminal: bool) -> Iterator[Callable[[int], None]]:
    """A function that shows progress on standard error: a bar on a terminal, otherwise a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal and to_terminal:
        yield lambda _: None  # the probabilities are on the same screen
    elif console.is_terminal:
        columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TextColumn("reports,"))
        with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield _teller(total)


def _teller(total: int) -> Callable[[int], None]:
    start = said = time.monotonic()
    done = 0

    def tell(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= _SECONDS and done < total:
            left = (now - start) / done * (total - done)
            print(
                f"predict: {done:,} of {total:,} reports, about {left / 60:.0f} min left", file=sys.stderr, flush=True
            )
            said = now

    return tell


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _check_free(path: Path) -> None:
    if path.exists():
        raise DataError("exists already; nothing is overwritten.", file=path, remedy="Move it, or name another file.")


def _settings(run: Path) -> Data:
    """How a run's table was read: its column of texts, and how it is written; ``run`` is the directory or the adapter
    folder in it."""
    file = (run.resolve().parent if (run / MANIFEST).is_file() else run) / "experiment.toml"
    flat = read_flat(file) if file.is_file() else {}
    given = (str(flat.get(f"data.{key}", "")) for key in ("text-column", "separator", "encoding"))
    text, separator, encoding = given
    return Data(
        text_column=text or Data.text_column,
        separator=separator or Data.separator,
        encoding=encoding or Data.encoding,
    )
