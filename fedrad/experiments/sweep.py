"""``fedrad sweep``: plans all cells, runs those that have not finished, and writes the table after each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedrad.errors import ConfigError
from fedrad.experiments.cells import Cell, Failure, finished, locked, run_cell
from fedrad.experiments.clusters import run_ray, sbatch
from fedrad.experiments.plan import Sweep, read_sweep
from fedrad.experiments.pool import run_pool
from fedrad.experiments.runs import shown
from fedrad.experiments.table import Results, write_index, write_results
from fedrad.files import USUAL, write_whole
from fedrad.report.terminal import show_seconds

Executor = Literal["process", "ray", "slurm"]
_SHOWN = 40
_RECENT = 20
_BUSY = "another sweep is at work there"


def sweep(file: Path, out: Path | None, console: Console, *, jobs: int = 0, executor: Executor = "process") -> int:
    """Runs a sweep.

    Args:
        file: the TOML file.
        out: the sweep's folder; default ``runs/<name of the file>``. Cells that have finished there are not run again.
        jobs: cells at once, at most; 0: as many as the machine has room for.

    Returns:
        How many cells failed.

    Raises:
        ConfigError: the file is wrong, or another sweep is at work in the folder.
    """
    plan = read_sweep(file)
    out = default_folder(file) if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "sweep.lock", _BUSY):
        folder = out / "cells"
        folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(out / "sweep.toml", plan.text, durable=False, mode=USUAL)
        write_index(plan.rows, plan.axes, out)
        numbered = [(number, cell) for number, cell in enumerate(plan.cells) if finished(cell, folder) is None]
        left = [cell for _, cell in numbered]
        view = SweepView(console, plan, out, done=len(plan.cells) - len(left))
        view.head(executor)
        if executor == "slurm":
            write_results(plan.rows, plan.axes, out, view.known)
            threads = max(cell.experiment.train.threads for cell in plan.cells)
            gpus = any(cell.experiment.train.device != "cpu" for cell in plan.cells)
            numbers = [number for number, _ in numbered]
            script = sbatch(numbers, out / "sweep.toml", out, threads=threads, gpus=gpus, jobs=jobs, memory=plan.memory)
            console.print(f"sbatch {script}", highlight=False, soft_wrap=True)
            return 0
        with view.showing():
            if executor == "ray":
                run_ray(left, folder, jobs=jobs, memory=plan.memory, on_start=view.started, on_done=view.ended)
            else:
                run_pool(
                    left,
                    folder,
                    jobs=jobs,
                    memory=plan.memory,
                    on_start=view.started,
                    on_done=view.ended,
                    on_bound=view.bounded,
                )
        view.close()
    return len(view.failures)


def run_one(file: Path, out: Path | None, number: int) -> None:
    """Runs cell ``number`` of a sweep in this process: a task of a SLURM array. Several may run at once.

    Raises:
        ConfigError: there is no such cell, it failed, or a whole sweep is at work in the folder.
    """
    cells = read_sweep(file).cells
    out = default_folder(file) if out is None else out
    if not 0 <= number < len(cells):
        raise ConfigError(f"--cell {number}: the sweep has cells 0 to {len(cells) - 1}")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "sweep.lock", _BUSY, shared=True):
        failure = run_cell(cells[number], out / "cells")
    if failure is not None:
        raise ConfigError(f"cell {number} ({cells[number].name}) failed: {failure.kind}: {failure.message}")


def default_folder(file: Path) -> Path:
    """Always the same for a file, so that a sweep that was cut short is found again."""
    return Path("runs") / file.stem


@dataclass
class SweepView:
    """What a sweep shows: a live table in a terminal, a line for each cell elsewhere."""

    console: Console
    plan: Sweep
    out: Path
    done: int
    failures: list[tuple[Cell, Failure]] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    jobs: int = 0
    known: Results = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)
    _live: Live | None = None
    _table: pd.DataFrame = field(default_factory=pd.DataFrame)

    def head(self, executor: str) -> None:
        """What there is to do."""
        grid = sum(not row.floor for row in self.plan.rows)
        total = len(self.plan.cells)
        swept = ", ".join(self.plan.axes) or "nothing"
        self.console.print(
            f"{grid} cells of {swept} with {self.plan.seeds} seeds, and {total - grid} more for the floors; {self.done}"
            f" of {total} have finished before\n{self.out}, executor {executor}",
            highlight=False,
            soft_wrap=True,
        )

    def bounded(self, jobs: int) -> None:
        """How many cells run at once is known, or known better."""
        changed, self.jobs = jobs != self.jobs, jobs
        if changed and not self.console.is_terminal:
            self.console.print(f"{jobs} at once", highlight=False)

    def started(self, cell: Cell) -> None:
        self.running[cell.name] = time.monotonic()
        self._draw()

    def ended(self, cell: Cell, failure: Failure | None) -> None:
        seconds = time.monotonic() - self.running.pop(cell.name)
        self._seconds.append(seconds)
        self.done += 1
        if failure is not None:
            self.failures.append((cell, failure))
        self._table = write_results(self.plan.rows, self.plan.axes, self.out, self.known)
        if self._live is None:
            row = next(row for row in self.plan.rows if row.cell.name == cell.name)
            what = [*(f"{axis}={value}" for axis, value in row.keys.items() if value is not None), f"seed {row.seed}"]
            what += [row.floor] if row.floor else []
            found = self._table.loc[self._table["run"] == cell.name, "weighted_f1"]
            says = "FAILED: " + failure.message if failure else f"weighted F1 {found.iloc[0]:.4f}"
            line = f"{self._counts()}: {', '.join(what)}: {says} ({seconds:.0f} s)"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._draw()

    def _counts(self) -> str:
        left = len(self.plan.cells) - self.done
        text = f"{self.done}/{len(self.plan.cells)}"
        if left and self._seconds:
            last = self._seconds[-_RECENT:]  # the first ones computed features for the others
            mean = sum(last) / len(last)
            text += f", about {show_seconds(mean * left / max(1, self.jobs, len(self.running)))} left"
        return text

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Draws while the block runs, in a terminal."""
        self._table = write_results(self.plan.rows, self.plan.axes, self.out, self.known)
        if not self.console.is_terminal:
            yield
            return
        with Live(self._drawn(), console=self.console, refresh_per_second=2, transient=True) as self._live:
            yield
        self._live = None

    def close(self) -> None:
        """The table, and what failed."""
        self._table = write_results(self.plan.rows, self.plan.axes, self.out, self.known)
        self.console.print(summary(self._table, self.plan.axes))
        for cell, failure in self.failures:
            text = f"failed: {self.out / 'cells' / cell.name}: {failure.kind}: {failure.message}"
            self.console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
        names = " and ".join(str(self.out / name) for name in ("results.csv", "results.parquet"))
        self.console.print(f"{names}; compare with: fedrad compare {self.out}", highlight=False, soft_wrap=True)
        self.console.print(
            "Each epsilon is one run's. To choose among runs by scores on private reports is outside all of them.",
            highlight=False,
            soft_wrap=True,
        )

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._drawn())

    def _drawn(self) -> RenderableType:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        line = Text(f"{self._counts()}, {len(self.running)} running{failed}")
        return Group(summary(self._table, self.plan.axes), line)


