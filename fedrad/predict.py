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
from typing import TYPE_CHECKING, Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedrad.data.cells import joined
from fedrad.data.columns import check_columns
from fedrad.data.table_options import Form
from fedrad.data.tabular import cells_of, header_of
from fedrad.errors import DataError
from fedrad.files import PRIVATE
from fedrad.keys import read_flat
from fedrad.model.folder import MANIFEST
from fedrad.settings_data import Data

if TYPE_CHECKING:
    from fedrad.data.parquet_file import Kind
    from fedrad.tasks.predicted import Asked, Predicted

# Size of a chunk. Sorting by length within a chunk is nearly as good as over the file. The first chunks are smaller, to
# show output soon; Spark gets larger ones, which it spreads over its workers.
_FIRST_ROWS, _ROWS, _CHARACTERS = 32, 512, 1 << 23
_SPARK_ROWS, _SPARK_CHARACTERS = 1 << 14, 1 << 26
_NAMED = 10  # rows without text that a warning names
_SECONDS = 30.0  # between lines of progress if standard error is not a terminal

Rows = Iterator[tuple[int, list[str]]]
Write = Callable[[list[list[str]]], None]
Engine = Literal["local", "spark"]


def predict(
    run: Path,
    reports: Path,
    column: str | None,
    out: Path | None,
    device: str,
    separator: str | None = None,
    encoding: str | None = None,
    *,
    engine: Engine = "local",
    abstain_below: float = 0.0,
    generate: int = 0,
) -> int:
    """Writes the rows of ``reports`` without their text, followed by what is predicted.

    The new columns are those of ``text_columns`` and a probability for each label, under the labels' names. A column of
    the file with such a name is renamed to ``NAME (input)``.

    Args:
        column: of the texts; default: the one that the run was trained on.
        out: a new file, readable by its owner only; None means standard output.
        separator, encoding: of a CSV file, as in ``Form``; None: those that the run was trained with.
        engine: ``local`` or ``spark``, which gives the same up to rounding.
        abstain_below, generate: as in ``Asked``.
    Returns:
        the number of rows.
    Raises:
        ConfigError: the run does not answer what is asked for, or Spark is not there.
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
    # torch takes seconds to import, and the checks above don't need it
    from fedrad.tasks.classifier import task_of_run
    from fedrad.tasks.predicted import Asked, text_columns

    task, asked = task_of_run(run), Asked(abstain_below, generate)
    new = [*text_columns(task, asked), *task.columns]
    names = output_names([*header[:place], *header[place + 1 :]], new)
    with (
        _engine(engine, run, asked, device) as ask,
        _output(out) as write,
        _progress(count, to_terminal=out is None and sys.stdout.isatty()) as tell,
    ):
        write([names])
        for rows in _chunks(cells_of(reports, kinds, form), engine):
            texts = [joined([cells[place]])[0] for cells in rows]
            found = ask([text for text in texts if text])
            numbers = ([task.cell(value) for value in line] for line in found.probabilities)
            lines = ([*said, *line] for *said, line in zip(*found.texts, numbers, strict=True))
            values = [next(lines) if text else [""] * len(new) for text in texts]
            write([[*cells[:place], *cells[place + 1 :], *row] for cells, row in zip(rows, values, strict=True)])
            tell(len(rows))
    return count


@contextmanager
def _engine(name: Engine, run: Path, asked: Asked, device: str) -> Iterator[Callable[[Sequence[str]], Predicted]]:
    """What predicts texts: this process, or Spark."""
    if name == "spark":
        from fedrad.spark import spark_engine

        with spark_engine(run, asked, device) as ask:
            yield ask
        return
    from fedrad.tasks.classifier import Classifier
    from fedrad.tasks.predicted import predicted

    classifier = Classifier.load(run, device=device)
    yield lambda texts: predicted(classifier, texts, asked)


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
    count, blank, named = 0, 0, list[int]()
    for row, cells in cells_of(reports, kinds, form):
        count += 1
        if not joined([cells[place]])[0]:
            blank += 1
            if len(named) < _NAMED:
                named.append(row)
    if blank:
        more = ", ..." if blank > len(named) else ""
        print(
            f"warning: {reports}: {blank:,} of {count:,} rows have no text (rows {', '.join(map(str, named))}{more}):"
            " nothing is predicted for them.",
            file=sys.stderr,
            flush=True,
        )
    return count


def _chunks(rows: Rows, engine: Engine) -> Iterator[list[list[str]]]:
    chunk: list[list[str]] = []
    first, last, characters = _FIRST_ROWS, _ROWS, _CHARACTERS
    if engine == "spark":
        first, last, characters = _SPARK_ROWS, _SPARK_ROWS, _SPARK_CHARACTERS
    size, most = 0, min(first, last)
    for _, cells in rows:
        chunk.append(cells)
        size += sum(map(len, cells))
        if len(chunk) == most or size > characters:
            yield chunk
            chunk, size, most = [], 0, min(2 * most, last)
    if chunk:
        yield chunk


@contextmanager
def _output(out: Path | None) -> Iterator[Write]:
    """A function that writes and flushes rows. The file is called ``OUT.partial`` until it is complete."""
    try:
        if out is None:
            yield _writer(sys.stdout)
            return
        descriptor = os.open(_partial(out), os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE)
        with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as file:
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
