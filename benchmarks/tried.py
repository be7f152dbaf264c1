"""Ideas beside the default: another decision than 1/2, one Gaussian query, a filtered gradient, cleaned LoRA matrices.

    python -m benchmarks.tried --openi /path/to/openi --out tried.jsonl     # half an hour on one core
    python -m benchmarks.tried --out tried.jsonl --table

Corpora: Open-i (80/20 by patient, one split a seed); stand-ins, of the bank chest-xray-hospitals, which no public base
has seen; and known reports, of a bank that the base was trained on. All hospitals are one. Starts: warm, from the
public head; cold, from a head that knows the prior alone. Features are frozen and computed once. Whatever decides a
constant is public: the noise, or generated reports. One row is no rule: thresholds that are best on the test reports,
which say what no rule can beat. Every finished cell is a line of the output file and is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.tried_ideas import (
    FILTERS,
    QUERIES,
    Task,
    Walk,
    decisions,
    default,
    filtered,
    noise_of,
    one_query,
    shrunk,
)
from benchmarks.utility import part
from fedrad.config import Experiment
from fedrad.data.batches import Tokenized, tokenize
from fedrad.data.load import load_corpus
from fedrad.data.report import DataWarning, label_names
from fedrad.data.shards import split_by_patient
from fedrad.tasks.metrics import f1_scores
from fedrad.tasks.task import task_of
from fedrad.training.evaluation import predictions
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import LORA_SHARE, Recipe, TrainingState, run_steps
from fedrad.training.setup import Setup, pin_arithmetic, plan_for, set_up
from fedrad.training.strategy import strategy_of
from fedrad.training.warm_start import initial_state

EPSILONS = (10.0, 1.0, 0.3, 0.1, 0.01)
SIZES = (500, 2000, 8000)
TESTED, GENERATED = 1500, 4000
PUBLIC_BANKS = ("chest-xray", "chest-xray-icu", "chest-xray-british", "chest-xray-indian")
RARE = 6  # so many labels, those with the fewest positives
STARTS: dict[str, dict[str, object]] = {"warm": {}, "cold": {"model.name": "chest-minilm", "train.warm-start": "none"}}


HEADINGS = {
    "decision": "Decisions",
    "query": "One Gaussian query",
    "filter": "A filtered gradient, and a cleaned head",
    "lora": "LoRA in query and value of the last layer",
}
LORA: dict[str, dict[str, object]] = {"LoRA": {}, "LA-LoRA": {"strategy.name": "rolora", "strategy.alternate": "step"}}
Array = NDArray[np.float32]


def head_cells(task: Task, epsilon: float, seed: int, cold: bool) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(part, method, head, threshold of each label) of everything that is tried on this task."""
    head = default(task, epsilon, seed)
    half = torch.zeros(len(head), dtype=torch.float64)
    for rule, thresholds in decisions(task, head).items():
        yield "decision", rule, head, thresholds
    for factor in (2.0, 4.0):
        faster = filtered(task, epsilon, seed, Walk(bias=factor))
        yield "decision", f"1/2, the bias learns {factor**2:g} times as fast", faster, half
    if not cold:
        yield "decision", "1/2, the bias alone is trained", default(task, epsilon, seed, frozenset(["head.bias"])), half
    yield "query", "default", head, half
    for name, constants in QUERIES.items():
        yield "query", name, one_query(task, epsilon, seed, *constants), half
    yield "filter", "default", head, half
    for name, walk in FILTERS.items():
        yield "filter", name, filtered(task, epsilon, seed, walk), half
    plan, recipe = task.terms(epsilon, seed)
    cleaned = head.clone()
    cleaned[:, :-1] = task.head[:, :-1] + shrunk((head - task.head)[:, :-1], noise_of(plan, recipe, 1.0))
    yield "filter", "singular values of the head's change shrunk", cleaned, half


def experiment_of(start: str, **more: object) -> Experiment:
    keys = {"data.name": "synthetic", "data.bank": "chest-xray-hospitals", "train.warm-start": "synthetic"}
    keys |= {"lora.targets": "", "privacy.noise": "seeded", "train.threads": 1, **STARTS[start], **more}  # type: ignore[dict-item]
    return Experiment.from_flat({**Experiment.load(None, []).flat(), **keys})


