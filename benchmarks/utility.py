"""Weighted F1 on Open-i: epsilon x {head, warmed, LoRA} x {cold, warm start} x {centralized, four hospitals} x seeds.

    python benchmarks/utility.py --openi /path/to/openi --seeds 3 --out utility.jsonl
    python benchmarks/utility.py --out utility.jsonl --table

80/20 by patient, one split per seed. The hospitals are simulated in this process through the same loop, plan and
aggregation as `flwr run` (tests prove that the two give the same bits), so that base model and frozen features are
computed once per seed. Every finished cell is a line of the output file and is not run again, so a run that was cut
short goes on.
head: the head alone, on the features of the base model. warmed: LoRA learns from generated reports only, the head from
the hospitals' (lora.freeze-a, lora.freeze-b). lora: A, B and head learn from the hospitals' reports. Beside them stands
the label-prior predictor, which reads no text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedrad.config import Experiment
from fedrad.data.batches import Tokenized, tokenize
from fedrad.data.report import DataWarning
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.privacy.plan import declared_size
from fedrad.training.corpus import hospital_shares, read_corpus, site_name
from fedrad.training.evaluation import evaluate
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import Recipe, TrainingState, run_steps
from fedrad.training.metrics import label_prior_decisions, score
from fedrad.training.setup import Setup, pin_arithmetic, plan_for, set_up
from fedrad.training.start import starts_warm
from fedrad.training.strategy import weighted_mean
from fedrad.training.warm_start import initial_state

EPSILONS = (0.0, 10.0, 3.0, 1.0, 0.1)


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    seed: int
    model: str
    warm: str
    epsilon: float
    hospitals: int


def main() -> None:
    """Runs the cells that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openi", type=Path, help="folder with indiana_reports.csv")
    parser.add_argument("--out", type=Path, default=Path("utility.jsonl"), help="finished cells, one JSON line each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--models", default="head,warmed,lora")
    parser.add_argument("--warm", default="none,synthetic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="section.key=value")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DataWarning)
    if not arguments.table:
        done = {Cell(**record["cell"]) for record in _records(arguments.out)}
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for model in arguments.models.split(","):
                for warm in ("synthetic",) if model == "warmed" else arguments.warm.split(","):
                    cells = [Cell(seed, model, warm, eps, sites) for sites in (1, 4) for eps in EPSILONS]
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
        "train.warm-start": first.warm,
        "privacy.noise": "seeded",
    }
    if first.model == "head":
        keys["lora.targets"] = ""
    if first.model == "warmed":
        keys |= {"lora.freeze-a": True, "lora.freeze-b": True}
    experiment = Experiment.load(None, [*arguments.overrides, *(f"{k}={json.dumps(v)}" for k, v in keys.items())])
    pin_arithmetic(experiment)
    corpus = read_corpus(experiment)
    setup = set_up(experiment, corpus.names, corpus.single_label)
    state = initial_state(experiment, setup)
    test = prepare(setup.classifier, _tokens(setup, corpus.reports, corpus.test), setup.pad_id)
    everything = prepare(setup.classifier, _tokens(setup, corpus.reports, corpus.train), setup.pad_id)
    shards: dict[int, list[Inputs]] = {}
    for sites in sorted({cell.hospitals for cell in cells}):
        shares = hospital_shares(Experiment.from_flat({**experiment.flat(), "sites.count": sites}), corpus)
        shards[sites] = [_part(everything, np.searchsorted(corpus.train, share)) for share in shares]

    def scored() -> dict[str, object]:
        return evaluate(setup.classifier, test, corpus.names, single_label=False).scores.as_dict()

    start = scored()
    prevalence = shards[min(shards)][0].tokens.labels.mean(axis=0)
    prior = score(
        label_prior_decisions(np.asarray(prevalence, dtype=np.float64), len(test), single_label=False),
        test.tokens.labels,
        test.tokens.mask,
        corpus.names,
    )
    for cell in cells:
        began = time.monotonic()
        # The same expected batch in all: four hospitals take a quarter each.
        batch = max(1, experiment.train.batch // cell.hospitals)
        one = Experiment.from_flat(
            {**experiment.flat(), "privacy.epsilon": cell.epsilon, "train.batch": batch, "sites.count": cell.hospitals}
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
    warm = starts_warm(experiment, setup.names, single_label=False)
    recipe = Recipe.of(experiment, single_label=False, sites=len(shards), warm=warm)
    plans = [plan_for(experiment, declared_size(len(shard))) for shard in shards]
    states = [TrainingState(adapter) for _ in shards]
    weights = [1.0 / len(shards)] * len(shards)
    rounds, steps = experiment.train.rounds, experiment.train.local_steps
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
    """Markdown: mean weighted F1 over seeds (standard deviation), one row a setting, one column an epsilon."""
    if not records:
        return "no finished cells"
    cells: dict[tuple[str, str, int, float], list[float]] = {}
    prior, starts = [], {}
    for record in records:
        cell = Cell(**record["cell"])  # type: ignore[arg-type]
        cells.setdefault((cell.model, cell.warm, cell.hospitals, cell.epsilon), []).append(_f1(record, "scores"))
        starts.setdefault((cell.model, cell.warm), {})[cell.seed] = _f1(record, "start")
        prior.append((cell.seed, _f1(record, "prior")))
    seeds = len({seed for seed, _ in prior})
    names = {0.0: "none", **{eps: f"{eps:g}" for eps in EPSILONS if eps}}
    lines = [
        f"Weighted F1 on Open-i, mean (standard deviation) over {seeds} seeds; delta 1e-5, unit: report.",
        f"The label-prior predictor reaches {statistics.mean(dict(prior).values()):.3f}.",
        "",
        "| model | start | hospitals | before | " + " | ".join(f"epsilon {names[eps]}" for eps in EPSILONS) + " |",
        "|---" * (4 + len(EPSILONS)) + "|",
    ]
    for model, warm, hospitals in sorted({key[:3] for key in cells}, key=lambda k: (k[1], k[2], k[0])):
        before = statistics.mean(starts[model, warm].values())
        row = [model, "cold" if warm == "none" else "warm", str(hospitals), f"{before:.3f}"]
        row += [_show(cells.get((model, warm, hospitals, eps), [])) for eps in EPSILONS]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _part(inputs: Inputs, rows: np.ndarray) -> Inputs:  # type: ignore[type-arg]
    """Some of the reports, with what was kept for them."""
    kept = inputs.kept
    if kept is not None and inputs.classifier.head_only:
        kept = kept[rows]
    elif kept is not None:
        offsets = inputs.tokens.offsets
        kept = np.concatenate([kept[offsets[row] : offsets[row + 1]] for row in rows])
    return Inputs(inputs.tokens.select(rows), inputs.classifier, kept, inputs.pad_id)


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
