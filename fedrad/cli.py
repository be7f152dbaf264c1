"""The ``fedrad`` command."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer
from rich.console import Console

import fedrad
from fedrad.config import Experiment, parse_overrides, read_flat
from fedrad.errors import DataError, FedradError
from fedrad.settings import Data
from fedrad.settings import Model as ModelSettings

# What the commands need is imported inside them: torch and transformers take seconds, and --help, a typo or the ledger
# need neither.

# Typer's own tracebacks print local variables, and those may hold reports (P27).
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated, private LoRA fine-tuning on reports.",
)

_Grid = Literal["inprocess", "fused", "flower"]
_Set = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, as often as needed; keys: docs/configuration.md")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fedrad {fedrad.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    pass


@app.command()
def centralized(
    config: Annotated[
        Path | None, typer.Argument(help="a TOML file, e.g. mine.toml; without one, the defaults")
    ] = None,
    set_: _Set = None,
    out: Annotated[Path | None, typer.Option(help="run directory; default runs/<time>-<name>")] = None,
) -> None:
    """Train on all reports in one place, with differential privacy."""
    with _errors():
        from fedrad.centralized import main

        main(config, set_, out)


@app.command()
def simulate(
    name: Annotated[
        str, typer.Argument(help="mimic, ct_rate or openi, or the folder of a Flower app, e.g. ./my-app")
    ] = "mimic",
    config: Annotated[
        Path | None, typer.Option(help="a TOML file; its keys go before the app's, and --set before both")
    ] = None,
    set_: _Set = None,
    out: Annotated[Path | None, typer.Option(help="run directory; default runs/<time>-<name>")] = None,
    grid: Annotated[
        _Grid,
        typer.Option(
            help="inprocess: one hospital after the other; fused: all in one pass; flower: the real `flwr run`"
        ),
    ] = "inprocess",
    verbose: Annotated[bool, typer.Option("--verbose", help="show Flower's own log as well")] = False,
) -> None:
    """Simulate a federation of hospitals with Flower; exits with 0 only if the run finished."""
    with _errors():
        from fedrad.simulate import simulate as run

        run(name, list(set_ or []), out, config=config, grid=grid, verbose=verbose)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="run directory, e.g. runs/mine, or its adapter folder")],
    reports: Annotated[Path, typer.Argument(help="CSV with one report a row")],
    column: Annotated[
        str | None, typer.Option(help="the column with the text; default: the one that the run was trained on")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="where to write; default standard output")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one")] = "cpu",
) -> None:
    """Probabilities of a trained adapter for new reports: the CSV's other columns, then one column a label.

    A row without text keeps its place and gets no probabilities.
    """
    with _errors():
        from fedrad.data.files import check_columns, csv_table
        from fedrad.model.classifier import Classifier

        if out is not None and out.exists():
            raise _exists(out)
        classifier = Classifier.load(run, device=device)
        column = column or _text_column(run)
        names, numbered = csv_table(reports)
        (place,) = check_columns(reports, names, [column], remedy="Name the column with the text with --column.")
        rows = list(numbered)
        blank = [number for number, cells in rows if not cells[place].strip()]
        if blank:
            print(
                f"warning: {reports}: {len(blank):,} of {len(rows):,} rows have no text (first: row {blank[0]}):"
                " no probabilities for them.",
                file=sys.stderr,
            )
        found = iter(classifier.predict([cells[place] for _, cells in rows if cells[place].strip()]))
        file = sys.stdout if out is None else _new_file(out)
        try:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*_without(place, names), *classifier.labels])
            for _, cells in rows:
                values = (
                    [f"{value:.6f}" for value in next(found)] if cells[place].strip() else [""] * len(classifier.labels)
                )
                writer.writerow([*_without(place, cells), *values])
        finally:
            if out is not None:
                file.close()


@app.command()
def ledger(
    site_dir: Annotated[Path, typer.Argument(help="a hospital's state directory, or ledger/<site> of a run directory")],
    cap: Annotated[float | None, typer.Option(help="the hospital's epsilon cap, to see what is left")] = None,
    csv_: Annotated[Path | None, typer.Option("--csv", help="also write the charges to this new file")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON instead")] = False,
) -> None:
    """What a hospital was charged, what that spent, and what is left. Reads only, also while the hospital trains."""
    from fedrad.privacy.ledger_view import read_ledger
    from fedrad.report import budget

    with _errors():
        if csv_ is not None and csv_.exists():
            raise _exists(csv_)
        view = read_ledger(site_dir)
        curve, left = view.curve(), None if cap is None else view.left(cap)
        if csv_ is not None:
            with _new_file(csv_) as file:
                budget.write_ledger_csv(view, curve, file)
        if json_:
            _print_json(budget.ledger_json(view, curve, left))
            return
        console = _wide()
        if view.rows:
            console.print(budget.charges_table(view, curve))
        for text in (budget.curve_plot(curve), budget.ledger_lines(view, left)):
            console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def model(
    name: Annotated[str, typer.Argument(help="the embedded model's name, a hub id, or a folder")] = ModelSettings.name,
    revision: Annotated[str, typer.Option(help="commit of a hub id")] = "",
) -> None:
    """What a base model is, and the fingerprint by which a hospital pins it (node-config model-sha256)."""
    from fedrad.model.base import load_base

    with _errors():
        base = load_base(name, revision)
        print(f"name         {base.name}")
        print(f"family       {base.config.model_type}, {base.layers} layers, width {base.hidden}")
        print(f"max-length   {base.max_length}")
        print(f"fingerprint  {base.fingerprint}")


@app.command()
def plan(
    config: Annotated[Path | None, typer.Argument(help="a TOML file; without one, the defaults")] = None,
    set_: _Set = None,
    reports: Annotated[
        int | None, typer.Option(help="size that each hospital declares (patients, if those are the unit)")
    ] = None,
    labels: Annotated[int | None, typer.Option(help="outputs of the head; default: those of data.name")] = None,
    hospitals: Annotated[
        int | None,
        typer.Option(help="how many there are (sites.count); 1 judges one place, as centralized training is"),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON instead")] = False,
) -> None:
    """Before any training: what noise a configuration takes, how loud it is, and what to train instead."""
    from fedrad.outlook import outlook_of
    from fedrad.report import budget

    with _errors():
        overrides = [*(set_ or []), *([] if hospitals is None else [f"sites.count={hospitals}"])]
        experiment = Experiment.load(config, overrides).resolve_paths(Path.cwd())
        said = {**({} if config is None else read_flat(config)), **parse_overrides(overrides)}
        outlook = outlook_of(experiment, declared=reports, labels=labels)
        if json_:
            _print_json(budget.outlook_json(outlook))
            return
        console = _wide()
        text = budget.outlook_lines(outlook, assumed="sites.count" not in said)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if outlook.plan.private:
            console.print()
            console.print(budget.choices_table(outlook))


def _wide() -> Console:
    """Standard output; a pipe has no width, and 80 columns would break the tables."""
    return Console(width=None if sys.stdout.isatty() else 140)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _exists(path: Path) -> DataError:
    return DataError("exists already; nothing is overwritten.", file=path, remedy="Name another file.")


def _new_file(path: Path) -> TextIO:
    try:
        return path.open("x", newline="", encoding="utf-8")
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=path) from None


def _text_column(run: Path) -> str:
    """The column that a run read its reports from; ``run`` is its directory or the adapter folder in it."""
    from fedrad.model.export import MANIFEST

    file = (run.resolve().parent if (run / MANIFEST).is_file() else run) / "experiment.toml"
    flat = read_flat(file) if file.is_file() else {}
    return str(flat.get("data.text-column") or Data.text_column)


def _without(place: int, cells: list[str]) -> list[str]:
    return cells[:place] + cells[place + 1 :]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except FedradError as error:
        Console(stderr=True).print(f"fedrad: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("fedrad: interrupted; nothing is finished. What was charged is in the ledgers.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app()
