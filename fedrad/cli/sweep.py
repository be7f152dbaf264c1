"""``fedrad sweep``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedrad.cli.output import reporting_errors, wide

_Executor = Literal["process", "ray", "slurm"]


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.toml")],
    out: Annotated[Path | None, typer.Option(help="the sweep's folder; default runs/<name of the file>")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="cells at once, at most; 0: as many as cores and memory allow")] = 0,
    executor: Annotated[
        _Executor,
        typer.Option(help="process: on this machine; ray: a Ray cluster (RAY_ADDRESS); slurm: write an sbatch file"),
    ] = "process",
    cell: Annotated[int | None, typer.Option(min=0, help="run this cell alone, in this process (SLURM)")] = None,
) -> None:
    """Run a grid of experiments; results.csv and results.parquet have a row for each.

    SWEEP.toml says what is swept, e.g. experiments/open.toml; docs/experiments.md explains it. Called again, it goes on
    where it was cut short. Exits with 0 only if every cell finished.
    """
    with reporting_errors():
        from fedrad.experiments.sweep import run_one
        from fedrad.experiments.sweep import sweep as run

        if cell is not None:
            run_one(file, out, cell)
        else:
            try:
                failed = run(file, out, wide(), jobs=jobs, executor=executor)
            except KeyboardInterrupt:
                print("fedrad: interrupted. The same command goes on; finished cells are kept.", file=sys.stderr)
                sys.exit(130)
            sys.exit(1 if failed else 0)
