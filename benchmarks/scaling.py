"""How time and memory of a step grow with the batch, the length of reports, the rank, and the number of hospitals.

    python -m benchmarks.scaling --json scaling.json --plot scaling.png
    python -m benchmarks.scaling --axes reports,length --model bert-small --rounds 3
    python -m benchmarks.scaling --draw scaling.json --plot scaling.png     only draw

Every point is a step on random reports of one length (no padding), BERT-small with LoRA on query and value unless said
otherwise; while one quantity changes, the others stay at 32 reports of 128 tokens, rank 8. Seconds are medians of CPU
seconds of one thread, engines in turns; memory is the peak over model and optimizer, in a process of its own.
Hospitals are fedrad's default model on generated reports: all in one pass, with the same reports a step in all.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import describe, growth, interleaved, machine, median, one_thread, table, write_json
from benchmarks.memory import peak
from benchmarks.peers import BASELINE, HOOKS, PEERS, CantRun
from benchmarks.problems import ADAPTED, MODELS, Problem, Workload
from benchmarks.simulation import STEPS, steps_of
from benchmarks.step import race

TOTAL = 256
ENGINES = (BASELINE.name, HOOKS.name, "fedrad, same kernels", "fedrad, everything on")


@dataclass(frozen=True)
class Axis:
    """One quantity that changes.

    Attributes:
        label: for the plot, with the unit.
    """

    name: str
    label: str
    values: tuple[int, ...]


AXES = (
    Axis("reports", "reports in a step", (1, 32, 64, 128)),
    Axis("length", "tokens of each report", (32, 64, 128, 256)),
    Axis("rank", "LoRA rank", (1, 8, 32, 64)),
    Axis("hospitals", "hospitals (256 reports in all)", (1, 4, 16, 64, 128)),
)


@dataclass(frozen=True)
class Point:
    """One engine at one value."""

    axis: str
    value: int
    engine: str
    cpu_seconds: float | None
    mb: float | None
    reason: str


def case(axis: str, value: int, model: str, adapted: str) -> tuple[Problem, Workload]:
    """The problem with one quantity changed."""
    sizes = {"reports": 32, "length": 128, "rank": 8, axis: value}
    problem = Problem(model, adapted, rank=sizes["rank"], expected=sizes["reports"])
    return problem, Workload(reports=sizes["reports"], length=sizes["length"], batches=1)


def points(axis: Axis, engines: Sequence[str], model: str, adapted: str, rounds: int, memory: bool) -> list[Point]:
    """All engines at all values of one axis."""
    found = []
    for value in axis.values:
        problem, work = case(axis.name, value, model, adapted)
        times, reasons = race(engines, problem, work.of(model), rounds)
        for engine in engines:
            reason = reasons.get(engine, "")
            seconds = median(times[engine]).cpu if engine in times else None
            found.append(Point(axis.name, value, engine, seconds, _peak(engine, problem, work, memory, reason), reason))
    return found


def hospital_points(axis: Axis, rounds: int, memory: bool) -> list[Point]:
    """Fused steps of more and more hospitals on the same reports, beside centralized ones."""
    found = []
    for value in axis.values:
        together, alone, _ = steps_of(value, TOTAL)
        runs = {"fedrad, hospitals in one pass": together, "fedrad, centralized": alone}
        times = interleaved({name: lambda _, run=run: run() for name, run in runs.items()}, rounds)
        for name, run in runs.items():
            mb = growth(run) if memory else None
            found.append(Point(axis.name, value, name, median(times[name]).cpu / STEPS, mb, ""))
    return found


def _peak(engine: str, problem: Problem, work: Workload, memory: bool, reason: str) -> float | None:
    if reason or not memory:
        return None
    try:
        return peak(engine, problem, work)
    except CantRun:
        return None


def show(axis: Axis, found: Sequence[Point]) -> str:
    """A table: a row for each value, CPU seconds and MB of each engine."""
    engines = list(dict.fromkeys(point.engine for point in found))
    cells = {(point.value, point.engine): point for point in found}
    columns = [axis.label, *(f"{engine}: {unit}" for engine in engines for unit in ("s", "MB"))]
    rows = [
        [value, *(_number(cells[value, engine], unit) for engine in engines for unit in ("s", "MB"))]
        for value in axis.values
        if (value, engines[0]) in cells
    ]
    return table(columns, rows)


def _number(point: Point, unit: str) -> str:
    number = point.cpu_seconds if unit == "s" else point.mb
    return "" if number is None else f"{number:.3g}" if unit == "s" else f"{number:.0f}"


def draw(found: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """A column of two plots for each axis: CPU seconds above, peak memory below."""
    import matplotlib  # only those who draw need it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = [axis for axis in AXES if any(point["axis"] == axis.name for point in found)]
    quantities = (("cpu_seconds", "CPU seconds of a step"), ("mb", "peak memory of a step, MB"))
    kept = [(key, label) for key, label in quantities if any(point[key] is not None for point in found)]
    figure, grid = pyplot.subplots(
        len(kept), len(axes), figsize=(3.4 * len(axes), 2.6 * len(kept) + 0.5), squeeze=False, layout="constrained"
    )
    engines = list(dict.fromkeys(point["engine"] for point in found))
    for column, axis in enumerate(axes):
        for row, (key, label) in enumerate(kept):
            plot = grid[row][column]
            for number, (engine, marker) in enumerate(zip(engines, "os^Dvx*", strict=False)):
                line = [
                    (point["value"], point[key])
                    for point in found
                    if (point["axis"], point["engine"]) == (axis.name, engine) and point[key] is not None
                ]
                if line:
                    x, y = zip(*line, strict=True)
                    plot.plot(x, y, color=f"C{number}", marker=marker, markersize=4, linewidth=1.3, label=engine)
            if axis.name == "hospitals":
                plot.set_xscale("log", base=2)
            plot.set_xticks(axis.values, [str(value) for value in axis.values])
            if axis.name != "hospitals":
                plot.set_xlim(left=0)
            plot.set_ylim(bottom=0)
            plot.set_xlabel(axis.label)
            plot.set_ylabel(label if column == 0 else "")
            plot.grid(alpha=0.3)
    lines = {label: handle for plot in grid[0] for handle, label in zip(*plot.get_legend_handles_labels(), strict=True)}
    columns = min(len(lines), 2 * len(axes))
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    figure.suptitle(title.replace("; ", "\n"), fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(axis.name for axis in AXES))
    parser.add_argument("--model", default="bert-small", choices=MODELS)
    parser.add_argument("--adapted", default="qv", choices=list(ADAPTED))
    parser.add_argument("--engines", default=";".join(ENGINES), help=f"separated by semicolons, of: {'; '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="time only, which is quicker")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file (PNG)")
    parser.add_argument("--draw", type=Path, help="measure nothing: draw what --json wrote")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    if options.draw:
        results = json.loads(options.draw.read_text("utf-8"))
        draw(results["points"], options.plot, results["title"])
        return
    one_thread()
    warnings.filterwarnings("ignore", "Full backward hook")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    about = machine()
    print(describe(about), flush=True)
    title = f"{options.model}, LoRA on {', '.join(ADAPTED[options.adapted])}; {about['processor']}, one thread"
    found: list[dict[str, Any]] = []
    for axis in (axis for axis in AXES if axis.name in options.axes.split(",")):
        engines = options.engines.split(";")
        if axis.name == "hospitals":
            new = hospital_points(axis, options.rounds, not options.no_memory)
        else:
            new = points(axis, engines, options.model, options.adapted, options.rounds, not options.no_memory)
        print(f"\n{show(axis, new)}", flush=True)
        found += [asdict(point) for point in new]
        write_json(options.json, {"benchmark": "scaling", "title": title, "rounds": options.rounds, "points": found})
    if options.plot:
        draw(found, options.plot, title)


if __name__ == "__main__":
    main()
