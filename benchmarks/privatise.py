"""Text privatisation: its speed, what it leaves of identifiers, and whether its bounds hold.

    python -m benchmarks.privatise --out p.json      # what it leaves of other texts: privatise_utility
    python -m benchmarks.privatise --table1 --ag-news FOLDER --yelp FOLDER --squad dev-v1.1.json   # or hub ids

Speed: CPU seconds of one thread a token, beside a loop over scipy's sampler with exact search.

Identifiers: the attacks of ``privatise_pairs`` on the tokens of the invented identifiers in
tests/privatise/identifiers.txt, under the profile ``full``, by group. The attacker's texts are public reports, in which
these words are rare.

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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from scipy.stats import vonmises_fisher

from benchmarks.measure import describe, machine, table, write_json
from benchmarks.privatise_pairs import Pairs
from benchmarks.privatise_rivals import Given
from benchmarks.privatise_sets import classified, generated, read_squad
from benchmarks.privatise_utility import Learner, with_interval
from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Ids, Table, load_table, make_table
from fedrad.privatise.mechanisms import Mechanism, Polar, unit_rows
from fedrad.privatise.privatiser import Privatiser
from fedrad.privatise.rivals import mechanism_named

IDENTIFIER_BUDGETS: dict[str, tuple[float, ...]] = {
    "polar": (10, 20, 30, 40, 60, 100),
    "laplace": (20, 40),
    "santext": (4, 8),
}
GRID = ((150, 50, 450, 350), (200, 100, 500, 400), (250, 150, 550, 450), (300, 200, 600, 500), (350, 250, 650, 550))
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
    results["identifiers"] = identifiers(embeddings, generated(1).learnt)
    print(f"\n{identifier_table(results['identifiers'])}", flush=True)
    write_json(arguments.out, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000, help="of each set of --table1")
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


# Identifiers


def identifiers(embeddings: Table, public: Sequence[str], copies: int = 2) -> list[dict[str, Any]]:
    """The attacks on invented identifiers, by group, under the profile ``full``."""
    lines = [line for line in IDENTIFIERS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    texts = [re.sub(r"\{[A-Z]+:([^{}]*)\}", r"\1", line) for line in lines] * copies
    pairs = Pairs(embeddings, public)
    found = []
    for mechanism, budgets in IDENTIFIER_BUDGETS.items():
        for epsilon in budgets:
            privatiser = Privatiser(embeddings, Choice(epsilon, "full", mechanism), "chest x-ray findings", seed=0)
            walks = privatiser.walks(texts)
            groups = np.concatenate([walk.groups for walk in walks])
            right = pairs.success(privatiser, pairs.likely(privatiser), walks)
            rates = {
                str(k + 1): [float(np.concatenate(guessed)[groups == k].mean()) for guessed in right.values()]
                for k in range(4)
                if (groups == k).any()
            }
            counts = np.bincount(groups, minlength=4) // copies
            found.append({"mechanism": mechanism, "epsilon": epsilon, "rates": rates, "tokens": counts.tolist()})
    return found


def identifier_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Success of nearest, prior and pairs, by group."""
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
                row.append(
                    "{:.3f} ({:.3f} to {:.3f})".format(*with_interval(learner.score([[w.answers for w in walks]])))
                )
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
