"""What privatisation leaves of a classifier's scores, and of the texts to whoever attacks them.

    python -m benchmarks.privatise_utility --generated --movies movieReviewSnippets_GroundTruth.txt --openi DIR

Scores: weighted F1 (reports) or accuracy (movie reviews) of a classifier that was trained on clean texts only: logistic
regression on tokens and pairs of tokens. All tokens get the same budget (profile uniform), so that all mechanisms spend
alike: a log-ratio of at most epsilon times the chordal distance. CusText's epsilon is of another kind: it bounds the
log-ratio within a set of 20 tokens, and nothing beyond.

Attacks: ``privatise_pairs`` on the tokens of the first texts, ``privatise_attacks.linked`` on the first 200 of all.

Intervals (95 %) are a bootstrap over texts, each with its noise, which is independent of the others'; what several
privatisations give is averaged. All figures of a set are of the same resampled texts, so their differences are paired.

``ahead`` is the score of the polar mechanism, less what a rival scores where an attack succeeds as often: straight
between the two budgets of the rival that are next to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from benchmarks.measure import describe, machine, table, write_json
from benchmarks.privatise_attacks import linked
from benchmarks.privatise_pairs import Pairs, beginning
from benchmarks.privatise_rivals import CusText, With, customised
from benchmarks.privatise_sets import TextSet, generated, movies, openi_reports
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Ids, Table, load_table
from fedrad.privatise.privatiser import Privatiser

POLAR = (80.0, 100.0)
RIVALS: dict[str, tuple[float, ...]] = {  # budgets at which attacks succeed less often, and more often, than on polar
    "laplace": (75, 80, 94, 100),
    "santext": (14, 14.5, 16, 17),
    "tem": (20, 21, 23, 24),
    "custext": (6, 12),
}
TOKENS = ("nearest", "prior", "pairs")  # attacks on tokens
ASKED = 200  # texts that are linked
RESAMPLED = 1000

Floats = NDArray[np.float64]
"""Of a figure: itself, then once for each time that the texts were resampled, [1 + RESAMPLED]."""


@dataclass(frozen=True, eq=False)
class Row:
    """The score, and the success of each attack, of a mechanism at a budget."""

    mechanism: str
    epsilon: float | None
    figures: Mapping[str, Floats]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000, help="of each set")
    parser.add_argument("--seeds", type=int, default=3, help="privatisations of each set")
    parser.add_argument("--attacked", type=int, default=5000, help="tokens of each privatisation that are attacked")
    parser.add_argument("--generated", action="store_true", help="generated reports")
    parser.add_argument("--openi", type=Path, help="indiana_reports.csv, or its folder")
    parser.add_argument("--movies", type=Path, help="movieReviewSnippets_GroundTruth.txt")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    embeddings = load_table()
    print(describe(machine()), flush=True)
    sets = [generated(arguments.texts)] if arguments.generated else []
    if arguments.movies:
        sets.append(movies(arguments.movies, arguments.texts))
    if arguments.openi:
        sets.append(openi_reports(arguments.openi, arguments.texts))
    own_sets = customised(embeddings)
    results: dict[str, Any] = {}
    for texts in sets:
        rows = utility(embeddings, own_sets, texts, arguments.seeds, arguments.attacked)
        print(f"\n{texts.name}, {len(texts.texts)} texts\n\n{utility_table(rows)}\n\n{ahead_table(rows)}", flush=True)
        results[texts.name] = [
            {"mechanism": row.mechanism, "epsilon": row.epsilon}
            | {name: with_interval(figure) for name, figure in row.figures.items()}
            for row in rows
        ]
        write_json(arguments.out, results)


def utility(embeddings: Table, own_sets: CusText, texts: TextSet, seeds: int, attacked: int) -> list[Row]:
    """Scores and attacks for each mechanism and budget; the first two rows are clean text and no text."""
    learner, pairs = Learner(embeddings, texts), Pairs(embeddings, texts.learnt)
    clean, nothing = _tokens_of(embeddings, texts.texts), [np.empty(0, dtype=np.int64)] * len(texts.texts)
    count = len(beginning(embeddings, texts.texts, attacked))
    print(f"{texts.name}: {sum(map(len, clean[:count]))} tokens are attacked, {seeds} times", flush=True)
    found = [
        Row("clean", None, {"score": learner.score([clean])}),
        Row("no text", None, {"score": learner.score([nothing])}),
    ]
    for mechanism, budgets in {"polar": POLAR, **RIVALS}.items():
        for epsilon in budgets:
            drawn, right = [], []
            for seed in range(seeds):
                if mechanism == "custext":
                    choice = Choice(epsilon, "uniform")
                    privatiser: Privatiser = With(embeddings, choice, texts.task, seed=seed, other=own_sets)
                else:
                    privatiser = Privatiser(embeddings, Choice(epsilon, "uniform", mechanism), texts.task, seed=seed)
                if not seed:
                    likely = pairs.likely(privatiser)
                walks = privatiser.walks(texts.texts)
                drawn.append(walks)
                right.append(pairs.success(privatiser, likely, walks[:count]))
            figures = {"score": learner.score([[walk.answers for walk in walks] for walks in drawn])}
            for attack in TOKENS:
                sums = np.array([[guessed.sum() for guessed in each[attack]] for each in right])
                figures[attack] = _share(sums.mean(0), np.array([len(ids) for ids in clean[:count]]), len(clean))
            own = np.array([linked(embeddings, texts.learnt, walks, ASKED) for walks in drawn]).mean(0)
            figures["linked"] = _share(own, np.ones(len(own)), len(clean))
            found.append(Row(mechanism, epsilon, figures))
            print(mechanism, epsilon, {name: round(float(f[0]), 4) for name, f in figures.items()}, flush=True)
    return found


@cache
def resampled(texts: int) -> Floats:
    """How often each text comes: once; then as it falls, [1 + RESAMPLED, texts]."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(texts, np.full(texts, 1 / texts), size=RESAMPLED)
    return np.concatenate([np.ones((1, texts)), drawn])


