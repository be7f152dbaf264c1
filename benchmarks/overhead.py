"""What a simulated round costs beyond the training itself: many hospitals in one process, a tiny training at each.

Every hospital holds about twenty generated reports and takes one noisy step of the head (``--layer``: of LoRA in one
layer too) on the embedded encoder. From the wall time of each round the seconds inside ``run_steps`` are taken away,
and the rest is split by where it goes. CPU seconds stand beside it: on a machine that others use, wall time measures
the others too. A part's seconds are its own, without those of parts that it calls. The first round
also reads and tokenizes the shards, finds the noise and runs the pre-flight checks, so it stands apart.

    python -m benchmarks.overhead                 128 hospitals, head only
    python -m benchmarks.overhead --layer         LoRA in the last layer as well
    python -m benchmarks.overhead --durable       ledgers and state synced to disk as at a real hospital
    python -m benchmarks.overhead --json          for machines
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import describe, machine, one_thread, table
from fedrad.federation import hospital, run
from fedrad.federation import rounds as flower_rounds
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.filter import Account
from fedrad.simulation import hospitals as simulated
from fedrad.simulation.grid import InProcessGrid
from fedrad.simulation.simulate import simulate
from fedrad.training import site

# part -> the functions, as (owner, name), whose own seconds are counted for it
PARTS: dict[str, list[tuple[Any, str]]] = {
    "run_steps": [(hospital, "run_steps")],
    "messages": [
        (flower_rounds.Rounds, "configure_train"),
        (InProcessGrid, "carried"),
        (hospital, "read_question"),
        (hospital, "content_of"),
        (flower_rounds, "read_answer"),
    ],
    "checks": [
        (simulated.Simulation, "setup_with"),
        (simulated, "adapter_digest"),
        (site, "adapter_digest"),
        (flower_rounds, "check_adapter"),
    ],
    "pre-flight": [(simulated.Simulation, "preflight")],
    "inputs": [(simulated, "read_corpus"), (simulated, "inputs_of")],
    "plan": [(simulated, "local_plan_for")],
    "ledger": [
        (Ledger, "open"),
        (Ledger, "resume"),
        (Ledger, "pause"),
        (Ledger, "record_intent"),
        (Ledger, "mark_done"),
        (Ledger, "close"),
    ],
    "epsilon": [(Account, "epsilon")],
    "state file": [(site, "save_state"), (site, "load_state")],
    "aggregation": [(flower_rounds.Rounds, "aggregate_train"), (flower_rounds.Rounds, "aggregate")],
    "evaluation": [(run, "evaluate"), (run, "append_metrics"), (run, "write_checkpoint")],
}


@dataclass
class Clock:
    """Own seconds of each part, by round."""

    rounds: list[Counter[str]] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    cpu_starts: list[float] = field(default_factory=list)
    cpu_steps: list[float] = field(default_factory=list)
    over: bool = False  # what comes after the last round is no part of it
    _inside: list[float] = field(default_factory=list)

    def next_round(self) -> None:
        self.lap()
        self.rounds.append(Counter())
        self.cpu_steps.append(0.0)

    def lap(self) -> None:
        self.starts.append(time.perf_counter())
        self.cpu_starts.append(time.process_time())

    def timed(self, part: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Calls ``work`` and counts its seconds, those of parts inside it apart."""
        self._inside.append(0.0)
        began, cpu = time.perf_counter(), time.process_time()
        try:
            return work(*args, **options)
        finally:
            took = time.perf_counter() - began
            own = took - self._inside.pop()
            if self._inside:
                self._inside[-1] += took
            if self.rounds and not self.over:
                self.rounds[-1][part] += own
                if part == "run_steps":
                    self.cpu_steps[-1] += time.process_time() - cpu


@contextlib.contextmanager
def watched(clock: Clock, durable: bool) -> Iterator[None]:
    """Puts the clock around every function of ``PARTS`` and around the rounds, and takes it away again."""
    before = [(owner, name, inspect.getattr_static(owner, name)) for places in PARTS.values() for owner, name in places]
    start = flower_rounds.Rounds.start
    try:
        if durable:
            found = Ledger.open
            Ledger.open = lambda *args, **options: found(*args, **{**options, "durable": True})  # type: ignore
        for part, places in PARTS.items():
            for owner, name in places:
                function = getattr(owner, name)
                if isinstance(inspect.getattr_static(owner, name), classmethod) or not inspect.isclass(owner):
                    wrapped: Any = partial(clock.timed, part, function)
                    setattr(owner, name, staticmethod(wrapped) if inspect.isclass(owner) else wrapped)
                else:
                    setattr(owner, name, _method(clock, part, function))

        def configure(self: Any, *args: Any) -> Any:
            clock.next_round()
            return counted(self, *args)

        def whole(self: Any, *args: Any, **options: Any) -> Any:
            result = start(self, *args, **options)
            clock.lap()
            clock.over = True
            return result

        counted = flower_rounds.Rounds.configure_train
        flower_rounds.Rounds.configure_train = configure  # type: ignore[method-assign]
        flower_rounds.Rounds.start = whole  # type: ignore[method-assign]
        yield
    finally:
        flower_rounds.Rounds.start = start  # type: ignore[method-assign]
        for owner, name, original in before:
            setattr(owner, name, original)


