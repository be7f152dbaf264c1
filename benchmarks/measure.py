"""How things are measured here: in turns, in CPU seconds of one thread, and memory in a process of its own.

Why CPU seconds: benchmarks run on machines that others use too. Wall time then measures the others; the CPU time of one
thread is what the work costs on one core. Wall time is kept beside it, to show whether the machine was quiet.
Why in turns (A B B A A B ...): whatever drifts (temperature, neighbours, caches) then meets all alike.
Why ratios: they carry over to other machines far better than seconds do.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16")
PACKAGES = ("torch", "transformers", "peft", "opacus", "numpy")


@dataclass(frozen=True)
class Seconds:
    """What one call took: CPU seconds of this process, all its threads together, and wall seconds."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Ratio:
    """Median CPU seconds of A over those of B.

    Attributes:
        value: median of A / median of B.
        low, high: smallest and largest ratio of any single round, in which A and B did the same work one after the
            other.
        rounds: how many there were.
    """

    value: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}..{self.high:.2f})"


def one_thread() -> None:
    """One thread for torch in this process. Call before anything is measured."""
    torch.set_num_threads(1)


def timed(work: Callable[[], object]) -> Seconds:
    """Runs it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def turns(names: Sequence[str], rounds: int) -> Iterable[tuple[int, str]]:
    """(round, name) in the order of running: forwards and backwards in turn, A B B A A B B A."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def interleaved(runs: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, list[Seconds]]:
    """Times all ``runs`` in turns, after one call of each that does not count.

    Args:
        runs: name -> what to time. It is given the round's number, so that in one round all can do the same work.
    """
    for run in runs.values():
        run(0)
    times: dict[str, list[Seconds]] = {name: [] for name in runs}
    for number, name in turns(list(runs), rounds):
        gc.collect()  # or one run would pay for what another left behind
        times[name].append(timed(lambda run=runs[name], number=number: run(number)))  # type: ignore[misc]
    return times


def median(times: Sequence[Seconds]) -> Seconds:
    """Medians of CPU and of wall time, each by itself."""
    return Seconds(statistics.median(t.cpu for t in times), statistics.median(t.wall for t in times))


def ratio(ours: Sequence[Seconds], theirs: Sequence[Seconds]) -> Ratio:
    """Of CPU seconds; the two lists belong to the same rounds."""
    single = [a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(ours).cpu / median(theirs).cpu, min(single), max(single), len(single))


def growth(work: Callable[[], object]) -> float:
    """Peak resident memory while ``work`` runs, less what was resident before, in MB (10^6 bytes). Linux only.

    The peak is that of the whole process, so the process should do nothing else: see ``benchmarks/memory.py``.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide part of the growth
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    work()
    return (_status("VmHWM") - before) / 1e6


def _status(field: str) -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only.")


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code: processor, instruction sets, load, versions, date."""
    model, flags = _processor()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": model,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> tuple[str, set[str]]:
    """Model name and flags; where there is no /proc/cpuinfo, what Python knows, and no flags."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def describe(about: Mapping[str, Any]) -> str:
    """``machine()`` in two lines."""
    sets = " ".join(about["instruction_sets"]) or "none of those that matter"
    versions = ", ".join(f"{name} {about[name]}" for name in PACKAGES)
    return (
        f"{about['processor']}, {about['cores']} cores ({sets}), load {about['load']}, {about['threads']} thread(s),"
        f" {about['date']}\nPython {about['python']}, {versions}"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that is also readable as it is: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        sides = [str.ljust, *[str.rjust] * (len(widths) - 1)]
        padded = [side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths))
    return "\n".join([line(list(columns)), f"|{rule}|", *map(line, cells)])


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Writes the results with the machine beside them, if there is a path."""
    if path is not None:
        text = json.dumps({"machine": machine(), **results}, indent=1, default=asdict)
        path.write_text(f"{text}\n", encoding="utf-8")
