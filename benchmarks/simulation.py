"""What a federation in one process costs, against training in one place and against the real `flwr run`.

    python -m benchmarks.simulation                       all three figures
    python -m benchmarks.simulation --only fused-steps    one of them
    python -m benchmarks.simulation --hospitals 4,32,100  the steps for several numbers of hospitals

fused-steps: the noisy steps of H hospitals in one pass against as many centralized steps on the same reports with the
same total batch; in turns, CPU seconds of one thread. What is compared is `run_steps_together` and `run_steps`.
fused-command and inprocess-command: the whole command `fedrad simulate mimic` with --grid fused or inprocess against
--grid flower, in wall seconds, since Flower's processes are not ours to be counted; in turns, same settings, and the
runs' figures must agree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Ratio, Seconds, describe, interleaved, machine, one_thread, ratio, table, write_json
from fedrad.config import Experiment
from fedrad.data.batches import tokenize
from fedrad.privacy.plan import declared_size
from fedrad.training.corpus import hospital_shares, read_corpus, site_name
from fedrad.training.inputs import prepare
from fedrad.training.local import Recipe, TrainingState, run_steps
from fedrad.training.setup import plan_for, set_up
from fedrad.training.together import Member, run_steps_together

REPORTS = 3000
STEPS = 2


def steps_of(
    hospitals: int, batch: int, settings: Sequence[str] = ()
) -> tuple[Callable[[], object], Callable[[], object], int]:
    """Ready to run: some steps of all hospitals in one pass, and as many centralized steps with the same total batch.

    Args:
        batch: expected reports of a step, over all hospitals.
        settings: `section.key=value`, for both.

    Returns:
        the two, and the number of trainable numbers.
    """
    keys = [f"data.reports={REPORTS}", "train.threads=1", "privacy.noise=seeded", "train.warm-start=none", *settings]
    each = max(1, batch // hospitals)
    central = Experiment.load(None, [*keys, f"train.batch={each * hospitals}", "sites.count=1"])
    federated = Experiment.load(None, [*keys, f"train.batch={each}", f"sites.count={hospitals}"])
    corpus = read_corpus(central)
    setup = set_up(central, corpus.task)
    shares = hospital_shares(federated, corpus)
    tokens = tokenize(corpus.reports, np.concatenate(shares), setup.base.tokenizer, setup.max_length)
    inputs = prepare(setup, tokens)
    start = TrainingState({name: tensor.detach().clone() for name, tensor in setup.classifier.adapter().items()})
    ends = np.cumsum([0, *map(len, shares)])
    members = [
        Member(
            site=site_name(index),
            start=int(ends[index]),
            stop=int(ends[index + 1]),
            plan=plan_for(federated, declared_size(len(share))),
            state=start,
        )
        for index, share in enumerate(shares)
    ]
    plan = plan_for(central, declared_size(len(inputs)))
    one = Recipe.of(central)
    many = Recipe.of(federated, sites=hospitals)
    return (
        lambda: run_steps_together(inputs, members, many, STEPS),
        lambda: run_steps(setup.classifier, inputs, plan, one, start, STEPS, site=site_name(0)),
        sum(tensor.numel() for tensor in start.adapter.values()),
    )


def fused_steps(hospitals: int = 32, batch: int = 256, rounds: int = 7, settings: Sequence[str] = ()) -> Ratio:
    """Hospitals in one pass over centralized, for the same total batch."""
    together, alone, _ = steps_of(hospitals, batch, settings)
    times = interleaved({"fused": lambda _: together(), "centralized": lambda _: alone()}, rounds)
    return ratio(times["fused"], times["centralized"])


def commands(grid: str, hospitals: int = 32, rounds: int = 2) -> Ratio:
    """`fedrad simulate mimic` with this grid over the same with --grid flower, in wall seconds of the whole command.

    Raises:
        SystemExit: a command failed, or the two did not end with the same figures.
    """
    times: dict[str, list[Seconds]] = {grid: [], "flower": []}
    with tempfile.TemporaryDirectory(prefix="fedrad-simulation-") as folder:
        for number in range(rounds):
            figures = {}
            for name in (grid, "flower") if number % 2 == 0 else ("flower", grid):
                out = Path(folder, f"{name}-{number}")
                times[name].append(_simulate(name, hospitals, out))
                figures[name] = json.loads((out / "result.json").read_text())
            if figures[grid]["epsilon"] != figures["flower"]["epsilon"]:
                sys.exit(f"simulation: --grid {grid} and --grid flower spent different epsilons")
            if abs(figures[grid]["weighted_f1"] - figures["flower"]["weighted_f1"]) > 0.02:
                sys.exit(f"simulation: --grid {grid} and --grid flower ended with different scores")
    return ratio(times[grid], times["flower"])


def _simulate(grid: str, hospitals: int, out: Path) -> Seconds:
    command = [sys.executable, "-m", "fedrad", "simulate", "mimic", "--grid", grid, "--out", str(out)]
    for setting in (f"sites.count={hospitals}", "privacy.noise=seeded", "train.batch=8", "train.rounds=3"):
        command += ["--set", setting]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"simulation: --grid {grid} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    wall = time.perf_counter() - began
    return Seconds(wall, wall)  # the commands' processes are not ours, so there is no CPU time to compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["fused-steps", "fused-command", "inprocess-command"])
    parser.add_argument("--hospitals", default="32", help="of fused-steps, commas between")
    parser.add_argument("--batch", type=int, default=256, help="of fused-steps: reports of a step, all hospitals")
    parser.add_argument("--rounds", type=int, default=7, help="of fused-steps; the commands are run twice each")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="of fused-steps: section.key=value")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    one_thread()
    warnings.simplefilter("ignore")
    print(describe(machine()), flush=True)
    found: dict[str, Ratio] = {}
    if options.only in (None, "fused-steps"):
        for hospitals in map(int, options.hospitals.split(",")):
            found[f"fused-steps-{hospitals}"] = fused_steps(hospitals, options.batch, options.rounds, options.settings)
    for grid in ("fused", "inprocess"):
        if options.only in (None, f"{grid}-command"):
            found[f"{grid}-command"] = commands(grid)
    print(table(("figure", "ratio (range over rounds)"), [(name, str(value)) for name, value in found.items()]))
    if options.json:
        figures: dict[str, Any] = {name: asdict(value) for name, value in found.items()}
        write_json(options.json, {"benchmark": "simulation", "machine": machine(), "figures": figures})


if __name__ == "__main__":
    main()
