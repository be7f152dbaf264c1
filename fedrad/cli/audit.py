"""``fedrad audit``: the privacy claims, tried out."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedrad.cli.output import reporting_errors
from fedrad.config import Experiment
from fedrad.errors import ConfigError, DataError

TITLES = {
    "membership": "membership inference on the final adapter (LiRA, offline)",
    "retrieval": "which of the candidates was in the shard, by a hospital's answer to the first round",
    "risk": "the most that any attack on one report achieves",
}
# What --attacks trains unless --set says otherwise: small, so that it takes minutes.
ATTACKED = ("data.reports=500", "data.max-length=64", "lora.targets=")


def audit(
    quick: Annotated[bool, typer.Option("--quick", help="fewer canaries and shards: a minute or two")] = False,
    attacks: Annotated[
        bool, typer.Option("--attacks", help="instead: what attacks on the adapter and on a round achieve; no verdict")
    ] = False,
    decoder: Annotated[
        str, typer.Option(help="audit a decoder alone, with more controls: `random`, or as model.name: smollm2")
    ] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value of what --attacks trains, as often as needed")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for audit.json; nothing in it is overwritten")] = None,
) -> None:
    """Attack the real training path and see that no claim is refuted, and that broken paths are caught.

    Exits with 0 only if every lower bound of epsilon is below its claim and every negative control was caught; the last
    line says so. Everything is trained on generated reports.
    """
    with reporting_errors():
        if set_ and not attacks:
            raise ConfigError("--set is for --attacks; the audits have settings of their own, or they could be lost")
        if attacks and quick:
            raise ConfigError("--quick is for the audits; --set data.reports=300 makes --attacks shorter")
        if attacks and decoder:
            raise ConfigError("--decoder is for the audits; --set model.name=... says what --attacks trains")
        experiment = None
        if attacks:
            experiment = Experiment.load(None, [*ATTACKED, *(set_ or [])]).resolve_paths(Path.cwd())
        if out is not None and (out / "audit.json").exists():
            raise DataError("exists already; nothing is overwritten.", file=out / "audit.json", remedy="Name another.")
        sys.exit(_run(quick, decoder, experiment, out))


def _run(quick: bool, decoder: str, attacked: Experiment | None, out: Path | None) -> int:
    """Prints the tables, writes the file; the exit code."""
    from fedrad.audit.attacks import run_attacks
    from fedrad.audit.battery import run_battery
    from fedrad.audit.outcome import Outcome, Report, figures_table, outcome_table

    console, notes = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True)
    started = time.monotonic()
    outcomes: list[Outcome] = []

    def told(line: str) -> None:
        notes.print(f"{time.monotonic() - started:5.0f} s  {line}", style="dim", highlight=False)

    if attacked is not None:
        report = Report(attacks=run_attacks(attacked, told), seconds=time.monotonic() - started)
        for name, rows in report.attacks.items():
            console.print(figures_table(TITLES[name], rows))
        if out is not None:
            report.write(out)
        console.print(f"attacks: no verdict ({report.seconds:.0f} s)", highlight=False)
        return 0
    for outcome in run_battery(quick=quick, decoder=decoder, told=told):
        outcomes.append(outcome)
        told(f"  bound {outcome.bound:.2f}, claim {outcome.epsilon:.2f}")
    report = Report(outcomes, seconds=time.monotonic() - started)
    console.print(outcome_table(outcomes))
    if out is not None:
        report.write(out)
    console.print(report.verdict, highlight=False)
    return 0 if report.passed else 1
