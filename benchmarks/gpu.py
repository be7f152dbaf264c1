"""Reports a second on a GPU: fedrad beside PEFT without privacy and Opacus's hooks, and what share of the card it uses.

    python -m benchmarks.gpu --openi /data/openi                    BERT-medium at real lengths
    python -m benchmarks.gpu --reports 256 --json gpu.json
    python -m benchmarks.gpu --device cpu --model minilm            to see that it runs; the figures mean little there

The same engines, batches and check as ``benchmarks.step``, on another device and by wall time: a round is timed from an
idle device until it has done all it was given. The share is that of the card's own rate at one large bfloat16 product,
measured in the same run; matrix products are counted by torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import check
from benchmarks.measure import describe, machine, table, turns, write_json
from benchmarks.peers import BASELINE, HOOKS, PEERS, CantRun, Prepared, too_slow
from benchmarks.problems import ADAPTED, MODELS, Problem, Workload
from fedrad.data.batches import Tokenized
from fedrad.errors import ConfigError
from fedrad.model.kernels import device_for

ENGINES = (
    BASELINE.name,
    "peft, bfloat16",
    HOOKS.name,
    "fedrad, same kernels",
    "fedrad, everything on",
    "fedrad, bfloat16",
)


def wall(work: Callable[[], object], device: str) -> float:
    """Seconds until the device has done it."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def rate(device: str) -> float:
    """Floating-point operations a second of one large bfloat16 product (float32 on the CPU): the best of ten."""
    n, dtype = (8192, torch.bfloat16) if device.startswith("cuda") else (1024, torch.float32)
    left, right = (torch.randn(n, n).to(device, dtype) for _ in range(2))
    _ = left @ right
    return 2 * n**3 / min(wall(lambda: left @ right, device) for _ in range(10))


@dataclass(frozen=True)
class Row:
    """One engine.

    Attributes:
        speed, low, high: reports a second, the median over rounds and the range.
        to_peft, to_hooks: its median time over theirs, if they could run.
        share: of the card's rate.
        reason: why it can't run; then the figures mean nothing.
    """

    engine: str
    speed: float = 0.0
    low: float = 0.0
    high: float = 0.0
    to_peft: float | None = None
    to_hooks: float | None = None
    share: float = 0.0
    reason: str = ""


def measure(problem: Problem, work: Workload, rounds: int) -> list[Row]:
    """All engines on the same batches, in turns."""
    batches = work.of(problem.model)
    ready, reasons = _prepared(problem, batches[0])
    times: dict[str, list[float]] = {name: [] for name in ready}
    for number, name in turns(list(ready), rounds):
        step = partial(ready[name].step, batches[number % len(batches)])
        times[name].append(wall(step, problem.device))
    reports = [len(batches[number % len(batches)]) for number in range(rounds)]
    peak = rate(problem.device)
    rows = []
    for name in ENGINES:
        if name not in times:
            rows.append(Row(name, reason=reasons[name]))
            continue
        speeds = [n / seconds for n, seconds in zip(reports, times[name], strict=True)]
        speed = statistics.median(speeds)
        share = speed * _flops(ready[name], batches) / peak
        to_peft, to_hooks = (_over(times, name, other) for other in (BASELINE.name, HOOKS.name))
        rows.append(Row(name, speed, min(speeds), max(speeds), to_peft, to_hooks, share))
    return rows


def _prepared(problem: Problem, batch: Tokenized) -> tuple[dict[str, Prepared], dict[str, str]]:
    """The engines that run, and why the others don't. Each takes a first step, which compiles and allocates."""
    ready: dict[str, Prepared] = {}
    reasons: dict[str, str] = {}
    for name in ENGINES:
        if reason := too_slow(PEERS[name], problem.device):
            reasons[name] = reason
            continue
        try:
            engine = PEERS[name].prepare(problem)
            engine.step(batch)
        except (CantRun, torch.OutOfMemoryError) as cause:
            reasons[name] = str(cause).splitlines()[0]
        else:
            ready[name] = engine
    return ready, reasons


def _flops(engine: Prepared, batches: Sequence[Tokenized]) -> float:
    """Floating-point operations of matrix products for one report."""
    with _Counted() as counted:
        for batch in batches:
            engine.step(batch)
    return counted.flops / sum(len(batch) for batch in batches)


class _Counted(TorchDispatchMode):
    """Adds up what torch's table says of each operation. (Torch's own ``FlopCounterMode`` hooks modules, and its hooks
    and Opacus's exclude each other.)"""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def _over(times: Mapping[str, Sequence[float]], ours: str, theirs: str) -> float | None:
    return statistics.median(times[ours]) / statistics.median(times[theirs]) if theirs in times else None


def show(rows: Sequence[Row]) -> str:
    """The table; below it, what can't run."""
    columns = ("engine", "reports/s", "range", "time / peft", "time / opacus hooks", "share of rate")
    cells = [
        [
            row.engine,
            f"{row.speed:.0f}",
            f"{row.low:.0f}..{row.high:.0f}",
            *("" if value is None else f"{value:.2f}" for value in (row.to_peft, row.to_hooks)),
            f"{row.share:.1%}",
        ]
        for row in rows
        if not row.reason
    ]
    return "\n".join([table(columns, cells), *(f"{row.engine} can't run: {row.reason}" for row in rows if row.reason)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that it runs")
    parser.add_argument("--model", default="bert-medium", choices=MODELS)
    parser.add_argument("--adapted", default="qv", choices=tuple(ADAPTED))
    parser.add_argument("--reports", type=int, default=256, help="expected in a step")
    parser.add_argument("--openi", default="", help="folder of Open-i; generated reports otherwise")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Full backward hook")
    try:
        device = device_for(options.device)
    except ConfigError as error:
        sys.exit(f"gpu: {error}")
    card = torch.cuda.get_device_name(device) if device == "cuda" else "no GPU"
    print(f"{card}\n{describe(machine())}", flush=True)
    found = check.verdicts(Problem("tiny-bert", options.adapted, device=device), [PEERS[name] for name in ENGINES[2:]])
    print(table(("engine", "model", "adapted", "relative error", ""), check.rows(found)), flush=True)
    if any(verdict.wrong for verdict in found):
        sys.exit("gpu: an engine computes another sum, so nothing is timed.")
    problem = Problem(options.model, options.adapted, expected=options.reports, device=device)
    rows = measure(problem, Workload(options.reports, openi=options.openi), options.rounds)
    print(show(rows))
    write_json(options.json, {"benchmark": "gpu", "card": card, "rows": rows})


if __name__ == "__main__":
    main()