def read(openi: Path | None, setup: Setup, folder: Path) -> dict[str, tuple[Tokenized, Array, object]]:
    """Corpus -> tokens, pooled vectors [n, 384], the corpus; vectors are kept in the folder."""
    corpora = {
        "stand-in": load_corpus("synthetic", reports=max(SIZES) + TESTED, seed=11, bank="chest-xray-hospitals"),
        "known": load_corpus("synthetic", reports=2000 + TESTED, seed=11, bank="chest-xray"),
        **{bank: load_corpus("synthetic", reports=GENERATED // 4, seed=7_000_017, bank=bank) for bank in PUBLIC_BANKS},
        **({"Open-i": load_corpus("openi", openi)} if openi else {}),
    }
    found = {}
    for name, corpus in corpora.items():
        assert label_names(corpus.features) == setup.task.labels
        tokens = tokenize(corpus, np.arange(len(corpus)), setup.base.tokenizer, setup.max_length)
        assert tokens.mask.all()
        file = folder / f"{name}.npy"
        if not file.is_file():  # the classifier is fresh: its features are the pooled vectors
            kept = prepare(setup, tokens).kept
            assert kept is not None
            np.save(file, kept)
        found[name] = tokens, np.load(file), corpus
    return found


def tasks(openi: Path | None, folder: Path, start: str, seed: int) -> Iterator[tuple[str, int, Task]]:
    """(corpus, reports, task)."""
    what = task_of(load_corpus("synthetic", reports=10, seed=0).features)
    corpora = read(openi, set_up(experiment_of("cold"), what), folder)
    experiment = experiment_of(start)
    setup = set_up(experiment, what)
    state = initial_state(experiment, setup)
    head = torch.cat([state["head.weight"], state["head.bias"][:, None]], 1).double()

    def features(name: str) -> Array:
        centred = torch.from_numpy(corpora[name][1]) - state["centre"]
        return (centred @ state["basis"].T if "basis" in state else centred * state["scale"]).numpy()

    def pair(kept: Array, labels: Array) -> tuple[Tensor, Tensor]:
        ones = np.ones((len(kept), 1), dtype=np.float32)
        return torch.from_numpy(np.hstack([kept, ones])).double(), torch.from_numpy(labels).double()

    public = pair(
        np.concatenate([features(bank) for bank in PUBLIC_BANKS]),
        np.concatenate([corpora[bank][0].labels for bank in PUBLIC_BANKS]),
    )
    for name in [name for name in corpora if name not in PUBLIC_BANKS]:
        tokens, kept = corpora[name][0], features(name)
        everything = Inputs(tokens, setup.classifier, kept, setup.pad_id)
        if name == "Open-i":
            train, test = map(np.sort, split_by_patient(corpora[name][2], 0.2, seed))  # type: ignore[arg-type]
            splits = [(train, test)]
        else:
            rows = np.random.default_rng(0).permutation(len(tokens))
            sizes = [size for size in SIZES if size + TESTED <= len(rows)]
            splits = [(rows[TESTED : TESTED + size], rows[:TESTED]) for size in sizes]
        for train, test in splits:
            inputs = part(everything, train)
            known, asked = pair(kept[train], tokens.labels[train]), pair(kept[test], tokens.labels[test])
            yield name, len(train), Task(experiment, setup, state, inputs, head, known, asked, public)


def figures(margins: Tensor, labels: Tensor, names: tuple[str, ...]) -> dict[str, object]:
    truth = labels.numpy().astype(np.float32)
    scores = f1_scores(margins.numpy() > 0, truth, np.ones_like(truth), names)
    rare = sorted(scores.positives, key=lambda name: scores.positives[name])[:RARE]
    return {
        "weighted": scores.figures["weighted_f1"],
        "macro": scores.figures["macro_f1"],
        "rare": statistics.mean(scores.per_label[name] for name in rare),
        "rare labels": rare,
    }


def run_heads(arguments: argparse.Namespace, done: set[tuple[object, ...]], write: Callable[..., None]) -> None:
    for start in STARTS:
        for seed in range(arguments.seeds):
            for corpus, n, task in tasks(arguments.openi, arguments.features, start, seed):
                (x, y), names = task.test, task.setup.task.labels
                for epsilon in EPSILONS:
                    if ("filter", start, corpus, n, epsilon, seed) in done:
                        continue
                    write("decision", start, corpus, n, epsilon, seed, "start", figures(x @ task.head.T, y, names))
                    for where, method, head, thresholds in head_cells(task, epsilon, seed, start == "cold"):
                        found = figures(x @ head.T - thresholds, y, names)
                        write(where, start, corpus, n, epsilon, seed, method, found)


def run_lora(arguments: argparse.Namespace, done: set[tuple[object, ...]], write: Callable[..., None]) -> None:
    """LoRA in query and value of the last layer, 2,000 stand-ins, all 30 steps in one round."""
    corpus = load_corpus("synthetic", reports=max(SIZES) + TESTED, seed=11, bank="chest-xray-hospitals")
    rows = np.random.default_rng(0).permutation(len(corpus))[: TESTED + 2000]
    experiment = experiment_of("warm", **{"lora.targets": "query,value", "lora.layers": 1})
    setup = set_up(experiment, task_of(corpus.features))
    state, classifier = initial_state(experiment, setup), setup.classifier
    everything = prepare(setup, tokenize(corpus, rows, setup.base.tokenizer, setup.max_length))
    test, inputs = part(everything, np.arange(TESTED)), part(everything, np.arange(TESTED, TESTED + 2000))
    for seed in range(2):
        for epsilon in (10.0, 1.0):
            if ("lora", "warm", "stand-in", 2000, epsilon, seed) in done:
                continue
            for name, keys in LORA.items():
                one = Experiment.from_flat(
                    {**experiment.flat(), **keys, "privacy.epsilon": epsilon, "train.seed": seed}
                )
                plan, recipe = plan_for(one, 2000), Recipe.of(one, warm=True)
                adapter = {key: state[key] for key in classifier.adapter()}
                turns = strategy_of(one).turns(adapter, 1)
                classifier.load_state(state)
                begin, steps = TrainingState(adapter), recipe.total_steps
                result = run_steps(
                    classifier, inputs, plan, recipe, begin, steps, site="site-000", turns=turns
                ).result()
                every = len(turns)
                noise = {m: noise_of(plan, recipe, LORA_SHARE, every, first % every) for first, m in enumerate("BA")}
                cleaned = {
                    key: (state[key] + shrunk(value - state[key], noise[key[-1]])).float() if "lora_" in key else value
                    for key, value in result.items()
                }
                for method, adapter in ((name, result), (f"{name}, singular values shrunk", cleaned)):
                    classifier.load_state({**state, **adapter})
                    odds = torch.from_numpy(predictions(test))
                    found = figures(odds - 0.5, torch.from_numpy(test.tokens.labels), setup.task.labels)
                    write("lora", "warm", "stand-in", 2000, epsilon, seed, method, found)


def table(records: list[dict[str, object]]) -> str:
    """Markdown, a table for each part: the first method's figures, then what each of the others adds to them."""
    lines = ["Weighted F1 (standard deviation over the seeds), macro F1, mean F1 of the rare labels."]
    for where in HEADINGS:
        mine = [r for r in records if r["part"] == where]
        columns = sorted({float(r["epsilon"]) for r in mine}, reverse=True)  # type: ignore[arg-type]
        lines += ["", f"### {HEADINGS[where]}", ""]
        lines += ["| start | reports | method | " + " | ".join(f"epsilon {eps:g}" for eps in columns) + " |"]
        lines += ["|---" * (3 + len(columns)) + "|"]
        for start, corpus in sorted({(str(r["start"]), str(r["corpus"])) for r in mine}, reverse=True):
            rows = [r for r in mine if (r["start"], r["corpus"]) == (start, corpus)]
            methods = list(dict.fromkeys(str(r["method"]) for r in rows if r["method"] != "start"))
            for method in methods:
                cells = [_cell(rows, method, methods[0], eps) for eps in columns]
                lines.append(f"| {start} | {corpus} | {method} | " + " | ".join(cells) + " |")
    rare = {str(r["corpus"]): ", ".join(r["rare labels"]) for r in records}  # type: ignore[arg-type]
    return "\n".join([*lines, "", *(f"Rare in {corpus}: {labels}." for corpus, labels in rare.items())])


def _cell(rows: list[dict[str, object]], method: str, first: str, epsilon: float) -> str:
    """Means over sizes, then over seeds; of all but the first method the difference to it."""

    def by_seed(which: str, figure: str) -> dict[int, float]:
        found: dict[int, list[float]] = {}
        for r in rows:
            if (r["method"], r["epsilon"]) == (which, epsilon):
                found.setdefault(int(r["seed"]), []).append(float(r[figure]))  # type: ignore[call-overload, arg-type]
        return {seed: statistics.mean(values) for seed, values in found.items()}

    gains = []
    for figure in ("weighted", "macro", "rare"):
        mine, base = by_seed(method, figure), by_seed(first, figure) if method != first else {}
        gains.append([value - base.get(seed, 0.0) for seed, value in mine.items()])
    spread = f" ({statistics.stdev(gains[0]):.3f})" if method != first and len(gains[0]) > 1 else ""
    weighted, macro, rare = (f"{statistics.mean(of):{'+' if method != first else ''}.3f}" for of in gains)
    return f"{weighted}{spread}, {macro}, {rare}"


def main() -> None:
    """Runs the cells that are missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openi", type=Path, help="folder with indiana_reports.csv")
    parser.add_argument("--out", type=Path, default=Path("tried.jsonl"), help="finished cells, one JSON line each")
    parser.add_argument("--features", type=Path, default=Path("tried-features"), help="folder for the frozen features")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print the tables of what is there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DataWarning)
    pin_arithmetic(experiment_of("warm"))
    arguments.features.mkdir(exist_ok=True)

    def write(*cell: object) -> None:
        record = dict(zip(("part", "start", "corpus", "n", "epsilon", "seed", "method"), cell, strict=False))
        with arguments.out.open("a") as file:
            file.write(json.dumps({**record, **cell[-1]}) + "\n")  # type: ignore[dict-item]

    if not arguments.table:
        keys = ("part", "start", "corpus", "n", "epsilon", "seed")
        done = {tuple(record[key] for key in keys) for record in _records(arguments.out)}
        run_heads(arguments, done, write)
        run_lora(arguments, done, write)
    print(table(list(_records(arguments.out))))


def _records(path: Path) -> Iterator[dict[str, object]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


if __name__ == "__main__":
    main()