def summary(table: pd.DataFrame, axes: Sequence[str]) -> Table:
    """Weighted F1 for each combination of what is swept, and for each floor: mean and standard deviation over seeds.

    Of the floor "alone", the mean over the hospitals as well.
    """
    drawn = Table(box=None, header_style="bold")
    for name in (*axes, "floor"):
        drawn.add_column(name)
    for name in ("finished", "weighted F1", "sd", "before", "epsilon"):
        drawn.add_column(name, justify="right")
    keys = [*axes, "floor"]
    groups = list(table.groupby(keys, sort=False, dropna=False))
    for names, rows in groups[:_SHOWN]:
        values = rows["weighted_f1"].dropna().astype(float)
        drawn.add_row(
            *(_value(axis, name) for axis, name in zip(keys, names, strict=True)),
            f"{(rows['status'] == 'finished').sum()}/{len(rows)}",
            f"{values.mean():.4f}" if len(values) else "",
            f"{values.std():.4f}" if len(values) > 1 else "",
            _mean(rows, "before:weighted_f1"),
            _mean(rows, "epsilon_max", "{:.4g}"),
        )
    if len(groups) > _SHOWN:
        drawn.add_row(f"... {len(groups) - _SHOWN} more in results.csv")
    return drawn


def _value(axis: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    return "none" if axis == "privacy.epsilon" and value == 0 else shown(value)


def _mean(rows: pd.DataFrame, name: str, form: str = "{:.4f}") -> str:
    values = rows[name].dropna().astype(float) if name in rows else pd.Series()
    return form.format(values.mean()) if len(values) else ""
