"""Strategies compared: weighted F1 x strategy x epsilon x hospitals x label skew x corpus x seeds.

    python -m benchmarks.strategies --out strategies.jsonl [--openi /path/to/openi] [--seeds 5] [--jobs 2]
    python -m benchmarks.strategies --out strategies.jsonl --table [--plot docs/strategies.png]

All cells of a corpus do the same work: the same number of noisy steps, and the same expected number of reports in a
step, shared out over the hospitals. Plans, samples, noise, optimizers and aggregation are those of every run
(`training.local`, `strategies`); messages and ledgers are left out, so that the frozen layers' output can be kept over
thousands of runs.

The encoder is small (2 layers of width 128, of which the last is adapted), so that every cell can have five seeds.
`benchmarks.student` distils it from the embedded encoder, on generated text without labels. Runs start cold: what a
warm start learnt would hide what the private steps learn.

Every finished cell is a line of the output file and is not run again, so a run that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.student import student_folder
from fedrad.config import Experiment
from fedrad.data.batches import tokenize
from fedrad.data.report import DataWarning
from fedrad.data.shards import split_by_patient
from fedrad.federation.state_delta import SentStates, nbytes
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.privacy.plan import declared_size
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name
from fedrad.training.evaluation import evaluate
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import Member, TrainingState, run_steps_together
from fedrad.training.recipe import Recipe
from fedrad.training.setup import Setup, pin_arithmetic, plan_for, set_up
from fedrad.training.site import RoundRequest
from fedrad.training.strategy import Contribution, Round, strategy_of

STRATEGIES = ("head", "fedsb", "fedsb base", "ffa", "rolora", "fedavg", "refactor", "fedex", "flora", "flexlora")
EPSILONS = (0.0, 8.0, 1.0, 0.1)
HOSPITALS = (1, 4, 16)
SKEWS = ("iid", "dirichlet")
CORPORA = ("synthetic", "openi")
# The work of every cell: reports a step over all hospitals, rounds, local steps.
BATCH, ROUNDS, STEPS = 128, 3, 4
# Twice the default, so that what the strategies differ in, the product B A, is heard beside the head.
ALPHA = 16


@dataclass(frozen=True)
class Cell:
    """One run."""

    corpus: str
    strategy: str
    epsilon: float
    hospitals: int
    skew: str
    seed: int


def main() -> None:
    """Runs the cells that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--openi", type=Path, help="folder with indiana_reports.csv; without it, generated reports only"
    )
    parser.add_argument("--out", type=Path, default=Path("strategies.jsonl"), help="finished cells, one JSON line each")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--corpora", default="")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="section.key=value")
    parser.add_argument("--table", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--plot", type=Path, help="where to draw them")
    given = parser.parse_args()
    warnings.simplefilter("ignore", DataWarning)
    if not given.table:
        student_folder()  # made before several processes want it
        done = {Cell(**record["cell"]) for record in records(given.out)}
        corpora = given.corpora.split(",") if given.corpora else [c for c in CORPORA if c == "synthetic" or given.openi]
        # Seed by seed, so that what is cut short is whole seeds of everything.
        groups = [
            [Cell(corpus, strategy, eps, n, skew, seed) for n in HOSPITALS for skew in SKEWS for eps in EPSILONS]
            for seed in range(given.seeds)
            for corpus in corpora
            for strategy in given.strategies.split(",")
        ]
        # One hospital has no skew.
        groups = [[c for c in group if c not in done and (c.hospitals > 1 or c.skew == "iid")] for group in groups]
        path = str(given.openi.resolve()) if given.openi else ""
        work = [(cells, path, str(given.out), tuple(given.overrides)) for cells in groups if cells]
        with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=40) as pool:
            for finished in pool.imap_unordered(run_group, work):
                print(finished, flush=True)
    found = list(records(given.out))
    print(summary(found))
    print(tables(found))
    if given.plot is not None:
        from benchmarks.strategies_plot import draw

        draw(found, given.plot)


def run_group(work: tuple[Sequence[Cell], str, str, tuple[str, ...]]) -> str:
    """Cells of one corpus, strategy and seed, one after the other in this process."""
    cells, path, out, overrides = work
    warnings.simplefilter("ignore", DataWarning)
    began = time.monotonic()
    for cell in cells:
        record = run(cell, path, overrides)
        with Path(out).open("a") as file:
            file.write(json.dumps(record) + "\n")
    first = cells[0]
    return f"{first.corpus} {first.strategy} seed {first.seed}: {len(cells)} cells, {time.monotonic() - began:.0f} s"


