"""What docs/performance.md promises, measured: one line for each promise.

    python -m benchmarks.goals                       all
    python -m benchmarks.goals --only end-to-end     one
    python -m benchmarks.goals --strict              exit code 1 if one is missed

Each prints `name  measured <= promised  (range over rounds)`. Ratios of CPU seconds of one thread, in turns, BERT-small
with LoRA of rank 8 on query and value; memory in MB over model and optimizer, each engine in a process of its own;
whole commands by the clock; overhead-128 in seconds a round.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio, describe, machine, one_thread, ratio, write_json
from benchmarks.memory import peak
from benchmarks.overhead import measure
from benchmarks.peers import BASELINE, HOOKS, CantRun
from benchmarks.simulation import commands, fused_steps
from benchmarks.step import problem_of, race, workload


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure, and where the reports of real lengths come from."""

    rounds: int = 7
    openi: str = ""


def faster(case: str, ours: str, theirs: str, settings: Settings) -> Ratio:
    """Time of a step of ``ours`` over that of ``theirs`` on BERT-small, query and value.

    Raises:
        CantRun: one of them can't be measured here.
    """
    problem = problem_of(case, "bert-small", "qv")
    batches = workload(case, settings.openi).of(problem.model)
    times, reasons = race((ours, theirs), problem, batches, settings.rounds)
    for reason in reasons.values():
        raise CantRun(reason)
    return ratio(times[ours], times[theirs])


def dp_step_same_kernels(settings: Settings) -> Ratio:
    """Privacy itself: the same kernels and precision as PEFT without privacy, no padding, the last layer whole."""
    return faster("fixed", "fedrad, same kernels, whole", BASELINE.name, settings)


def dp_step_everything(settings: Settings) -> Ratio:
    """The same with every switch that keeps the accuracy of float32."""
    return faster("fixed", "fedrad, everything on", BASELINE.name, settings)


def end_to_end(settings: Settings) -> Ratio:
    """A step at real lengths, against Opacus's hooks on the batch padded to its longest report."""
    return faster("reports", "fedrad, everything on", HOOKS.name, settings)


def end_to_end_bf16(settings: Settings) -> Ratio:
    """The same with the frozen backbone in bfloat16."""
    return faster("reports", "fedrad, bfloat16", HOOKS.name, settings)


def memory(settings: Settings) -> Ratio:
    """Peak memory of a step at real lengths, against Opacus's hooks."""
    problem, work = problem_of("reports", "bert-small", "qv"), workload("reports", settings.openi)
    single = [
        peak("fedrad, everything on", problem, work) / peak(HOOKS.name, problem, work)
        for _ in range(min(settings.rounds, 3))
    ]
    return Ratio(sorted(single)[len(single) // 2], min(single), max(single), len(single))


def fused_hospitals(settings: Settings) -> Ratio:
    """Steps of 32 hospitals in one pass, against as many centralized ones on the same reports."""
    return fused_steps(32, rounds=settings.rounds)


def fused_command(settings: Settings) -> Ratio:
    """The whole command with 32 hospitals, fused, against the real `flwr run`: wall time."""
    return commands("fused")


def federation_overhead(settings: Settings) -> Ratio:
    """Seconds of a round beyond the hospitals' steps: 128 of them, one after the other in one process."""
    rounds = measure(hospitals=128, reports=20, rounds=settings.rounds + 1, layer=False, durable=False)["rounds"]
    seconds = sorted(told["overhead"] for told in rounds)
    return Ratio(seconds[len(seconds) // 2], seconds[0], seconds[-1], len(seconds))


@dataclass(frozen=True)
class Goal:
    """A promise: ``measure`` gives at most ``at_most``."""

    name: str
    at_most: float
    measure: Callable[[Settings], Ratio]


GOALS = (
    Goal("dp-step-same-kernels", 0.97, dp_step_same_kernels),
    Goal("dp-step-everything", 0.45, dp_step_everything),
    Goal("end-to-end", 0.20, end_to_end),
    Goal("end-to-end-bf16", 0.12, end_to_end_bf16),
    Goal("memory", 0.25, memory),
    Goal("fused-32", 1.15, fused_hospitals),
    Goal("fused-32-command", 0.25, fused_command),
    Goal("overhead-128", 0.25, federation_overhead),
)


def line(goal: Goal, measured: Ratio | None, reason: str = "") -> str:
    """One line of the report."""
    if measured is None:
        return f"{goal.name:<22} not measured ({reason})"
    missed = "" if measured.value <= goal.at_most else "  MISSED"
    spread = f"({measured.low:.2f}..{measured.high:.2f})"
    return f"{goal.name:<22} {measured.value:.2f} <= {goal.at_most:.2f}  {spread}{missed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[goal.name for goal in GOALS])
    parser.add_argument("--rounds", type=int, default=Settings.rounds)
    parser.add_argument("--openi", default="", help="folder of Open-i, for real lengths")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a goal is missed")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore", "Full backward hook")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    settings = Settings(options.rounds, options.openi)
    print(describe(machine()), flush=True)
    results: list[dict[str, Any]] = []
    missed = 0
    for goal in GOALS:
        if options.only and goal.name not in options.only:
            continue
        measured, reason = None, ""
        try:
            measured = goal.measure(settings)
            missed += measured.value > goal.at_most
        except CantRun as cause:
            reason = str(cause)
        print(line(goal, measured, reason), flush=True)
        figure = asdict(measured) if measured else None
        results.append({"goal": goal.name, "at_most": goal.at_most, "measured": figure, "reason": reason})
        write_json(options.json, {"benchmark": "goals", "goals": results})
    if missed and options.strict:
        sys.exit(1)


if __name__ == "__main__":
    main()
