"""The ``fedrad`` command."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

from fedrad import centralized
from fedrad.errors import DataError, FedradError
from fedrad.simulate import GridName
from fedrad.simulate import simulate as run_simulation

# Typer's own tracebacks print local variables, and those may hold reports (P27).
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated, private LoRA fine-tuning on reports.",
)

app.command("centralized")(centralized.main)


@app.command()
def simulate(
    name: Annotated[str, typer.Argument(help="mimic, ct_rate, openi, or the folder of a Flower app")] = "mimic",
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, as often as needed")] = None,
    out: Annotated[Path | None, typer.Option(help="run directory; default runs/<time>-<name>")] = None,
    grid: Annotated[
        GridName,
        typer.Option(
            help="inprocess: one hospital after the other; fused: all in one pass; flower: the real `flwr run`"
        ),
    ] = "inprocess",
    verbose: Annotated[bool, typer.Option("--verbose", help="show Flower's own log as well")] = False,
) -> None:
    """Simulate a federation of hospitals with Flower; exits with 0 only if the run finished."""
    with _errors():
        run_simulation(name, list(set_ or []), out, grid=grid, verbose=verbose)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="run directory, or its adapter folder")],
    reports: Annotated[Path, typer.Argument(help="CSV with one report a row")],
    column: Annotated[str, typer.Option(help="the column with the text")] = "text",
    out: Annotated[Path | None, typer.Option(help="where to write; default standard output")] = None,
) -> None:
    """Probabilities of a trained adapter for new reports: the CSV's other columns, then one column a label."""
    from fedrad.model.classifier import Classifier

    with _errors():
        if out is not None and out.exists():
            raise _exists(out)
        rows, names = _read_rows(reports, column)
        classifier = Classifier.load(run)
        probabilities = classifier.predict([row[column] for row in rows])
        kept = [name for name in names if name != column]
        file = sys.stdout if out is None else _new_file(out)
        try:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*kept, *classifier.labels])
            for row, values in zip(rows, probabilities, strict=True):
                writer.writerow([*(row[name] for name in kept), *(f"{value:.6f}" for value in values)])
        finally:
            if out is not None:
                file.close()


def _exists(path: Path) -> DataError:
    return DataError("exists already; nothing is overwritten.", file=path, remedy="Name another file.")


def _new_file(path: Path) -> TextIO:
    try:
        return path.open("x", newline="", encoding="utf-8")
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=path) from None


def _read_rows(path: Path, column: str) -> tuple[list[dict[str, str]], list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or [])
            if column not in names:
                raise DataError(
                    f"there is no column {column!r}; there are {', '.join(names) or 'none'}.",
                    file=path,
                    remedy="Name the text column with --column.",
                )
            rows = list(reader)
    except FileNotFoundError:
        raise DataError("no such file.", file=path) from None
    except UnicodeDecodeError:
        raise DataError("is not UTF-8.", file=path, remedy="Save it as UTF-8.") from None
    except csv.Error:
        raise DataError("is not a well-formed CSV.", file=path, remedy="Check the quotes.") from None
    for number, row in enumerate(rows, 1):
        if not (row.get(column) or "").strip() or None in row:
            raise DataError("empty report, or more fields than the header has.", file=path, row=number)
    return rows, names


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except FedradError as error:
        Console(stderr=True).print(f"fedrad: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    app()
