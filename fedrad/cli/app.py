"""The ``fedrad`` command."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import fedrad
from fedrad.cli.audit import audit
from fedrad.cli.base import base_app
from fedrad.cli.budget import ledger, plan
from fedrad.cli.certificate import certificate_app
from fedrad.cli.compare import compare
from fedrad.cli.data import data_app
from fedrad.cli.evaluate import evaluate
from fedrad.cli.output import Settings, let_threads_sleep, reporting_errors
from fedrad.cli.privatise import privatise
from fedrad.cli.report import export, report
from fedrad.cli.sweep import sweep
from fedrad.config import Experiment
from fedrad.errors import ConfigError, DataError
from fedrad.settings import Model as ModelSettings
from fedrad.simulation.apps import app_folder

# What the commands need is imported inside them, once all that can be checked without it has been found in order: torch
# and transformers take seconds. tests/cli/test_app.py holds which command imports what.

# Typer's own tracebacks print local variables, and those may hold reports (P27).
_COMMON: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "suggest_commands": False,  # click does
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(no_args_is_help=True, help="Federated, private LoRA fine-tuning on reports.", **_COMMON)

# What an argument is stands in the command's description: typer 0.20 loses its `help` under click 8.5.
_Grid = Literal["inprocess", "fused", "flower"]

_Resume = Annotated[
    Path | None,
    typer.Option(help="go on with the unfinished run in this directory, from its last finished round"),
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
    let_threads_sleep()


@app.command()
def centralized(
    config: Annotated[Path | None, typer.Argument()] = None,
    set_: Settings = None,
    out: Annotated[Path | None, typer.Option(help="run directory; default runs/<time>-<name>")] = None,
    resume: _Resume = None,
) -> None:
    """Train on all reports in one place, with differential privacy.

    CONFIG is a TOML file, e.g. mine.toml; without one, the defaults.
    """
    with reporting_errors():
        Experiment.load(config, list(set_ or []))
        _alone(resume, config, set_, out)
        from fedrad.simulation.centralized import main

        main(config, set_, out, resume)


def centralized_alone() -> None:
    """``python -m fedrad.centralized``: that command by itself."""
    let_threads_sleep()
    alone = typer.Typer(**_COMMON)
    alone.command()(centralized)
    alone(prog_name="python -m fedrad.centralized")


@app.command()
def simulate(
    name: Annotated[str | None, typer.Argument(show_default="mimic")] = None,
    config: Annotated[
        Path | None, typer.Option(help="a TOML file; its keys go before the app's, and --set before both")
    ] = None,
    set_: Settings = None,
    out: Annotated[Path | None, typer.Option(help="run directory; default runs/<time>-<name>")] = None,
    grid: Annotated[
        _Grid | None,
        typer.Option(
            help="inprocess: one hospital after the other; fused: all in one pass; flower: the real `flwr run`",
            show_default="inprocess",
        ),
    ] = None,
    resume: _Resume = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="show Flower's own log as well")] = False,
) -> None:
    """Simulate a federation of hospitals with Flower; exits with 0 only if the run finished.

    NAME is mimic, ct_rate, openi or protocol, or the folder of a Flower app, e.g. ./my-app.
    """
    with reporting_errors():
        _alone(resume, name, config, set_, out, grid)
        from fedrad.simulation.simulate import resume as go_on
        from fedrad.simulation.simulate import simulate as run

        if resume is not None:
            go_on(resume, verbose=verbose)
        else:
            run(name or "mimic", list(set_ or []), out, config=config, grid=grid or "inprocess", verbose=verbose)


@app.command("app")
def app_(name: Annotated[str, typer.Argument()] = "mimic") -> None:
    """Print the folder of a simulation app, for `flwr run` or to copy.

    NAME is mimic, ct_rate, openi or protocol. For example: flwr run "$(fedrad app mimic)" --stream
    """
    with reporting_errors():
        print(app_folder(name))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument()],
    reports: Annotated[Path, typer.Argument()],
    output: Annotated[Path | None, typer.Argument()] = None,
    column: Annotated[
        str | None, typer.Option(help="the column with the text; default: the one that the run was trained on")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="where to write; default standard output")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one")] = "cpu",
    separator: Annotated[
        Literal["auto", ",", ";", "tab"] | None,
        typer.Option(help="between the cells of a CSV file; default: the run's"),
    ] = None,
    encoding: Annotated[
        Literal["utf-8", "cp1252", "latin-1"] | None, typer.Option(help="of a CSV file; default: the run's")
    ] = None,
    engine: Annotated[
        Literal["local", "spark"], typer.Option(help="local: this process; spark: the workers of Apache Spark")
    ] = "local",
    abstain_below: Annotated[
        float, typer.Option(min=0, max=1, help="no answer where the most probable class is less probable than this")
    ] = 0.0,
    generate: Annotated[
        int, typer.Option(min=0, help="of a decoder: also what it writes freely, in at most so many tokens")
    ] = 0,
    tracking_uri: Annotated[
        str, typer.Option(help="of a registered model; default: MLFLOW_TRACKING_URI, or MLflow's own default")
    ] = "",
) -> None:
    """Probabilities of a trained adapter for new reports: the table's other columns, then one column a label, as CSV.

    Where a report has one class, `answer` comes before them: the most probable class, or nothing below --abstain-below.

    RUN is a run directory, e.g. runs/mine, its adapter folder, or a registered MLflow model, models:/fedrad@champion,
    and then the tracking server notes who predicted with which version. REPORTS is a CSV, Parquet or Excel file with
    one report a row; OUTPUT is where to write, as --out.

    A row without text keeps its place and gets no probabilities. A column that is called like a new one becomes
    "NAME (input)". Rows are written as they are ready; a file is OUTPUT.partial until it is whole, and only its owner
    may read it.
    """
    with reporting_errors():
        from fedrad.model.folder import adapter_folder
        from fedrad.report.served import SCHEME, served

        if output is not None and out is not None:
            raise ConfigError("OUTPUT and --out name two files; name one")
        registered = str(run).startswith(SCHEME)
        if not registered:
            adapter_folder(run)
        if not reports.exists():
            raise DataError("there is no such file.", file=reports)
        from fedrad.predict import predict as run_predict

        facts = {"input": reports.name, "engine": engine, "abstain_below": abstain_below, "generate": generate}
        record = served(str(run), tracking_uri, facts) if registered else nullcontext((run, lambda rows: None))
        try:
            with record as (directory, done):
                rows = run_predict(
                    directory,
                    reports,
                    column,
                    output or out,
                    device,
                    separator,
                    encoding,
                    engine=engine,
                    abstain_below=abstain_below,
                    generate=generate,
                )
                done(rows)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered has nowhere to go
            sys.exit(128 + signal.SIGPIPE)


@app.command()
def model(
    name: Annotated[str, typer.Argument()] = ModelSettings.name,
    revision: Annotated[str, typer.Option(help="commit of a hub id")] = "",
) -> None:
    """What a base model is, and the fingerprint by which a hospital pins it (node-config model-sha256).

    NAME is the embedded model's name, a hub id, or a folder.
    """
    from fedrad.model.base import load_base

    with reporting_errors():
        base = load_base(name, revision)
        print(f"name         {base.name}")
        print(f"family       {base.config.model_type}, {base.layers} layers, width {base.hidden}")
        print(f"max-length   {base.max_length}")
        print(f"fingerprint  {base.fingerprint}")


def _alone(resume: Path | None, *others: object) -> None:
    """Refuses settings beside --resume, which takes all of them from the run's directory."""
    if resume is not None and any(others):
        raise ConfigError("--resume takes all settings from the run's directory: give nothing else, except --verbose")


for command in (plan, ledger, evaluate, compare, sweep, audit, report, export, privatise):
    app.command()(command)
app.add_typer(data_app, name="data")
app.add_typer(base_app, name="base")
app.add_typer(certificate_app, name="certificate")


if __name__ == "__main__":
    app()
