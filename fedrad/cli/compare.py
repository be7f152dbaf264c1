"""``fedrad compare``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedrad.cli.output import reporting_errors, wide

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 25


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS_OR_SWEEP...")],
    by: Annotated[str, typer.Option(help="the swept key whose values are compared; default the first")] = "",
    baseline: Annotated[str, typer.Option(help="its value to compare with, or a floor; default the first")] = "",
    margin: Annotated[float, typer.Option(help="weighted F1 that would count as a loss; state it beforehand")] = 0.01,
    draws: Annotated[int, typer.Option(min=100, help="of the bootstrap and of the randomisation")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="of both")] = 0,
    json_: Annotated[Path | None, typer.Option("--json", help="also write everything to this file")] = None,
    csv_: Annotated[Path | None, typer.Option("--csv", help="also write the differences to this file")] = None,
    plot: Annotated[Path | None, typer.Option(help="also draw pictures (SVG, PNG) into this folder")] = None,
) -> None:
    """Means and intervals over seeds, and which differences are more than chance.

    RUNS_OR_SWEEP is the folder of a sweep, or run directories made with run.predictions=true. docs/experiments.md says
    what each test is of.
    """
    with reporting_errors():
        from fedrad.experiments.compare import compare as run
        from fedrad.experiments.runs import conditions_of, load_runs
        from fedrad.files import USUAL, write_whole

        axes, found = load_runs(runs)
        result = run(axes, conditions_of(found), by=by, baseline=baseline, margin=margin, draws=draws, seed=seed)
        console = wide()
        _show(console, "weighted F1, with 95% intervals over seeds and patients", result.scores)
        title = f"differences to the baseline, paired by seed and patient; margin of loss {margin:g}"
        _show(console, title, result.differences.drop(columns=["margin", "p rank min"], errors="ignore"))
        if len(result.mcnemar):
            few = result.mcnemar.sort_values("exact Holm", kind="stable")
            _show(console, "McNemar, label by label, over all seeds, clustered by patient; smallest p first", few)
        for warning in result.warnings:
            console.print(f"note: {warning}", style="yellow", highlight=False, soft_wrap=True)
        if json_ is not None:
            content = json.dumps(result.as_dict(), indent=1, allow_nan=False) + "\n"
            write_whole(json_, content.encode(), durable=False, mode=USUAL)
        if csv_ is not None:
            write_whole(csv_, result.differences.to_csv(index=False).encode(), durable=False, mode=USUAL)
        if plot is not None:
            from fedrad.experiments.plots import plot as draw

            for file in draw(result, axes, plot):
                console.print(str(file), highlight=False, soft_wrap=True)


def _show(console: Console, title: str, table: pd.DataFrame) -> None:
    if not len(table):
        return
    shown = Table(title=title, title_justify="left", box=None, header_style="bold")
    columns: Sequence[str] = [name for name in table.columns if table[name].notna().any() and table[name].any()]
    for name in columns:
        shown.add_column(name, justify="left" if table[name].dtype == object else "right")
    for record in table.head(_SHOWN)[list(columns)].to_dict("records"):
        shown.add_row(*(Text(_cell(value)) for value in record.values()))
    if len(table) > _SHOWN:
        shown.add_row(f"... {len(table) - _SHOWN} more with --json")
    console.print(shown)
    console.print()


def _cell(value: Any) -> str:
    return "" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else str(value)
