"""Text privatisation: its speed, what it leaves of a classifier's scores, and how often it is undone.

    python -m benchmarks.privatise --movies movieReviewSnippets_GroundTruth.txt --openi indiana_reports.csv --out p.json
    python -m benchmarks.privatise --table1 --ag-news FOLDER --yelp FOLDER --squad dev-v1.1.json   # or hub ids

Speed: CPU seconds of one thread a token, beside a loop over scipy's sampler with exact search.

Utility: weighted F1 (reports) or accuracy (movie reviews) of a classifier that was trained on clean texts only:
logistic regression on tokens and pairs of tokens. All tokens get the same budget (profile uniform),
so that all mechanisms spend alike: a log-ratio of at most epsilon times the chordal distance. CusText's epsilon is of
another kind: it bounds the log-ratio within a set of 20 tokens, and nothing beyond. Intervals (95 %) are a bootstrap
over texts, each with its noise, which is independent of the others'; the scores of all seeds are averaged.

Attacks: ``privatise_attacks``; on tokens in the first 50 texts, on texts in the first 200 of all.

Identifiers: the attacks on the tokens of the invented identifiers in tests/privatise/identifiers.txt, under the profile
``full``, by group. The attacker's texts are public reports, in which these words are rare.

Bounds: a log-ratio that some event of the answers exceeds at 99.9 % confidence, beside the claim for the pair of
tokens; of mechanisms as they are, and of broken ones.

``--table1`` is the grid of STAMP's Table 1, kappa = epsilon / pi as in the authors' code.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from scipy.stats import vonmises_fisher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from benchmarks.measure import describe, machine, table, write_json
from benchmarks.privatise_attacks import Attacker, linked
from benchmarks.privatise_rivals import CusText, Given, With, customised
from benchmarks.privatise_sets import TextSet, classified, generated, movies, openi_reports, read_squad
from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Ids, Table, load_table, make_table
from fedrad.privatise.mechanisms import Mechanism, Polar, unit_rows
from fedrad.privatise.privatiser import Privatiser
from fedrad.privatise.rivals import mechanism_named

BUDGETS: dict[str, tuple[float, ...]] = {
    "polar": (80, 100),
    "laplace": (80, 100),
    "santext": (14, 16, 20),
    "tem": (20, 24),
    "custext": (6, 12),
}
IDENTIFIER_BUDGETS: dict[str, tuple[float, ...]] = {
    "polar": (10, 20, 30, 40, 60, 100),
    "laplace": (20, 40),
    "santext": (4, 8),
}
GRID = ((150, 50, 450, 350), (200, 100, 500, 400), (250, 150, 550, 450), (300, 200, 600, 500), (350, 250, 650, 550))
ATTACKED, ASKED = 50, 200  # texts whose tokens are attacked, and texts that are linked
IDENTIFIERS = Path(__file__).parent.parent / "tests/privatise/identifiers.txt"
Draw = Callable[[Ids, NDArray[np.float64], Stream], Ids]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    embeddings = load_table()
    print(describe(machine()), flush=True)
    if arguments.table1:
        table1(embeddings, arguments)
        return
    results: dict[str, Any] = {"speed": speed(embeddings)}
    print(speed_table(results["speed"]), flush=True)
    results["bounds"] = bounds(embeddings)
    print(f"\n{bounds_table(results['bounds'])}", flush=True)
    sets = [movies(arguments.movies, arguments.texts)] if arguments.movies else []
    sets.append(generated(arguments.reports))
    if arguments.openi:
        sets.append(openi_reports(arguments.openi, arguments.reports))
    results["identifiers"] = identifiers(embeddings, generated(1).learnt)
    print(f"\n{identifier_table(results['identifiers'])}", flush=True)
    own_sets = customised(embeddings)
    for texts in sets:
        results[texts.name] = utility(embeddings, own_sets, texts, arguments.seeds)
        print(f"\n{texts.name}, {len(texts.texts)} texts\n\n{utility_table(results[texts.name])}", flush=True)
        write_json(arguments.out, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000, help="of each set")
    parser.add_argument("--reports", type=int, default=1000, help="the same for sets of reports")
    parser.add_argument("--seeds", type=int, default=2, help="privatisations of each set")
    parser.add_argument("--openi", type=Path, help="indiana_reports.csv, or its folder")
    parser.add_argument("--movies", type=Path, help="movieReviewSnippets_GroundTruth.txt")
    parser.add_argument("--table1", action="store_true", help="STAMP's grid, on the sets that are named")
    parser.add_argument("--ag-news", default="", help="hub id or folder")
    parser.add_argument("--yelp", default="", help="hub id or folder")
    parser.add_argument("--squad", default="", help="hub id or JSON file")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


# Speed


class _Numbers:
    """A vocabulary of numbers, for tables of any size."""

    is_fast, all_special_ids = True, ()

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [str(k) for k in ids]


def speed(embeddings: Table, tokens: int = 512, looped: int = 6) -> list[dict[str, Any]]:
    """Of the polar mechanism at the embedded table's size, and at that of SmolLM2-135M (random rows)."""
    made = torch.randn(49152, 576, generator=torch.Generator().manual_seed(0))
    rows = []
    for name, rough, exact in (
        ("all-MiniLM-L6-v2", load_table(coarse=True), load_table(coarse=False)),
        ("random rows", make_table("", _Numbers(49152), made, True), make_table("", _Numbers(49152), made, False)),
    ):
        ids = np.random.default_rng(0).choice(exact.outputs, tokens)
        found = {"table": name, "answers": len(exact.outputs), "d": exact.dimension}
        for kind, one in (("8 bits, then exact", rough), ("exact", exact)):
            Polar(one).draw(ids[:256], np.full(256, 100.0), Stream.system())
            start = time.process_time()
            Polar(one).draw(ids, np.full(tokens, 100.0), Stream.system())
            found[kind] = 1e3 * (time.process_time() - start) / tokens
        start = time.process_time()
        for axis in unit_rows(exact, ids[:looped]):
            exact.nearest(vonmises_fisher(axis, 100.0).rvs(1, random_state=0).reshape(1, -1))
        found["loop over scipy"] = 1e3 * (time.process_time() - start) / looped
        rows.append(found)
    return rows


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds a token."""
    kinds = ("8 bits, then exact", "exact", "loop over scipy")
    return table(
        ["ms a token", "answers", "d", *kinds],
        [[row["table"], row["answers"], row["d"], *(f"{row[kind]:.3f}" for kind in kinds)] for row in rows],
    )


# Utility


def utility(embeddings: Table, own_sets: CusText, texts: TextSet, seeds: int) -> list[dict[str, Any]]:
    """Scores and attacks for each mechanism and budget; the first two rows are clean text and no text."""
    learner = Learner(embeddings, texts)
    attacker = Attacker(embeddings, texts.learnt)
    found: list[dict[str, Any]] = [
        {"mechanism": "clean", "epsilon": None, "score": learner.score([_tokens_of(embeddings, texts.texts)])},
        {
            "mechanism": "no text",
            "epsilon": None,
            "score": learner.score([[np.empty(0, dtype=np.int64)] * len(texts.texts)]),
        },
    ]
    for mechanism, budgets in BUDGETS.items():
        for epsilon in budgets:
            drawn = []
            for seed in range(seeds):
                if mechanism == "custext":
                    choice = Choice(epsilon, "uniform")
                    privatiser: Privatiser = With(embeddings, choice, texts.task, seed=seed, other=own_sets)
                else:
                    privatiser = Privatiser(embeddings, Choice(epsilon, "uniform", mechanism), texts.task, seed=seed)
                drawn.append(privatiser.walks(texts.texts))
            attacked = attacker.success(privatiser, drawn[-1][:ATTACKED])
            found.append(
                {
                    "mechanism": mechanism,
                    "epsilon": epsilon,
                    "score": learner.score([[walk.answers for walk in walks] for walks in drawn]),
                    **{name: float(right.mean()) for name, right in attacked.items()},
                    "linked": linked(embeddings, texts.learnt, drawn[-1], ASKED),
                }
            )
            print(found[-1], flush=True)
    return found


class Learner:
    """A classifier of token ids, from clean texts: logistic regression on tokens and pairs of them."""

    def __init__(self, embeddings: Table, texts: TextSet) -> None:
        self.texts = texts
        self.words = TfidfVectorizer(analyzer=_and_pairs, min_df=2, sublinear_tf=True)
        known = self.words.fit_transform(_tokens_of(embeddings, texts.learnt))
        self.model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=300))
        self.model.fit(known, texts.learnt_labels.astype(int))

    def score(self, answers: Sequence[Sequence[Ids]]) -> tuple[float, float, float]:
        """The mean over privatisations, and its 95 % interval over texts."""
        labels = self.texts.labels
        decided = []
        for each in answers:
            likely = self.model.predict_proba(self.words.transform(each))
            decided.append(np.eye(labels.shape[1], dtype=bool)[likely.argmax(1)] if self.texts.single else likely > 0.5)
        rng = np.random.default_rng(0)
        drawn = [rng.integers(len(labels), size=len(labels)) for _ in range(300)]
        mean = [float(np.mean([_score(d[k], labels[k], self.texts.single) for d in decided])) for k in drawn]
        low, high = np.quantile(mean, (0.025, 0.975))
        return float(np.mean([_score(d, labels, self.texts.single) for d in decided])), float(low), float(high)


def _score(decided: NDArray[np.bool_], labels: NDArray[np.bool_], single: bool) -> float:
    """The accuracy, or F1 of each label, weighted by how often it is positive."""
    if single:
        return float((decided & labels).any(1).mean())
    hits, found, there = (decided & labels).sum(0), decided.sum(0), labels.sum(0)
    return float((2 * hits / np.maximum(found + there, 1) * there).sum() / max(there.sum(), 1))


def _and_pairs(ids: Ids) -> list[str]:
    words = [str(k) for k in ids.tolist()]
    return words + [f"{one} {two}" for one, two in pairwise(words)]


def _tokens_of(embeddings: Table, texts: Sequence[str]) -> list[Ids]:
    encoded = embeddings.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array(ids, dtype=np.int64) for ids in encoded]


def utility_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The score beside the success of the attacks."""
    kinds = ("nearest", "prior", "bigram", "linked")
    cells = []
    for row in rows:
        value, low, high = row["score"]
        attacks = [f"{100 * row[kind]:.1f} %" if kind in row else "-" for kind in kinds]
        budget = "-" if row["epsilon"] is None else f"{row['epsilon']:g}"
        cells.append([row["mechanism"], budget, f"{value:.3f} ({low:.3f} to {high:.3f})", *attacks])
    return table(["mechanism", "epsilon a token", "score", *kinds], cells)


