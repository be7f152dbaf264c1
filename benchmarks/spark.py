"""What ``fedrad predict --engine spark`` costs beside one process, and whether it answers the same.

Makes generated order notes and a random encoder (three layers of width 32, so that what Spark costs stands out), runs
both commands as a user would, and compares their files row by row. CPU seconds and memory are sums over the command and
every process that it starts, looked at four times a second; memory is the proportional set size, in which a page that k
processes share counts as 1/k of it in each.

    python -m benchmarks.spark                       20,000 notes, then 100,000: does memory grow?
    python -m benchmarks.spark --notes 2000          quicker
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import psutil
import torch
from transformers import BertConfig, BertModel

from benchmarks.measure import describe, machine, table, write_json
from fedrad.config import Experiment
from fedrad.corpora import PROTOCOLS
from fedrad.data.protocol import generate
from fedrad.model.base import load_base
from fedrad.settings import EMBEDDED
from fedrad.tasks.single_label import SingleLabel
from fedrad.training.setup import set_up

_EVERY = 0.25  # seconds
_LENGTH = 128  # tokens of a note, at most


@dataclass(frozen=True)
class Cost:
    """Of a command: CPU seconds by kind of process, wall seconds, and MB of all processes together at most."""

    cpu: dict[str, float]
    wall: float
    peak: float


def make_notes(file: Path, count: int) -> None:
    """A CSV file with the columns id and input."""
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "input"])
        writer.writerows([number, row["text"]] for number, row in enumerate(generate(count, seed=7)))


def make_run(directory: Path) -> Path:
    """A run directory whose model was never trained, but answers differently from note to note."""
    torch.manual_seed(0)
    tokenizer = load_base(EMBEDDED).tokenizer
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": _LENGTH, "initializer_range": 0.2}
    layers = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    base = str(directory / "base")
    BertModel(BertConfig(**sizes, **layers)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    flat = {"model.name": base, "data.name": "protocol", "data.max-length": _LENGTH, "train.warm-start": "none"}
    setup = set_up(Experiment.from_flat(flat), SingleLabel(PROTOCOLS))
    with torch.no_grad():
        for parameter in setup.classifier.adapter().values():
            parameter.normal_(std=0.5)
    statement = "none: random"
    setup.task.export(
        setup.classifier, setup.base, directory / "adapter", max_length=_LENGTH, privacy_statement=statement
    )
    return directory


def cost_of(command: list[str]) -> Cost:
    """Runs it. Raises CalledProcessError if it fails."""
    begun, cpu, peak = time.perf_counter(), dict[tuple[str, int], float](), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        main = psutil.Process(process.pid)
        while process.poll() is None:
            memory = 0.0
            try:
                for each in [main, *main.children(recursive=True)]:
                    times = each.cpu_times()
                    cpu[_kind(each, main), each.pid] = times.user + times.system
                    memory += each.memory_full_info().pss / 1e6
            except psutil.Error:  # one of them has just ended
                continue
            peak = max(peak, memory)
            time.sleep(_EVERY)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    total: Counter[str] = Counter()
    for (kind, _), seconds in cpu.items():
        total[kind] += seconds  # type: ignore[assignment]
    return Cost(dict(total), time.perf_counter() - begun, peak)


def _kind(process: psutil.Process, main: psutil.Process) -> str:
    if process == main:
        return "fedrad"
    return "JVM" if "java" in process.name() else "workers"


def compared(one: Path, other: Path) -> tuple[int, int, float]:
    """Rows, those whose answers differ, and the largest difference of a probability.

    Raises:
        ValueError: they do not have the same rows in the same order.
    """
    rows = differ = 0
    largest = 0.0
    with one.open(newline="") as left, other.open(newline="") as right:
        for a, b in zip_longest(csv.DictReader(left), csv.DictReader(right)):
            if a is None or b is None or a["id"] != b["id"]:
                raise ValueError(f"{one} and {other} do not have the same rows")
            rows += 1
            differ += a["answer"] != b["answer"]
            largest = max(largest, *(abs(float(a[label]) - float(b[label])) for label in PROTOCOLS))
    return rows, differ, largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, nargs="*", default=[20_000, 100_000])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    print(describe(machine()), flush=True)
    figures, rows = [], []
    with tempfile.TemporaryDirectory(prefix="fedrad-spark-") as name:
        run = make_run(Path(name, "run"))
        for count in options.notes:
            notes, outs = Path(name, f"{count}.csv"), {}
            make_notes(notes, count)
            for engine in ("local", "spark"):
                outs[engine] = Path(name, f"{count}-{engine}.csv")
                command = [sys.executable, "-m", "fedrad", "predict", str(run), str(notes), str(outs[engine])]
                cost = cost_of([*command, "--column", "input", "--engine", engine])
                parts = ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in cost.cpu.items())
                figures.append({"notes": count, "engine": engine, **cost.__dict__})
                rows.append((f"{count:,}", engine, f"{sum(cost.cpu.values()):.0f}", parts, f"{cost.peak:.0f}"))
                print(f"{count:,} notes, {engine}: {cost.wall:.0f} s by the clock", flush=True)
            found, differ, largest = compared(*outs.values())
            figures.append({"notes": count, "rows": found, "answers that differ": differ, "difference": largest})
            print(f"{found:,} rows: {differ} answers differ, probabilities by {largest:.1e} at most", flush=True)
    print(table(("notes", "engine", "cpu s", "of these", "peak MB"), rows))
    write_json(options.json, {"benchmark": "spark", "machine": machine(), "figures": figures})


if __name__ == "__main__":
    main()
