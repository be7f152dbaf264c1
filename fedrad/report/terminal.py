"""The output of a run: a live view in a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import math
import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedrad.config import Experiment
from fedrad.report.scores import label_table, score_table
from fedrad.tasks.metrics import Scores
from fedrad.training.result import Result, local_guarantee, rounded_up

# If a round has more hospitals, they are summarised in one line.
_HOSPITALS_SHOWN = 12


def show_epsilon(value: float) -> str:
    """An epsilon as text, never rounded down."""
    if math.isinf(value):
        return "not private"
    return rounded_up(value, digits=4)


def show_bytes(count: int) -> str:
    """A number of bytes as text."""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def plan_lines(
    experiment: Experiment, *, declared: Mapping[str, int], trainable: int, noise: Mapping[str, float]
) -> str:
    """The plan of a run, before its first step."""
    privacy, sites, train = experiment.privacy, experiment.sites, experiment.train
    if privacy.epsilon == 0:
        promise = "NOT PRIVATE (privacy.epsilon = 0)"
    else:
        promise = (
            f"epsilon <= {rounded_up(max(sites.epsilons, default=privacy.epsilon))} per hospital at delta"
            f" {rounded_up(max(sites.deltas, default=privacy.delta))},"
            f" unit: {privacy.unit}"
        )
        if privacy.noise == "seeded":
            promise += ", noise seeded: simulation only"
    sigma = ", ".join(f"{value:.4g}" for value in sorted(set(noise.values())))
    return (
        f"plan: {promise}\n"
        f"      {train.rounds} rounds x {experiment.local_steps} local steps,"
        f" expected batch {_batches(experiment, declared)},"
        f" clip {privacy.clip:g}, noise multiplier {sigma or '-'}\n"
        f"      {trainable:,} trainable numbers; declared reports: "
        + (", ".join(f"{site} {size}" for site, size in list(declared.items())[:8]) or "-")
        + (" ..." if len(declared) > 8 else "")
        + _secure_line(experiment)
        + "".join(f"\n      {words}" for words in local_guarantee(experiment))
    )


def _batches(experiment: Experiment, declared: Mapping[str, int]) -> str:
    sizes = sorted({experiment.expected_batch(size) for size in declared.values()})
    return " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1]))) if sizes else "-"


def _secure_line(experiment: Experiment) -> str:
    privacy, quorum = experiment.privacy, experiment.sites.quorum
    if not privacy.secure_aggregation:
        return ""
    line = f"\n      secure aggregation: sums over {quorum} hospitals or more, {privacy.colluders} colluders"
    if privacy.shared_noise:
        certain = quorum - privacy.colluders
        line += f"; noise shared by {certain}: a single adapter has 1/sqrt({certain}) of it, and is not private"
    return line


def test_set_lines(experiment: Experiment, labels: Sequence[str], reports: int) -> str:
    """What a server tests on, or how to give it a test set; shown before it asks any hospital.

    Args:
        reports: number of test reports; 0: no test set.
    """
    if reports:
        return f"test set: {reports} reports ({experiment.data.name}); labels: {', '.join(labels)}"
    return (
        f"test set: none (data.name=none), so nothing is evaluated; labels: {', '.join(labels)}\n"
        "          For scores, give the server public reports with these labels: data.name=table data.path=FILE"
        " data.text-column=TEXT data.label-columns=A,B"
    )


def final_table(experiment: Experiment, result: Result, directory: object) -> RenderableType:
    """The tables at the end of a run: scores compared with the label prior and the start, by label, and all else."""
    table = Table(show_header=False, min_width=60)
    table.add_column(style="bold")
    table.add_column()
    for site, value in list(result.epsilon.items())[:_HOSPITALS_SHOWN]:
        table.add_row(f"epsilon {site}", show_epsilon(value))
    if len(result.epsilon) > _HOSPITALS_SHOWN:
        table.add_row("", f"... {len(result.epsilon) - _HOSPITALS_SHOWN} more in result.json")
    table.add_row("epsilon, maximum", show_epsilon(result.epsilon_max))
    if result.unconfirmed:
        table.add_row("not confirmed", f"at least the above for {', '.join(result.unconfirmed)}: an answer was lost")
    table.add_row("delta", rounded_up(result.delta))
    table.add_row("unit", experiment.privacy.unit)
    if experiment.privacy.noise == "seeded":
        table.add_row("noise", "seeded: simulation only")
    if experiment.privacy.secure_aggregation:
        table.add_row("secure aggregation", f"sums over {experiment.sites.quorum} hospitals or more")
    if experiment.privacy.shared_noise:
        table.add_row("noise shared by", f"{experiment.sites.quorum - experiment.privacy.colluders} hospitals")
    table.add_row("noisy steps", str(result.steps))
    if result.bytes_up:
        up, down = sum(result.bytes_up), sum(result.bytes_down)
        table.add_row("bytes of tensors, all sites", f"{up} up ({show_bytes(up)}), {down} down ({show_bytes(down)})")
    table.add_row("seconds", f"{result.seconds:.1f}")
    table.add_row("run directory", Text(str(directory)))  # not markup: a path may hold brackets
    compared = result.comparison
    labels: list[RenderableType] = []
    if result.scores is not None and compared is not None:
        labels = [label_table(result.scores, compared), Text()]
    title = Text(f"\nfedrad: {experiment.data.name}", style="italic")
    return Group(title, score_table(result), Text(), *labels, table)


def show_notes(console: Console, notes: Iterable[str]) -> None:
    """Prints each note on a line."""
    for note in notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@dataclass
class StepView:
    """A live view of one site's steps. It may show private counts, so it is for the site's own terminal only."""

    console: Console
    total: int
    budget: float
    private: bool
    started: float = field(default_factory=time.monotonic)
    reports: int = 0
    scores: Scores | None = None
    _progress: Progress | None = None
    _task: int = 0

    @contextmanager
    def showing(self) -> Iterator[StepView]:
        """Draws while the block runs; without a terminal it prints lines instead."""
        if not self.console.is_terminal:
            yield self
            return
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.fields[line]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._progress.add_task("steps", total=self.total, line="")
        with Live(self._progress, console=self.console, refresh_per_second=4):
            yield self
        self._progress = None

    def step(self, step: int, *, epsilon: float, noise_to_signal: float, reports: int) -> None:
        """Shows that another step is done."""
        self.reports += reports
        seconds = max(time.monotonic() - self.started, 1e-9)
        spent = f"epsilon {show_epsilon(epsilon)} of {self.budget:g}" if self.private else "not private"
        ratio = f"  noise / signal {_ratio(noise_to_signal)}" if self.private else ""
        tested = "" if self.scores is None else f"  test {self.scores.name} {self.scores.main:.3f}"
        line = f"{spent}{ratio}{tested}  {self.reports / seconds:.0f} reports/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, line=line)  # type: ignore[arg-type]
        elif step == self.total or step % max(1, self.total // 10) == 0:
            left = show_seconds(seconds / step * (self.total - step))
            text = f"step {step}/{self.total}  {line}" + ("" if step == self.total else f"  about {left} left")
            self.console.print(text, highlight=False, soft_wrap=True)

    def evaluated(self, scores: Scores) -> None:
        """Shows this test score from now on."""
        self.scores = scores


def _ratio(value: float) -> str:
    """A ratio as text. Beyond 10, a single step's estimate of its signal is itself noise."""
    return f"{value:.2f}" if value <= 10 else "over 10"