def _share(hits: Floats, of: NDArray[Any], texts: int) -> Floats:
    """Hits of the first texts, as a share."""
    times = resampled(texts)[:, : len(hits)]
    found: Floats = times @ hits / (times @ of)
    return found


def with_interval(figure: Floats) -> tuple[float, float, float]:
    """The figure, and the ends of its 95 % interval."""
    low, high = np.quantile(figure[1:], (0.025, 0.975))
    return float(figure[0]), float(low), float(high)


class Learner:
    """A classifier of token ids, from clean texts: logistic regression on tokens and pairs of them."""

    def __init__(self, embeddings: Table, texts: TextSet) -> None:
        self.texts = texts
        self.words = TfidfVectorizer(analyzer=_and_pairs, min_df=2, sublinear_tf=True)
        known = self.words.fit_transform(_tokens_of(embeddings, texts.learnt))
        self.model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=300))
        self.model.fit(known, texts.learnt_labels.astype(int))

    def score(self, answers: Sequence[Sequence[Ids]]) -> Floats:
        """The mean over privatisations, resampled."""
        labels, times = self.texts.labels, resampled(len(self.texts.labels))
        found = np.zeros(len(times))
        for each in answers:
            likely = self.model.predict_proba(self.words.transform(each))
            decided = np.eye(labels.shape[1], dtype=bool)[likely.argmax(1)] if self.texts.single else likely > 0.5
            found += _score(decided, labels, times, self.texts.single) / len(answers)
        return found


def _score(decided: NDArray[np.bool_], labels: NDArray[np.bool_], times: Floats, single: bool) -> Floats:
    """The accuracy, or F1 of each label, weighted by how often it is positive; each text counts ``times``."""
    if single:
        return times @ (decided & labels).any(1) / times.sum(1)
    hits, found, there = times @ (decided & labels), times @ decided, times @ labels
    weighted: Floats = (2 * hits / np.maximum(found + there, 1) * there).sum(1) / np.maximum(there.sum(1), 1)
    return weighted


def _and_pairs(ids: Ids) -> list[str]:
    words = [str(k) for k in ids.tolist()]
    return words + [f"{one} {two}" for one, two in pairwise(words)]


def _tokens_of(embeddings: Table, texts: Sequence[str]) -> list[Ids]:
    encoded = embeddings.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array(ids, dtype=np.int64) for ids in encoded]


def utility_table(rows: Sequence[Row]) -> str:
    """The score beside the success of the attacks."""
    kinds = (*TOKENS, "linked")
    cells = []
    for row in rows:
        value, low, high = with_interval(row.figures["score"])
        attacks = []
        for kind in kinds:
            shares = [100 * end for end in with_interval(row.figures[kind])] if kind in row.figures else None
            attacks.append("{:.1f} % ({:.1f} to {:.1f})".format(*shares) if shares else "-")
        budget = "-" if row.epsilon is None else f"{row.epsilon:g}"
        cells.append([row.mechanism, budget, f"{value:.3f} ({low:.3f} to {high:.3f})", *attacks])
    return table(["mechanism", "epsilon a token", "score", *kinds], cells)


def ahead(polar: Row, rivals: Sequence[Row], attack: str) -> Floats | None:
    """How much more polar scores than a rival where the attack succeeds as often; none if no two budgets of the rival
    have that between them. Resampled texts may lie a little outside, where the line goes on.

    Args:
        rivals: of one mechanism, by rising budgets.
    """
    success = np.array([row.figures[attack] for row in rivals])
    where = polar.figures[attack]
    if not success[0, 0] <= where[0] <= success[-1, 0]:
        return None
    scores, every = np.array([row.figures["score"] for row in rivals]), np.arange(len(where))
    above = np.clip((success < where).sum(0), 1, len(rivals) - 1)
    low, high = success[above - 1, every], success[above, every]
    part = (where - low) / (high - low)
    difference: Floats = polar.figures["score"] - (1 - part) * scores[above - 1, every] - part * scores[above, every]
    return difference


def ahead_table(rows: Sequence[Row]) -> str:
    """For each budget of polar, by the weakest and the strongest attack on tokens."""
    cells = []
    for polar in (row for row in rows if row.mechanism == "polar"):
        for attack in ("nearest", "pairs"):
            cell = [f"{polar.epsilon:g}", attack, f"{100 * polar.figures[attack][0]:.1f} %"]
            for name in RIVALS:
                found = ahead(polar, [row for row in rows if row.mechanism == name], attack)
                cell.append("-" if found is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*with_interval(found)))
            cells.append(cell)
    return table(["polar at", "equal success of", "success", *(f"polar - {name}" for name in RIVALS)], cells)


if __name__ == "__main__":
    main()