def _method(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **options: clock.timed(part, function, self, *args, **options)


def measure(hospitals: int, reports: int, rounds: int, layer: bool, durable: bool) -> dict[str, Any]:
    """Runs the federation; seconds of each round."""
    clock = Clock()
    settings = {
        "sites.count": hospitals,
        "data.reports": round(hospitals * reports / 0.8),
        "data.max-length": 64,
        "train.rounds": rounds,
        "train.local-steps": 1,
        "train.batch": 4,
        "train.threads": 1,
        "train.warm-start": "none",
        "lora.targets": ["query", "value"] if layer else [],
    }
    with tempfile.TemporaryDirectory(prefix="fedrad-overhead-") as folder:
        fsync = _fsync(Path(folder))
        with watched(clock, durable), contextlib.redirect_stdout(io.StringIO()):
            simulate("mimic", [f"{key}={json.dumps(value)}" for key, value in settings.items()], Path(folder, "run"))
        result = json.loads(Path(folder, "run", "result.json").read_text())
    told = []
    for number, parts in enumerate(clock.rounds):
        wall = clock.starts[number + 1] - clock.starts[number]
        steps = parts.pop("run_steps", 0.0)
        parts["rest"] = wall - steps - sum(parts.values())
        cpu = clock.cpu_starts[number + 1] - clock.cpu_starts[number] - clock.cpu_steps[number]
        told.append(
            {
                "round": number + 1,
                "wall": wall,
                "steps": steps,
                "overhead": wall - steps,
                "overhead, CPU": cpu,
                "parts": dict(parts),
            }
        )
    sizes = sorted(set(result["reports"]["declared"].values()))
    return {
        "hospitals": hospitals,
        "declared_sizes": [sizes[0], sizes[-1], len(sizes)],
        "durable": durable,
        "fsync_ms": fsync,
        "first": told[0],
        "rounds": told[1:],
    }


def _fsync(folder: Path) -> float:
    """Median milliseconds of one fsync of a small file there."""
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def show(result: dict[str, Any]) -> str:
    """The table: the first round, and the median and spread of the others."""
    rounds, names = result["rounds"], [*(part for part in PARTS if part != "run_steps"), "rest"]

    def spread(of: Callable[[dict[str, Any]], float]) -> list[str]:
        values = [of(told) for told in rounds]
        return [f"{of(result['first']):.3f}", *(f"{f(values):.3f}" for f in (statistics.median, min, max))]

    def part(name: str, told: dict[str, Any]) -> float:
        return float(told["parts"].get(name, 0.0))

    rows: list[list[str]] = [
        [name, *spread(lambda told, name=name: told[name])]  # type: ignore[misc]
        for name in ("wall", "steps", "overhead, CPU", "overhead")
    ]
    rows += [[f"  {name}", *spread(partial(part, name))] for name in names]
    low, high, kinds = result["declared_sizes"]
    durable = "synced to disk" if result["durable"] else "not synced (simulated hospitals)"
    return "\n".join(
        [
            f"{result['hospitals']} hospitals of {low} to {high} declared reports ({kinds} sizes), {len(rounds)} rounds"
            f" after the first; ledgers {durable}; one fsync here: {result['fsync_ms']:.2f} ms",
            table(("seconds a round", "first", "median", "min", "max"), rows),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hospitals", type=int, default=128)
    parser.add_argument("--reports", type=int, default=20, help="of each hospital, on average")
    parser.add_argument("--rounds", type=int, default=8, help="with the first")
    parser.add_argument("--layer", action="store_true", help="train LoRA in the last layer too, not only the head")
    parser.add_argument("--durable", action="store_true", help="sync to disk as a real hospital does")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    one_thread()
    result = measure(options.hospitals, options.reports, options.rounds, options.layer, options.durable)
    about = machine() | {"flwr": version("flwr")}
    print(json.dumps({"machine": about, **result}) if options.json else f"{describe(about)}\n{show(result)}")


if __name__ == "__main__":
    main()