def show_seconds(seconds: float) -> str:
    """An estimated duration as text."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def round_line(
    round: int,
    rounds: int,
    scores: Scores | None,
    booked: Mapping[str, float],
    absent: Mapping[str, str],
    left: float | None = None,
) -> str:
    """The lines of one federation round: a row for each hospital, or one row for all if there are many.

    Args:
        left: estimated seconds for the remaining rounds; None if unknown.
    """
    tested = "" if scores is None else f"  test {scores.name} {scores.main:.4f}"
    time_left = "" if left is None or round == rounds else f"  about {show_seconds(left)} left"
    lines = [f"round {round}/{rounds}{tested}{time_left}"]
    present = {site: value for site, value in sorted(booked.items()) if site not in absent}
    if len(present) > _HOSPITALS_SHOWN:
        least, most = show_epsilon(min(present.values())), show_epsilon(max(present.values()))
        lines.append(f"  {len(present)} hospitals, epsilon {most if least == most else f'{least} to {most}'}")
    else:
        lines += [f"  {site:<12} epsilon {show_epsilon(value)}" for site, value in present.items()]
    away = sorted(absent.items())
    lines += [f"  {site:<12} did not count: {why}" for site, why in away[:_HOSPITALS_SHOWN]]
    if len(away) > _HOSPITALS_SHOWN:
        lines.append(f"  ... and {len(away) - _HOSPITALS_SHOWN} more did not count")
    return "\n".join(lines)


def progress_lines(console: Console, clock: Callable[[], float] = time.monotonic) -> Callable[[str, int, int], None]:
    """A callback for work before the first step: prints a line at the start, at 5% and at each quarter."""
    shown: set[tuple[str, int]] = set()
    began: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        started, mark = began.setdefault(what, clock()), bisect((0.05, 0.25, 0.5, 0.75, 1), done / max(1, total))
        if (what, mark) in shown:
            return
        shown.add((what, mark))
        seconds = clock() - started
        left = f", about {show_seconds(seconds / done * (total - done))} left" if mark and done < total else ""
        console.print(f"{what}: {done}/{total}{left}", highlight=False)

    return progress
