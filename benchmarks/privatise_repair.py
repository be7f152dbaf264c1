"""What the repair of ``fedrad privatise --repair`` changes.

    python -m benchmarks.privatise_repair

Of the first generated reports, under the profile uniform: the perplexity a token under the model that repairs, how many
tokens are the original's (nearest), and the attacks of ``privatise_pairs``, which know the mechanism but make no use of
the repair. Intervals are a bootstrap over texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import describe, machine, table, write_json
from benchmarks.privatise_language import language_model
from benchmarks.privatise_pairs import Pairs
from benchmarks.privatise_sets import TextSet, generated
from benchmarks.privatise_utility import TOKENS, Learner, with_interval
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Ids, Table, load_table
from fedrad.privatise.privatiser import Privatiser
from fedrad.privatise.reader import Reader, reader_of
from fedrad.privatise.repair import Repair

SETTINGS: tuple[tuple[str, float], ...] = (("polar", 80), ("polar", 100), ("santext", 16))
CLOSENESS = (10.0,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--model", default="smollm2", help="the language model")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(describe(machine()), flush=True)
    rows = repairs(load_table(), generated(arguments.texts), arguments.model)
    print(f"\n{repair_table(rows)}")
    write_json(arguments.out, rows)


def repairs(embeddings: Table, texts: TextSet, model: str) -> list[dict[str, Any]]:
    """For each mechanism and budget: no repair, and repairs of several strengths."""
    reader = reader_of(embeddings, language_model(model), f"{texts.task}\n")
    pairs, learner = Pairs(embeddings, texts.learnt), Learner(embeddings, texts)
    found = []
    for mechanism, epsilon in SETTINGS:
        plain = Privatiser(embeddings, Choice(epsilon, "uniform", mechanism), texts.task, seed=0)
        likely = pairs.likely(plain)
        for closeness in (None, *CLOSENESS):
            repair = None if closeness is None else Repair(reader, closeness=closeness)
            walks = Privatiser(embeddings, plain.choice, texts.task, seed=0, repair=repair).walks(texts.texts)
            found.append(
                {
                    "mechanism": mechanism,
                    "epsilon": epsilon,
                    "closeness": closeness,
                    "perplexity": perplexity(reader, [walk.answers for walk in walks]),
                    "clean": perplexity(reader, [walk.tokens for walk in walks]),
                    "score": with_interval(learner.score([[walk.answers for walk in walks]])),
                    **{
                        attack: float(np.concatenate(right).mean())
                        for attack, right in pairs.success(plain, likely, walks).items()
                    },
                }
            )
            print(found[-1], flush=True)
    return found


def repair_table(rows: Sequence[dict[str, Any]]) -> str:
    """Perplexity and score beside the share of tokens that attacks guess right."""
    cells = [
        [
            row["mechanism"],
            f"{row['epsilon']:g}",
            "no repair" if row["closeness"] is None else f"{row['closeness']:g}",
            f"{row['perplexity']:,.0f} ({row['clean']:,.0f})",
            "{:.3f} ({:.3f} to {:.3f})".format(*row["score"]),
            *(f"{100 * row[kind]:.1f} %" for kind in TOKENS),
        ]
        for row in rows
    ]
    names = ["epsilon a token", "closeness", "perplexity (of the originals)", "score", *TOKENS]
    return table(["mechanism", *names], cells)


def perplexity(reader: Reader, texts: Sequence[Ids]) -> float:
    """Of a token of the table."""
    logs = sum(reader.log_probability(ids) for ids in texts if len(ids))
    return float(np.exp(-logs / sum(map(len, texts))))


if __name__ == "__main__":
    main()