# Identifiers


def identifiers(embeddings: Table, public: Sequence[str], copies: int = 2) -> list[dict[str, Any]]:
    """The attacks on invented identifiers, by group, under the profile ``full``."""
    lines = [line for line in IDENTIFIERS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    texts = [re.sub(r"\{[A-Z]+:([^{}]*)\}", r"\1", line) for line in lines] * copies
    attacker = Attacker(embeddings, public)
    found = []
    for mechanism, budgets in IDENTIFIER_BUDGETS.items():
        for epsilon in budgets:
            privatiser = Privatiser(embeddings, Choice(epsilon, "full", mechanism), "chest x-ray findings", seed=0)
            walks = privatiser.walks(texts)
            groups = np.concatenate([walk.groups for walk in walks])
            right = attacker.success(privatiser, walks)
            rates = {
                str(k + 1): [float(guessed[groups == k].mean()) for guessed in right.values()]
                for k in range(4)
                if (groups == k).any()
            }
            counts = np.bincount(groups, minlength=4) // copies
            found.append({"mechanism": mechanism, "epsilon": epsilon, "rates": rates, "tokens": counts.tolist()})
    return found


def identifier_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Success of nearest, prior and bigram, by group."""
    cells = [
        [
            row["mechanism"],
            row["epsilon"],
            *(
                ", ".join(f"{100 * rate:.1f}" for rate in row["rates"][k]) + " %" if k in row["rates"] else "-"
                for k in "1234"
            ),
        ]
        for row in rows
    ]
    counts = rows[0]["tokens"]
    return table(["mechanism", "epsilon", *(f"group {k + 1} ({counts[k]})" for k in range(4))], cells)


# Bounds


def bounds(embeddings: Table) -> list[dict[str, Any]]:
    """What the answers prove, beside the claim: two tokens on the plane, and two of the embedded table."""
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 90.0, 180.0, 250.0]))
    plane = make_table("", _Numbers(5), torch.stack((angles.cos(), angles.sin()), 1), False)
    words = embeddings.tokenizer.convert_tokens_to_ids(["heart", "surgery"])
    found = []
    for name, space, pair, epsilon, draws in (
        ("plane", plane, (0, 3), 1.0, 10_000),
        ("all-MiniLM-L6-v2", embeddings, words, 1.0, 2_000),
    ):
        chord = float(np.linalg.norm(np.subtract(*unit_rows(space, np.array(pair)))))
        for mechanism in ("polar", "laplace", "santext", "tem"):
            honest = mechanism_named(mechanism, space, "paper")
            row = {"table": name, "mechanism": mechanism, "claim": epsilon * chord}
            cases = {"as it is": honest.draw}
            if mechanism == "polar":
                cases |= {"kappa x 4": _louder(honest), "leaked": _leaking(honest)}
            for case, draw in cases.items():
                row[case] = proven(draw, pair, epsilon, draws)
            found.append(row)
    return found


def proven(draw: Draw, pair: Sequence[int], epsilon: float, draws: int) -> float:
    """A log-ratio that an event exceeds at 99.9 % confidence (Clopper-Pearson).

    The event, answers that are likelier under the first token, is chosen on half of the draws and counted on the other
    half.
    """
    sides = [
        draw(np.full(draws, token), np.full(draws, epsilon), Stream.seeded(k, "bounds")) for k, token in enumerate(pair)
    ]
    half = draws // 2
    best = -math.inf
    for event in (_likelier(sides[0][:half], sides[1][:half]), np.array([pair[0]])):
        hits = [int(np.isin(side[half:], event).sum()) for side in sides]
        low = beta_distribution.ppf(0.00025, hits[0], half - hits[0] + 1) if hits[0] else 0.0
        high = beta_distribution.ppf(1 - 0.00025, hits[1] + 1, half - hits[1]) if hits[1] < half else 1.0
        best = max(best, float(np.log(max(low, 1e-300) / high)))
    return best


def _likelier(one: Ids, other: Ids) -> Ids:
    values, counts = np.unique(one, return_counts=True)
    against = dict(zip(*np.unique(other, return_counts=True), strict=True))
    return values[[count > 2 * against.get(value, 0) for value, count in zip(values, counts, strict=True)]]


def _louder(mechanism: Mechanism) -> Draw:
    return lambda tokens, epsilon, stream: mechanism.draw(tokens, 4 * epsilon, stream)


def _leaking(mechanism: Mechanism) -> Draw:
    """Every second token is answered by itself."""

    def draw(tokens: Ids, epsilon: NDArray[np.float64], stream: Stream) -> Ids:
        answers = mechanism.draw(tokens, epsilon, stream)
        return np.where(stream.uniform(len(tokens)) < 0.5, tokens, answers)

    return draw


def bounds_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Log-ratios: claimed, proven, and proven of broken mechanisms."""
    kinds = ("claim", "as it is", "kappa x 4", "leaked")
    return table(
        ["log-ratio", "mechanism", *kinds],
        [
            [row["table"], row["mechanism"], *(f"{row[kind]:.2f}" if kind in row else "-" for kind in kinds)]
            for row in rows
        ],
    )


# Table 1 of STAMP


def table1(embeddings: Table, arguments: argparse.Namespace) -> None:
    """Accuracy on AG News and Yelp, and the share of SQuAD's answers that the privatised context still holds, which no
    reader that extracts them can exceed. Logistic regression stands in for the paper's classifiers."""
    sets = []
    if arguments.ag_news:
        task = "topic of the news: world, sports, business, science and technology"
        sets.append(classified("AG News", arguments.ag_news, task, 4, arguments.texts))
    if arguments.yelp:
        task = "rating of the restaurant, one to five stars"
        sets.append(classified("Yelp", arguments.yelp, task, 5, arguments.texts))
    learners = [Learner(embeddings, texts) for texts in sets]
    asked = read_squad(arguments.squad, arguments.texts) if arguments.squad else []
    rows = []
    for budgets in GRID:
        for mechanism in ("polar", "coordinate-laplace", "laplace"):
            kappa = "code" if mechanism == "polar" else "paper"
            choice = Given(1.0, "full", mechanism, kappa, given=budgets)
            row = [", ".join(map(str, budgets)), mechanism]
            for texts, learner in zip(sets, learners, strict=True):
                walks = Privatiser(embeddings, choice, texts.task, seed=0).walks(texts.texts)
                row.append("{:.3f} ({:.3f} to {:.3f})".format(*learner.score([[w.answers for w in walks]])))
            if asked:
                row.append(f"{np.mean([_kept(embeddings, choice, question) for question in asked]):.3f}")
            rows.append(row)
            print(row, flush=True)
    print(
        table(["groups 1 to 4", "mechanism", *(t.name for t in sets), *(["SQuAD: answer kept"] if asked else [])], rows)
    )


def _kept(embeddings: Table, choice: Choice, question: Any) -> bool:
    """Whether an answer still stands in the privatised context; the question is the task."""
    privatised = Privatiser(embeddings, choice, question.question, seed=0).texts([question.context])[0]
    return any(answer.lower() in privatised for answer in question.answers)


if __name__ == "__main__":
    main()
