"""What private training gains from a public base, by the size of a hospital and epsilon, on generated stand-ins.

    python -m benchmarks.private_phase --out private_phase.jsonl
    python -m benchmarks.private_phase --out private_phase.jsonl --table
    python -m benchmarks.private_phase --out curve.jsonl --trained last --sizes 1000,3000,10000,50000 --seeds 1 \
        --banks chest-xray-hospitals --set train.local-steps=12 --set train.batch=256 --plot curve.png  # hours

One stand-in has words and label rules of its own (the bank chest-xray-hospitals, which no public base has seen): there
is something to learn. The other (chest-xray) is what the base was trained on: there is only something to lose.
The hospitals are simulated as in `benchmarks.utility`. Every finished cell is a line of the output file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.utility import federate, part
from fedrad.config import Experiment
from fedrad.data.batches import tokenize
from fedrad.data.load import load_corpus
from fedrad.tasks.task import task_of
from fedrad.training.evaluation import evaluate
from fedrad.training.inputs import prepare
from fedrad.training.local import Recipe, learning_rate
from fedrad.training.setup import pin_arithmetic, plan_for, set_up
from fedrad.training.warm_start import initial_state

EPSILONS = (0.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.01)
TESTED = 1500
# What is trained: (lora.targets, lora.layers).
TRAINED = {"head": ("", 1), "last": ("all-linear", 1), "all": ("all-linear", 0)}


@dataclass(frozen=True)
class Cell:
    """One number of the table. ``trained``: one of `TRAINED`."""

    bank: str
    trained: str
    size: int
    epsilon: float
    hospitals: int
    seed: int


def main() -> None:
    """Runs the cells that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("private_phase.jsonl"))
    parser.add_argument("--sizes", default="1000,3000,10000")
    parser.add_argument("--banks", default="chest-xray-hospitals,chest-xray")
    parser.add_argument("--trained", default="head", choices=TRAINED, help="the head alone, or LoRA with it")
    parser.add_argument("--epsilons", default=",".join(f"{eps:g}" for eps in EPSILONS))
    parser.add_argument("--hospitals", default="1,4")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="section.key=value")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    parser.add_argument("--plot", type=Path, help="draw the curve over the size of the hospitals")
    arguments = parser.parse_args()
    if not arguments.table:
        done = {Cell(**json.loads(line)["cell"]) for line in _lines(arguments.out)}
        for bank in arguments.banks.split(","):
            _run(bank, arguments, done)
    records = [json.loads(line) for line in _lines(arguments.out)]
    print(table(records), by_length(records), sep="\n\n")
    if arguments.plot:
        plot(records, arguments.plot)


def _run(bank: str, arguments: argparse.Namespace, done: set[Cell]) -> None:
    sizes = [int(size) for size in arguments.sizes.split(",")]
    experiment = Experiment.from_flat(
        {
            **Experiment.load(None, arguments.overrides).flat(),
            "data.name": "synthetic",
            "data.bank": bank,
            "train.warm-start": "synthetic",
            "train.threads": arguments.threads,
            "lora.targets": TRAINED[arguments.trained][0],
            "lora.layers": TRAINED[arguments.trained][1],
            "privacy.noise": "seeded",
        }
    )
    pin_arithmetic(experiment)
    reports = load_corpus("synthetic", reports=max(sizes) + TESTED, seed=11, bank=bank)
    setup = set_up(experiment, task_of(reports.features))
    state = initial_state(experiment, setup)
    rows = np.random.default_rng(0).permutation(len(reports))
    tokens = tokenize(reports, rows, setup.base.tokenizer, setup.max_length)
    test = prepare(setup, tokens.select(np.arange(TESTED)))
    everything = prepare(setup, tokens.select(np.arange(TESTED, len(tokens))))

    def scored() -> float:
        return evaluate(test).scores.main

    start = scored()
    for size in sizes:
        for hospitals in (int(count) for count in arguments.hospitals.split(",")):
            for epsilon in (float(text) for text in arguments.epsilons.split(",")):
                for seed in range(arguments.seeds if epsilon else 1):
                    cell = Cell(bank, arguments.trained, size, epsilon, hospitals, seed)
                    if cell in done:
                        continue
                    one = Experiment.from_flat(
                        {
                            **experiment.flat(),
                            "privacy.epsilon": epsilon,
                            "sites.count": hospitals,
                            "train.seed": seed,
                        }
                    )
                    setup.classifier.load_state(state)
                    shards = [part(everything, share) for share in np.array_split(np.arange(size), hospitals)]
                    federate(one, setup, {key: state[key] for key in setup.classifier.adapter()}, shards)
                    recipe = Recipe.of(one, sites=hospitals, warm=True)
                    units = shards[0].units(one.privacy.unit).count
                    rate = learning_rate(recipe, plan_for(one, units))
                    length = rate * recipe.total_steps / (1 - recipe.momentum)
                    record = {"cell": asdict(cell), "start": start, "f1": scored(), "length": length}
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    print(cell, f"{start:.3f} -> {record['f1']:.3f}, length {length:.3g}", flush=True)


