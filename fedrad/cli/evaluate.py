"""``fedrad evaluate``: a trained run on labelled reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from fedrad.cli.output import reporting_errors
from fedrad.errors import ConfigError, DataError
from fedrad.files import PRIVATE, write_whole
from fedrad.keys import parse_overrides
from fedrad.model.folder import adapter_folder

_WIDTH = 220  # of a pipe, so that no figure is cut off


def evaluate(
    run: Annotated[Path, typer.Argument()],
    source: Annotated[Path, typer.Argument()],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="data.key=value, in place of the run's own, as often as needed")
    ] = None,
    map_: Annotated[str, typer.Option("--map", help="what words in the label columns mean: yes=1,no=0")] = "",
    thresholds: Annotated[
        Literal["half", "best"], typer.Option(help="half: 1/2; best: chosen on these reports, which is optimistic")
    ] = "half",
    everything: Annotated[bool, typer.Option("--all", help="also reports that the run was trained on")] = False,
    resamples: Annotated[int, typer.Option(min=0, help="of the bootstrap by patient; 0: no intervals")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="of the bootstrap")] = 0,
    json_: Annotated[Path | None, typer.Option("--json", help="also write all figures to this new file")] = None,
    html: Annotated[Path | None, typer.Option(help="also write a page to this new file")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="also write each report's labels and probabilities to this new .csv or .parquet file"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one")] = "cpu",
    abstain_below: Annotated[
        float,
        typer.Option(min=0, max=1, help="of classes: also how many answers are left, and right, at this threshold"),
    ] = 0.0,
    generate: Annotated[
        int, typer.Option(min=0, help="of a decoder: also judge what it writes freely, in at most so many tokens")
    ] = 0,
) -> None:
    """Scores of a trained run on labelled reports, with 95% intervals by patient.

    RUN is a run directory, e.g. runs/mine, or its adapter folder; SOURCE is a corpus folder or a table of reports with
    their labels. How a table is read is as in the run, unless --set says otherwise.

    Of the source that the run was trained on, only its test reports are taken. Nothing leaves this machine; scores of
    private reports are a release that the run's epsilon does not cover.
    """
    with reporting_errors():
        overrides = parse_overrides([*(set_ or []), *([f"data.map={map_}"] if map_ else [])])
        adapter_folder(run)
        if not source.exists():
            raise DataError("there is no such file or folder.", file=source)
        for path in (json_, html, predictions):
            _check_new(path)
        from fedrad.data.report import warnings_as_lines
        from fedrad.evaluate import evaluate as run_evaluate
        from fedrad.evidence.predictions import write_predictions
        from fedrad.report.evaluation import evaluation_html, evaluation_json, evaluation_tables
        from fedrad.tasks.predicted import Asked

        with Progress(console=Console(stderr=True), transient=True) as bar, warnings_as_lines():
            task = bar.add_task("predicting", total=None)
            found = run_evaluate(
                run,
                source,
                overrides,
                best=thresholds == "best",
                everything=everything,
                resamples=resamples,
                seed=seed,
                device=device,
                asked=Asked(abstain_below, generate),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        page = evaluation_html(found).encode() if html is not None else b""
        console, scores = Console(width=None if sys.stdout.isatty() else _WIDTH), found.scores
        lines = (
            f"run: {found.run} ({found.task})",
            f"privacy of the run: {found.privacy}",
            f"reports: {found.source}: {found.which}, {scores.reports:,} of {scores.patients:,} patients",
        )
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
        for table in evaluation_tables(found):
            console.print()
            console.print(table)
        console.print()
        if scores.resamples:
            console.print(f"In brackets: 95% intervals, from {scores.resamples:,} resamples of the patients.")
        for note in found.notes:
            console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
        if json_ is not None:
            _write(json_, (json.dumps(evaluation_json(found), indent=2, allow_nan=False) + "\n").encode())
        if html is not None:
            _write(html, page)
        if predictions is not None:
            write_predictions(found.predictions, predictions)


def _check_new(path: Path | None) -> None:
    """Said before anything is computed."""
    if path is None:
        return
    if path.exists():
        raise DataError("exists already; nothing is overwritten.", file=path, remedy="Name another file.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.absolute().parent}")


def _write(path: Path, content: bytes) -> None:
    """Scores may be of private reports: the owner decides who else reads them."""
    try:
        write_whole(path, content, durable=True, mode=PRIVATE)
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=path) from None
