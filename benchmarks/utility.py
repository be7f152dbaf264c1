"""Weighted F1 on Open-i: what is trained x epsilon x {centralized, four hospitals} x seeds, overall and per label.

    python -m benchmarks.utility --openi /path/to/openi --seeds 3 --out utility.jsonl
    python -m benchmarks.utility --out utility.jsonl --table

80/20 by patient, one split per seed. The hospitals are simulated in this process through the same loop, plan and
aggregation as `flwr run` (tests prove that the two give the same bits), so that base model and frozen features are
computed once per seed. Every finished cell is a line of the output file and is not run again, so a run that was cut
short goes on.
Beside the rows (`ROWS`) stands the label-prior predictor, which reads no text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedrad.config import Experiment
from fedrad.data.batches import Tokenized, tokenize
from fedrad.data.report import DataWarning
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.privacy.plan import declared_size
from fedrad.public_base.choice import starts_warm
from fedrad.training.corpus import hospital_shares, read_corpus, site_name
from fedrad.training.evaluation import evaluate
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import Recipe, TrainingState, run_steps
from fedrad.training.setup import Setup, pin_arithmetic, plan_for, set_up
from fedrad.training.strategy import weighted_mean
from fedrad.training.warm_start import initial_state

EPSILONS = (0.0, 10.0, 3.0, 1.0, 0.1, 0.01)
# What is trained, from where: the settings that differ from the defaults.
ROWS: dict[str, dict[str, object]] = {
    "default": {},
    "head, all 384 features": {"model.directions": 0, "lora.targets": ""},
    "head, without the public head": {"model.name": "chest-minilm", "train.warm-start": "none", "lora.targets": ""},
    "head of MiniLM": {"train.warm-start": "none", "lora.targets": ""},
    "LoRA, last layer": {"lora.targets": "all-linear"},
}


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    seed: int
    row: str
    epsilon: float
    hospitals: int


def main() -> None:
    """Runs the cells that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openi", type=Path, help="folder with indiana_reports.csv")
    parser.add_argument("--out", type=Path, default=Path("utility.jsonl"), help="finished cells, one JSON line each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", default="default", help=f"of {'; '.join(ROWS)}; with ; between")
    parser.add_argument("--epsilons", default=",".join(f"{eps:g}" for eps in EPSILONS), help="0: without privacy")
    parser.add_argument("--hospitals", default="1,4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="section.key=value")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DataWarning)
    if not arguments.table:
        done = {Cell(**record["cell"]) for record in _records(arguments.out)}
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            counts = [int(count) for count in arguments.hospitals.split(",")]
            for row in arguments.rows.split(";"):
                for private in (True, False):  # they may train different tensors
                    wanted = [eps for eps in map(float, arguments.epsilons.split(",")) if (eps > 0) == private]
                    cells = [Cell(seed, row, eps, sites) for sites in counts for eps in wanted]
                    if missing := [cell for cell in cells if cell not in done]:
                        _run(missing, arguments)
    print(table(list(_records(arguments.out))))


def _run(cells: list[Cell], arguments: argparse.Namespace) -> None:
    first = cells[0]
    keys: dict[str, object] = {
        "data.name": "openi",
        "data.path": str(arguments.openi.resolve()),
        "data.seed": first.seed,
        "train.seed": first.seed,
        "train.threads": arguments.threads,
        "privacy.noise": "seeded",
        "privacy.epsilon": first.epsilon,
        **ROWS[first.row],
    }
    experiment = Experiment.load(None, [*arguments.overrides, *(f"{k}={json.dumps(v)}" for k, v in keys.items())])
    pin_arithmetic(experiment)
    corpus = read_corpus(experiment)
    setup = set_up(experiment, corpus.task)
    state = initial_state(experiment, setup)
    test = prepare(setup, _tokens(setup, corpus.reports, corpus.test))
    everything = prepare(setup, _tokens(setup, corpus.reports, corpus.train))
    shards: dict[int, list[Inputs]] = {}
    for sites in sorted({cell.hospitals for cell in cells}):
        shares = hospital_shares(Experiment.from_flat({**experiment.flat(), "sites.count": sites}), corpus)
        shards[sites] = [part(everything, np.searchsorted(corpus.train, share)) for share in shares]

    def scored() -> dict[str, object]:
        return evaluate(test).scores.as_dict()

    first_scores = evaluate(test)
    start, prior = first_scores.scores.as_dict(), setup.task.compare(first_scores, first_scores, test.tokens).prior
    for cell in cells:
        began = time.monotonic()
        one = Experiment.from_flat(
            {**experiment.flat(), "privacy.epsilon": cell.epsilon, "sites.count": cell.hospitals}
        )
        setup.classifier.load_state(state)
        spent = federate(one, setup, {k: state[k] for k in setup.classifier.adapter()}, shards[cell.hospitals])
        record = {
            "cell": cell.__dict__,
            "start": start,
            "prior": prior.as_dict(),
            "scores": scored(),
            "epsilon": spent,
            "seconds": round(time.monotonic() - began, 1),
        }
        with arguments.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(cell, f"weighted F1 {record['scores']['weighted_f1']:.3f}", f"{record['seconds']} s", flush=True)  # type: ignore[index]


def federate(
    experiment: Experiment, setup: Setup, adapter: dict[str, torch.Tensor], shards: list[Inputs]
) -> float | None:
    """All rounds; leaves the result in the classifier. Returns the largest epsilon, None if not private."""
    warm = starts_warm(experiment, setup.task.findings)
    recipe = Recipe.of(experiment, sites=len(shards), warm=warm)
    unit = experiment.privacy.unit
    plans = [plan_for(experiment, declared_size(shard.units(unit).count)) for shard in shards]
    states = [TrainingState(adapter) for _ in shards]
    weights = [1.0 / len(shards)] * len(shards)
    rounds, steps = experiment.train.rounds, experiment.local_steps
    for number in range(1, rounds + 1):
        for index, shard in enumerate(shards):
            before = TrainingState(
                adapter, states[index].step, states[index].moments, states[index].average_sum, states[index].averaged
            )
            states[index] = run_steps(
                setup.classifier, shard, plans[index], recipe, before, steps, site=site_name(index)
            )
        last = number == rounds
        adapter = weighted_mean([state.result() if last else state.adapter for state in states], weights)
    setup.classifier.load_adapter(adapter)
    if not plans[0].private:
        return None
    return max(composed_epsilon([plan.event(rounds * steps)], plan.delta) for plan in plans)


def table(records: list[dict[str, object]]) -> str:
    """Markdown: mean weighted F1 over seeds (standard deviation), one row a setting, one column an epsilon; then the
    default's labels, centralized."""
    if not records:
        return "no finished cells"
    cells: dict[tuple[str, int, float], list[float]] = {}
    prior, starts = [], {}
    for record in records:
        cell = Cell(**record["cell"])  # type: ignore[arg-type]
        cells.setdefault((cell.row, cell.hospitals, cell.epsilon), []).append(_f1(record, "scores"))
        starts.setdefault(cell.row, {})[cell.seed] = _f1(record, "start")
        prior.append((cell.seed, _f1(record, "prior")))
    seeds = len({seed for seed, _ in prior})
    names = [f"{eps:g}" if eps else "none" for eps in EPSILONS]
    lines = [
        f"Weighted F1 on Open-i, mean (standard deviation) over {seeds} seeds; delta 1e-5, unit: report.",
        f"The label-prior predictor reaches {statistics.mean(dict(prior).values()):.3f}.",
        "",
        "| trained | hospitals | before | " + " | ".join(f"epsilon {name}" for name in names) + " |",
        "|---" * (3 + len(EPSILONS)) + "|",
    ]
    for row, hospitals in sorted({key[:2] for key in cells}, key=lambda key: (list(ROWS).index(key[0]), key[1])):
        shown = [_show(cells.get((row, hospitals, eps), [])) for eps in EPSILONS]
        lines.append(
            "| " + " | ".join([row, str(hospitals), f"{statistics.mean(starts[row].values()):.3f}", *shown]) + " |"
        )
    mine = [record for record in records if Cell(**record["cell"]).row == "default"]  # type: ignore[arg-type]
    if labels := list(_labels(mine[0], "scores")) if mine else []:
        columns = (0.0, 10.0, 1.0, 0.1)
        lines += [
            "",
            "| label (default, centralized) | before | "
            + " | ".join(f"{eps:g}" if eps else "none" for eps in columns)
            + " |",
        ]
        lines.append("|---" * (2 + len(columns)) + "|")
        for label in labels:
            row_of = [
                statistics.mean(
                    _labels(r, "scores")[label]
                    for r in mine
                    if (Cell(**r["cell"]).hospitals, Cell(**r["cell"]).epsilon) == (1, eps)  # type: ignore[arg-type]
                )
                for eps in columns
                if cells.get(("default", 1, eps))
            ]
            before = statistics.mean(_labels(r, "start")[label] for r in mine)
            lines.append(f"| {label} | {before:.2f} | " + " | ".join(f"{value:.2f}" for value in row_of) + " |")
    return "\n".join(lines)


def _labels(record: dict[str, object], which: str) -> dict[str, float]:
    return dict(record[which]["per_label"])  # type: ignore[index]


def part(inputs: Inputs, rows: np.ndarray) -> Inputs:  # type: ignore[type-arg]
    """Some of the reports, with what was kept for them; all of them without a copy."""
    if len(rows) == len(inputs) and (rows == np.arange(len(inputs))).all():
        return inputs
    kept = inputs.kept
    if kept is not None and inputs.classifier.head_only:
        kept = kept[rows]
    elif kept is not None:
        offsets = inputs.tokens.offsets
        kept = np.concatenate([kept[offsets[row] : offsets[row + 1]] for row in rows])
    return replace(inputs, tokens=inputs.tokens.select(rows), kept=kept)


def _show(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ({statistics.stdev(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _f1(record: dict[str, object], which: str) -> float:
    return float(record[which]["weighted_f1"])  # type: ignore[index]


def _tokens(setup: Setup, reports: object, rows: np.ndarray) -> Tokenized:  # type: ignore[type-arg]
    return tokenize(reports, rows, setup.base.tokenizer, setup.max_length)  # type: ignore[arg-type]


def _records(path: Path) -> Iterator[dict[str, object]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


if __name__ == "__main__":
    main()
