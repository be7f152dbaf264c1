"""What one DP-LoRA step costs: fedrad, Opacus and PEFT without privacy, as ratios to PEFT.

    python -m benchmarks.step                                 all cases on BERT-small
    python -m benchmarks.step --models bert-small,bert-medium,albert-base,minilm --json step.json
    python -m benchmarks.step --openi /data/openi --cases reports --memory
    python -m benchmarks.step --quick                         a few minutes: two cases, the main engines

Two cases. fixed: 32 reports of 128 random tokens; no padding, so it compares the engines alone. reports: a Poisson
sample of 64 reports on average at their real lengths (generated reports, or Open-i), from tokens to the optimizer's
step; the engines of others get the batch as their users pass it, padded to the longest report.

CPU seconds of one thread, engines in turns, medians; a ratio's range is over rounds. The clipped sums are compared
first, and nothing is timed if they differ (`--no-check` skips this).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import check
from benchmarks.measure import (
    Ratio,
    Seconds,
    describe,
    interleaved,
    machine,
    median,
    one_thread,
    ratio,
    table,
    write_json,
)
from benchmarks.memory import peak
from benchmarks.peers import BASELINE, HOOKS, PEERS, PRIVATE, CantRun, Prepared, too_slow
from benchmarks.problems import ADAPTED, MODELS, Problem, Workload
from fedrad.data.batches import Tokenized

CASES = ("fixed", "reports")
MAIN = ("peft, not private", "opacus hooks", "opacus ghost", "fedrad, same kernels", "fedrad, everything on")


@dataclass(frozen=True)
class Row:
    """One engine on one case."""

    case: str
    model: str
    adapted: str
    engine: str
    seconds: Seconds | None
    to_peft: Ratio | None
    to_hooks: Ratio | None
    mb: float | None
    reason: str


def workload(case: str, openi: str = "") -> Workload:
    return Workload(reports=32, length=128, batches=1) if case == "fixed" else Workload(reports=64, openi=openi)


def problem_of(case: str, model: str, adapted: str) -> Problem:
    return Problem(model, adapted, expected=workload(case).reports)


def race(
    names: Sequence[str], problem: Problem, batches: Sequence[Tokenized], rounds: int
) -> tuple[dict[str, list[Seconds]], dict[str, str]]:
    """Times engines on the same batches, in turns.

    Returns:
        seconds of each round by engine, and the reason of each engine that can't run.
    """
    ready: dict[str, Prepared] = {}
    reasons: dict[str, str] = {}
    for name in names:
        if reason := too_slow(PEERS[name]):
            reasons[name] = reason
            continue
        try:
            prepared = PEERS[name].prepare(problem)
            prepared.step(batches[0].select(np.arange(len(batches[0]))[:2]))  # what an engine refuses, it refuses here
        except CantRun as cause:
            reasons[name] = str(cause)
        else:
            ready[name] = prepared

    def run(step: Callable[[Tokenized], None]) -> Callable[[int], None]:
        return lambda number: step(batches[number % len(batches)])

    return interleaved({name: run(prepared.step) for name, prepared in ready.items()}, rounds), reasons


def compare(case: str, problem: Problem, names: Sequence[str], rounds: int, openi: str, memory: bool) -> list[Row]:
    """All engines on one case."""
    work = workload(case, openi)
    times, reasons = race(names, problem, work.of(problem.model), rounds)
    rows = []
    for name in names:
        mine = times.get(name)
        mb = peak(name, problem, work) if memory and mine else None
        rows.append(
            Row(
                case=case,
                model=problem.model,
                adapted=problem.adapted,
                engine=name,
                seconds=median(mine) if mine else None,
                to_peft=ratio(mine, times[BASELINE.name]) if mine and BASELINE.name in times else None,
                to_hooks=ratio(mine, times[HOOKS.name]) if mine and HOOKS.name in times else None,
                mb=mb,
                reason=reasons.get(name, ""),
            )
        )
    return rows


def show(rows: Sequence[Row]) -> str:
    """The table: seconds of a step, ratios with their range over rounds, peak memory; below it, what can't run."""
    columns = ("engine", "cpu s", "wall s", "to peft", "range", "to opacus hooks", "range", "peak MB")
    reasons = [f"{row.engine} can't run: {row.reason}" for row in rows if row.seconds is None]
    return "\n".join([table(columns, [_cells(row) for row in rows]), *reasons])


def _cells(row: Row) -> list[str]:
    if row.seconds is None:
        return [row.engine, *["-"] * 7]
    return [
        row.engine,
        f"{row.seconds.cpu:.2f}",
        f"{row.seconds.wall:.2f}",
        *_ratio(row.to_peft),
        *_ratio(row.to_hooks),
        "" if row.mb is None else f"{row.mb:.0f}",
    ]


def _ratio(value: Ratio | None) -> tuple[str, str]:
    return ("", "") if value is None else (f"{value.value:.2f}", f"{value.low:.2f}..{value.high:.2f}")


def checked(engines: Sequence[str]) -> list[check.Verdict]:
    """The check on small models.

    Raises:
        SystemExit: an engine computes something else than the others; no time of it would mean anything.
    """
    peers = [PEERS[name] for name in engines if name in PRIVATE]
    found = [
        verdict
        for model in ("tiny-bert", "tiny-albert")
        for adapted in ("qv", "all")
        for verdict in check.verdicts(Problem(model, adapted), peers)
    ]
    print(table(("engine", "model", "adapted", "relative error", ""), check.rows(found)), flush=True)
    if any(verdict.wrong for verdict in found):
        sys.exit("step: an engine computes another sum, so nothing is timed.")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--models", default="bert-small", help=", ".join(MODELS))
    parser.add_argument("--adapted", default="qv,qkv,all", help=f"layers with LoRA: {', '.join(ADAPTED)}")
    parser.add_argument("--engines", default=";".join(PEERS), help="separated by semicolons")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--openi", default="", help="folder of Open-i, for the case of real lengths")
    parser.add_argument("--memory", action="store_true", help="peak memory too, each engine in a process of its own")
    parser.add_argument("--no-check", action="store_true", help="do not compare the engines' sums first")
    parser.add_argument("--quick", action="store_true", help="BERT-small, query and value, main engines, two rounds")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    if options.quick:
        options.models, options.adapted, options.engines, options.rounds = "bert-small", "qv", ";".join(MAIN), 2
    return options


def main() -> None:
    options = _arguments()
    one_thread()
    warnings.filterwarnings("ignore", "Full backward hook")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    engines = options.engines.split(";")
    results: dict[str, Any] = {"benchmark": "step", "rounds": options.rounds, "check": [], "rows": []}
    print(describe(machine()), flush=True)
    if not options.no_check:
        results["check"] = checked(engines)
    for case in options.cases.split(","):
        for model in options.models.split(","):
            for adapted in options.adapted.split(","):
                problem = problem_of(case, model, adapted)
                rows = compare(case, problem, engines, options.rounds, options.openi, options.memory)
                results["rows"] += [asdict(row) for row in rows]
                print(f"\n{case}, {model}, LoRA on {', '.join(ADAPTED[adapted])}\n{show(rows)}", flush=True)
                write_json(options.json, results)


if __name__ == "__main__":
    main()