def table(records: list[dict[str, object]]) -> str:
    """Markdown: mean gain in weighted F1 over the start, one row a setting, one column an epsilon."""
    cells: dict[tuple[str, str, int, int], dict[float, list[float]]] = {}
    starts: dict[tuple[str, str, int, int], float] = {}
    for record in records:
        cell = Cell(**record["cell"])  # type: ignore[arg-type]
        key = (cell.bank, cell.trained, cell.size, cell.hospitals)
        cells.setdefault(key, {}).setdefault(cell.epsilon, []).append(float(record["f1"]))  # type: ignore[arg-type]
        starts[key] = float(record["start"])  # type: ignore[arg-type]
    columns = sorted({eps for row in cells.values() for eps in row}, key=lambda eps: -eps if eps else -1e9)
    lines = [
        "| bank | trained | reports | hospitals | before | " + " | ".join(f"{e:g}" if e else "none" for e in columns)
    ]
    lines = [lines[0] + " |", "|---" * (5 + len(columns)) + "|"]
    for key in sorted(cells):
        shown = [f"{statistics.mean(cells[key][eps]):.3f}" if eps in cells[key] else "-" for eps in columns]
        lines.append("| " + " | ".join([*map(str, key), f"{starts[key]:.3f}", *shown]) + " |")
    return "\n".join(lines)


def by_length(records: list[dict[str, object]]) -> str:
    """Markdown: the gain by the length of the walk, which `fedrad.planning.expected_gain` holds."""
    lines = ["| bank | length | runs | mean | least | most |", "|---|---|---|---|---|---|"]
    for bank in sorted({str(record["cell"]["bank"]) for record in records}):  # type: ignore[index]
        mine = [
            r for r in records if r["cell"]["bank"] == bank and r["cell"]["epsilon"] and r["cell"]["trained"] == "head"
        ]  # type: ignore[index]
        for low, high in pairwise((0, 1, 3, 8, 20, 60, 150, 400, 601)):
            found = [r for r in mine if low <= float(r["length"]) < high]  # type: ignore[arg-type]
            if found:
                gains = [float(r["f1"]) - float(r["start"]) for r in found]  # type: ignore[arg-type]
                length = statistics.geometric_mean(float(r["length"]) for r in found)  # type: ignore[arg-type]
                figures = [f"{value:+.3f}" for value in (statistics.mean(gains), min(gains), max(gains))]
                lines.append(f"| {bank} | {length:.3g} | {len(gains)} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def plot(records: list[dict[str, object]], path: Path) -> None:
    """Weighted F1 over the number of reports: one panel an epsilon, one line for what is trained and how many
    hospitals share the reports."""
    import matplotlib.pyplot as plt

    found: dict[float, dict[tuple[str, int], dict[int, list[float]]]] = {}
    for record in records:
        cell = Cell(**record["cell"])  # type: ignore[arg-type]
        sizes = found.setdefault(cell.epsilon, {}).setdefault((cell.trained, cell.hospitals), {})
        sizes.setdefault(cell.size, []).append(float(record["f1"]))  # type: ignore[arg-type]
    panels = sorted(found, key=lambda eps: -eps if eps else -1e9)
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.4), sharey=True, layout="constrained")
    colours = {"head": "tab:gray", "last": "tab:blue", "all": "tab:orange"}
    for axis, epsilon in zip(np.atleast_1d(axes), panels, strict=True):
        for (trained, hospitals), values in sorted(found[epsilon].items()):
            sizes = sorted(values)
            means = [statistics.mean(values[size]) for size in sizes]
            name = {"head": "head", "last": "LoRA, last layer", "all": "LoRA, all layers"}[trained]
            axis.plot(
                sizes,
                means,
                label=f"{name}, {hospitals} hospital{'s' if hospitals > 1 else ''}",
                color=colours[trained],
                linestyle="-" if hospitals == 1 else ":",
                marker="o",
                markersize=4,
            )
        axis.axhline(float(records[0]["start"]), color="black", linewidth=0.8, linestyle="--", label="before")  # type: ignore[arg-type]
        axis.set(title=f"epsilon {epsilon:g}" if epsilon else "not private", xscale="log", xlabel="reports")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("weighted F1")
    handles = {
        label: handle
        for axis in np.atleast_1d(axes)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