def experiment_of(cell: Cell, path: str, overrides: Sequence[str]) -> Experiment:
    """The configuration of a run."""
    return Experiment.load(
        None,
        [
            f"data.name={cell.corpus}",
            *([f"data.path={path}"] if cell.corpus != "synthetic" else []),
            "data.max-length=64",
            f"data.seed={cell.seed}",
            f"model.name={student_folder()}",
            f"train.seed={cell.seed}",
            "train.threads=1",
            "train.warm-start=none",
            f"train.rounds={ROUNDS}",
            f"train.local-steps={STEPS}",
            f"train.batch={BATCH // cell.hospitals}",
            "privacy.noise=seeded",
            f"privacy.epsilon={cell.epsilon}",
            f"sites.count={cell.hospitals}",
            f"sites.partition={cell.skew}",
            "sites.alpha=0.3",
            f"lora.alpha={ALPHA}",
            f"strategy.name={cell.strategy.split()[0]}",
            *([f"strategy.subspace={cell.strategy.split()[1]}"] if " " in cell.strategy else []),
            *overrides,
        ],
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A corpus as a strategy's model reads it. ``inputs`` are all reports, in the corpus's order."""

    corpus: Corpus
    setup: Setup
    inputs: Inputs


@lru_cache(maxsize=1)
def corpus_named(name: str, path: str) -> Corpus:
    # Seed 0 for the generated text; the split is made anew for each seed.
    return read_corpus(Experiment.load(None, [f"data.name={name}", f"data.path={path}"] if path else []))


@lru_cache(maxsize=4)
def prepared(name: str, path: str, strategy: str, overrides: tuple[str, ...]) -> Prepared:
    """The reports through the frozen layers, once for each corpus and structure."""
    experiment = experiment_of(Cell(name, strategy, 0.0, 1, "iid", 0), path, overrides)
    pin_arithmetic(experiment)
    corpus = corpus_named(name, path if name != "synthetic" else "")
    setup = set_up(experiment, corpus.task)
    tokens = tokenize(corpus.reports, np.arange(len(corpus.reports)), setup.base.tokenizer, setup.max_length)
    return Prepared(corpus, setup, prepare(setup, tokens))


def run(cell: Cell, path: str, overrides: tuple[str, ...]) -> dict[str, object]:
    """Trains and scores one cell."""
    experiment = experiment_of(cell, path, overrides)
    ready = prepared(cell.corpus, path, cell.strategy, overrides)
    began, cpu = time.monotonic(), time.process_time()
    train, test = split_by_patient(ready.corpus.reports, experiment.data.test_fraction, cell.seed)
    corpus = replace(ready.corpus, train=np.sort(train), test=np.sort(test))
    shares = hospital_shares(experiment, corpus)
    # A structure of its own per seed: its initial adapter.
    start = set_up(experiment, corpus.task).classifier.state()
    state, spent, up, down = federate(experiment, ready, shares, start)
    ready.setup.classifier.load_state(state)
    held_out = part(ready.inputs, corpus.test)
    found = evaluate(held_out)
    prior = corpus.task.compare(found, found, held_out.tokens).prior
    return {
        "cell": asdict(cell),
        "weighted_f1": found.scores.figures["weighted F1"],
        "macro_f1": found.scores.figures["macro F1"],
        "prior": prior.figures["weighted F1"],
        "epsilon": spent,
        "bytes_up": up,
        "bytes_down": down,
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def federate(
    experiment: Experiment, ready: Prepared, shares: Sequence[NDArray[np.int64]], start: dict[str, Tensor]
) -> tuple[dict[str, Tensor], float | None, list[int], list[int]]:
    """All rounds. Returns the final state, the largest epsilon, and the bytes up and down of each round."""
    strategy, setup = strategy_of(experiment), ready.setup
    inputs = part(ready.inputs, np.concatenate(shares))
    ends = np.cumsum([0, *map(len, shares)])
    recipe = Recipe.of(experiment, sites=len(shares))
    plans = [plan_for(experiment, declared_size(len(share))) for share in shares]
    rounds, steps = experiment.train.rounds, experiment.local_steps
    names = setup.classifier.adapter().keys()
    carried: list[TrainingState | None] = [None] * len(shares)
    state, memory, deltas = start, dict[str, Tensor](), SentStates()
    up, down = [], []
    for number in range(1, rounds + 1):
        facts = Round(number, experiment.train.seed, setup.lora)
        public = strategy.for_rank(state, setup.lora.rank, facts)
        down.append(sum(nbytes(deltas.to(site_name(i), public).tensors) for i in range(len(shares))))
        for index in range(len(shares)):
            deltas.arrived(site_name(index))
        request = RoundRequest.of(
            strategy, names, run="", round=number, steps=steps, last=number == rounds, settings=""
        )
        setup.classifier.load_state(public)
        adapter = {name: public[name] for name in names}
        members = [
            Member(site_name(i), int(ends[i]), int(ends[i + 1]), plan, _before(adapter, carried[i], request))
            for i, plan in enumerate(plans)
        ]
        after = run_steps_together(inputs, members, recipe, steps, request.turns)
        carried = list(after)
        replies = [request.sent(s.result() if request.last else s.adapter) for s in after]
        up.append(sum(map(nbytes, replies)))
        weight = 1.0 / len(shares)
        sent = [Contribution(r, weight, setup.lora.rank) for r in replies]
        state, memory = strategy.advance(state, memory, sent, facts)
    spent = max(composed_epsilon([plan.event(rounds * steps)], plan.delta) for plan in plans)
    return state, spent if plans[0].private else None, up, down


def _before(adapter: dict[str, Tensor], last: TrainingState | None, request: RoundRequest) -> TrainingState:
    """As ``training.site.open_round`` carries it."""
    before = TrainingState(dict(adapter))
    if last is None:
        return before
    return replace(
        before,
        step=last.step,
        moments=last.moments if request.keeps_moments else {},
        average_sum=last.average_sum if request.keeps_average else {},
        averaged=last.averaged if request.keeps_average else 0,
    )


def part(inputs: Inputs, rows: NDArray[np.int64]) -> Inputs:
    """Some of the reports, with what was kept for them."""
    kept = inputs.kept
    if kept is not None and inputs.classifier.head_only:
        kept = kept[rows]
    elif kept is not None:
        offsets = inputs.tokens.offsets
        kept = np.concatenate([kept[offsets[row] : offsets[row + 1]] for row in rows])
    return replace(inputs, tokens=inputs.tokens.select(rows), kept=kept)


def records(path: Path) -> Iterator[dict[str, object]]:
    """The finished cells."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def tables(found: Sequence[dict[str, object]]) -> str:
    """Markdown: one table a corpus, rows strategy and hospitals, columns skew and epsilon; mean (deviation) F1."""
    lines: list[str] = []
    for corpus in CORPORA:
        mine = [(Cell(**r["cell"]), r) for r in found if r["cell"]["corpus"] == corpus]  # type: ignore[index]
        if not mine:
            continue
        seeds = sorted({cell.seed for cell, _ in mine})
        prior = statistics.mean(float(r["prior"]) for _, r in mine)  # type: ignore[arg-type]
        lines += [
            f"{corpus}: weighted F1, mean (standard deviation) over {len(seeds)} seeds; label prior {prior:.3f}.",
            "",
            "| hospitals | strategy | "
            + " | ".join(f"{s}, {_word(e)}" for s in SKEWS for e in EPSILONS)
            + " | KiB up, down | CPU s |",
            "|---" * (4 + len(SKEWS) * len(EPSILONS)) + "|",
        ]
        for hospitals in HOSPITALS:
            for strategy in STRATEGIES:
                row = [(c, r) for c, r in mine if (c.hospitals, c.strategy) == (hospitals, strategy)]
                if not row:
                    continue
                cells = [
                    _mean([float(r["weighted_f1"]) for c, r in row if (c.skew, c.epsilon) == (s, e)])  # type: ignore[arg-type]
                    for s in SKEWS
                    for e in EPSILONS
                ]
                up, down = (
                    statistics.mean(sum(r[key]) / hospitals / 1024 for _, r in row)  # type: ignore[arg-type]
                    for key in ("bytes_up", "bytes_down")
                )
                cpu = statistics.mean(float(r["cpu_seconds"]) for _, r in row)  # type: ignore[arg-type]
                lines.append(f"| {hospitals} | {strategy} | {' | '.join(cells)} | {up:.0f}, {down:.0f} | {cpu:.1f} |")
        lines.append("")
    return "\n".join(lines) or "no finished cells"


def summary(found: Sequence[dict[str, object]]) -> str:
    """Markdown: weighted F1 minus that of `head` in the same cells, mean over corpora, hospitals and skews.

    Paired: the two share split, shards and samples. What is in brackets is the standard error over seeds, whose figures
    are independent; those of one seed are not.
    """
    scores = {Cell(**r["cell"]): float(r["weighted_f1"]) for r in found}  # type: ignore[arg-type]
    lines = [
        "Weighted F1 less that of `head`, in hundredths; mean over corpora, numbers of hospitals and skews (standard",
        "error over seeds).",
        "",
        "| strategy | " + " | ".join(f"epsilon {_word(e)}" for e in EPSILONS) + " |",
        "|---" * (1 + len(EPSILONS)) + "|",
    ]
    for strategy in STRATEGIES[1:]:
        columns = []
        for epsilon in EPSILONS:
            seeds: dict[int, list[float]] = {}
            for cell, value in scores.items():
                against = replace(cell, strategy="head")
                if (cell.strategy, cell.epsilon) == (strategy, epsilon) and against in scores:
                    seeds.setdefault(cell.seed, []).append(100 * (value - scores[against]))
            means = [statistics.mean(values) for values in seeds.values()]
            error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else float("nan")
            columns.append(f"{statistics.mean(means):+.1f} ({error:.1f})" if means else "-")
        lines.append(f"| {strategy} | {' | '.join(columns)} |")
    return "\n".join([*lines, ""])


def _word(epsilon: float) -> str:
    return f"{epsilon:g}" if epsilon else "none"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ({statistics.stdev(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
