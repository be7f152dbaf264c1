"""The attack with a language model, for texts that ``fedrad privatise`` has made.

    python -m benchmarks.privatise_language --movies movieReviewSnippets_GroundTruth.txt --openi DIR

The guess is the text that maximises, summed over its tokens, the logarithm of the posterior by pairs
(``privatise_pairs``) and that of the probability, to a power, that SmolLM2-135M gives the token behind all before it:
as far as a beam of 4 finds it among the 16 tokens of each position that are likeliest by pairs. The language model has
read two public texts before. The power is the one that guesses most tokens right in public texts that neither it nor
the counts have seen; 0 is the attack by pairs. ``reach`` is the share of tokens that are among the 16: this attack
can't be right more often.

Intervals are a bootstrap over texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import describe, machine, table, write_json
from benchmarks.privatise_attacks import Fits
from benchmarks.privatise_pairs import Pairs, Posterior, beginning, guesses, right
from benchmarks.privatise_sets import TextSet, generated, movies, openi_reports
from fedrad.model.base import BaseModel, load_base
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Ids, Table, load_table
from fedrad.privatise.lattice import Lattice, likeliest
from fedrad.privatise.privatiser import Privatiser, Walk
from fedrad.privatise.reader import reader_of

SETTINGS: tuple[tuple[str, float], ...] = (("polar", 80), ("santext", 14))
CANDIDATES, BEAM = 16, 4
POWERS = (0.1, 0.3)
TOLD = 2  # public texts that the model reads first
TUNED = 300  # tokens that are held out, on which the power is chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1000, help="attacked of each set")
    parser.add_argument("--model", default="smollm2", help="the language model")
    parser.add_argument("--openi", type=Path, help="indiana_reports.csv, or its folder")
    parser.add_argument("--movies", type=Path, help="movieReviewSnippets_GroundTruth.txt")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    embeddings, base = load_table(), language_model(arguments.model)
    print(describe(machine()), flush=True)
    sets = [movies(arguments.movies, 1000)] if arguments.movies else []
    sets.append(generated(1000))
    if arguments.openi:
        sets.append(openi_reports(arguments.openi, 1000))
    results: dict[str, Any] = {}
    for texts in sets:
        results[texts.name] = attacks(embeddings, texts, arguments.tokens, base)
        print(f"\n{texts.name}, {arguments.tokens} tokens\n\n{attack_table(results[texts.name])}", flush=True)
        write_json(arguments.out, results)


def language_model(name: str) -> BaseModel:
    """Reads in bfloat16, in half the time, where the processor multiplies it itself; else in float32."""
    return load_base(name).placed(torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32)


class Linguist:
    """An attacker who knows public texts and has a language model.

    Attributes:
        power: of the language model's probability, chosen on texts that are held out; 0: it is not used.
    """

    def __init__(self, pairs: Pairs, base: BaseModel) -> None:
        self.pairs = pairs
        tokenizer = pairs.counts.table.tokenizer
        ids = tokenizer([*pairs.others[:TOLD]], add_special_tokens=False)["input_ids"]
        told = "".join(f"{tokenizer.decode(each)}\n" for each in ids)
        self.reader = reader_of(pairs.counts.table, base, told)
        self.power = 0.0

    def tune(self, walks: Sequence[Walk], found: Sequence[Posterior]) -> None:
        """Chooses the power by clear texts that the attacker knows."""
        few = int((np.cumsum([len(walk.tokens) for walk in walks]) < TUNED).sum()) + 1
        scored = []
        for power in (0.0, *POWERS):
            guessed = right(walks[:few], self.guesses(found[:few], power))
            scored.append((np.concatenate(guessed).sum(), -power))
        self.power = -max(scored)[1]

    def guesses(self, found: Sequence[Posterior], power: float) -> list[Ids]:
        """The tokens of each text."""
        if power == 0:
            return guesses(found)
        return likeliest(self.reader, [best_of(each, power) for each in found], BEAM)


def best_of(found: Posterior, power: float) -> Lattice:
    """The likeliest tokens. The language model's logarithms count once there, so the others' count 1 / power times."""
    return Lattice(found.tokens[:, :CANDIDATES], found.posterior[:, :CANDIDATES] / power)


def attacks(embeddings: Table, texts: TextSet, count: int, base: BaseModel) -> list[dict[str, Any]]:
    """All attacks on the tokens of the first texts, each mechanism and budget."""
    pairs = Pairs(embeddings, texts.learnt)
    linguist = Linguist(pairs, base)
    found = []
    for mechanism, epsilon in SETTINGS:
        privatiser = Privatiser(embeddings, Choice(epsilon, "uniform", mechanism), texts.task, seed=0)
        walks = privatiser.walks(beginning(embeddings, texts.texts, count))
        likely, known, fits = (
            pairs.likely(privatiser),
            pairs.known(privatiser),
            Fits.of(pairs.counts, privatiser, walks),
        )
        guessed = pairs.success(privatiser, likely, walks)
        after = pairs.posteriors(fits, likely.weight * likely.of(fits))
        linguist.tune(known.walks, pairs.posteriors(known, likely.weight * likely.of(known)))
        guessed["language"] = right(walks, linguist.guesses(after, linguist.power))
        guessed["reach"] = [
            (best_of(of, 1.0).tokens == walk.tokens[:, None]).any(1).astype(np.int64)
            for of, walk in zip(after, walks, strict=True)
        ]
        gain = [one - other for one, other in zip(guessed["language"], guessed["pairs"], strict=True)]
        row = {"mechanism": mechanism, "epsilon": epsilon, "power": linguist.power, "gain": interval(gain)}
        found.append(row | {name: float(np.concatenate(one).mean()) for name, one in guessed.items()})
        print(found[-1], flush=True)
    return found


def attack_table(rows: Sequence[dict[str, Any]]) -> str:
    """Shares of tokens, and what the language model adds to pairs."""
    kinds = ("nearest", "prior", "pairs", "language", "reach")
    cells = []
    for row in rows:
        shares = [f"{100 * row[kind]:.1f} %" for kind in kinds]
        low, high = (100 * end for end in row["gain"])
        cells.append(
            [row["mechanism"], f"{row['epsilon']:g}", *shares, f"{low:+.1f} to {high:+.1f}", f"{row['power']:g}"]
        )
    return table(["mechanism", "epsilon a token", *kinds, "language - pairs, points", "power"], cells)


def interval(gain: Sequence[Ids]) -> tuple[float, float]:
    """Of the mean over the tokens of all texts, 95 %, by a bootstrap over texts."""
    sums, lengths = np.array([(each.sum(), len(each)) for each in gain]).T
    drawn = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / lengths[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
