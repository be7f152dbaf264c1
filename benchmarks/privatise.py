"""Text privatisation: its speed, what it leaves of a classifier's scores, and how often it is undone.

    python -m benchmarks.privatise --out privatise.json                      # some 10 minutes on one core
    python -m benchmarks.privatise --openi /path/to/openi --reports 1000     # real reports too

Speed: CPU seconds of one thread a token, beside a loop over scipy's sampler with exact search.

Utility: weighted F1 of a classifier that was trained on clean, generated text only (the embedded public base and its
head), on privatised reports of a bank of phrases that it has not seen, and on Open-i. All tokens get the same budget
(profile uniform), so that all mechanisms spend alike: a log-ratio of at most epsilon times the chordal distance.
coordinate-laplace bounds it by epsilon over all pairs; its epsilon is another unit.

Attacks on the same answers, by whoever knows the mechanism and has public reports, which are generated, of other banks:
    nearest   the answer itself is the guess
    prior     the guess is the token w that maximises ln frequency(w) + beta cosine(w, answer), with the frequencies of
              public reports and the beta that is best there
Success is the share of tokens guessed, in the first 50 reports. It makes mechanisms comparable: by their scores at the
same success of an attack.

Identifiers: success of both attacks on the tokens of the invented identifiers in tests/privatise/identifiers.txt, under
the profile ``full``, by group. The prior is that of public text, in which these words are rare.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import vonmises_fisher

from benchmarks.measure import describe, machine, table, write_json
from fedrad.corpora import CHEXPERT, UNSEEN
from fedrad.data.openi import source as openi
from fedrad.data.synthetic import generate
from fedrad.model.base import BaseModel, load_base
from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Table, load_table, make_table
from fedrad.privatise.mechanisms import Polar, unit_rows
from fedrad.privatise.privatiser import Privatiser, Walk
from fedrad.tasks.metrics import f1_scores

TASK = "chest x-ray findings"
BUDGETS: dict[str, tuple[float, ...]] = {
    "polar": (40, 60, 80, 100, 150),
    "laplace": (40, 60, 80, 100),
    "santext": (6, 12, 14, 16, 20),
    "tem": (16, 18, 20, 24),
    "coordinate-laplace": (1000, 2000),
}
PUBLIC_BANKS = ("chest-xray", "chest-xray-icu", "chest-xray-british", "chest-xray-indian")
BETAS = (0.0, *(2.0**k for k in range(1, 11)))
ATTACKED = 50  # reports of each corpus
IDENTIFIERS = Path(__file__).parent.parent / "tests/privatise/identifiers.txt"


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    embeddings, base = load_table(), load_base("chest-minilm")
    print(describe(machine()), flush=True)
    results: dict[str, Any] = {"speed": speed(embeddings)}
    print(speed_table(results["speed"]), flush=True)
    results["identifiers"] = identifiers(embeddings)
    print(identifier_table(results["identifiers"]), flush=True)
    corpora = {"generated": list(generate(arguments.reports, 1, bank=UNSEEN))}
    if arguments.openi:
        _, found = openi(arguments.openi).read(lambda _: None)
        corpora["Open-i"] = list(islice(found, arguments.reports))
    for name, rows in corpora.items():
        results[name] = utility(embeddings, base, rows, arguments.seed)
        print(f"\n{name}, {len(rows)} reports\n\n{utility_table(results[name])}", flush=True)
    write_json(arguments.out, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=1000, help="of each corpus")
    parser.add_argument("--openi", type=Path, help="indiana_reports.csv, or its folder")
    parser.add_argument("--seed", type=int, default=0)
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


def speed(embeddings: Table, tokens: int = 4096, looped: int = 24) -> list[dict[str, Any]]:
    """Of the polar mechanism at the embedded table's size, and at that of SmolLM2-135M (random rows)."""
    made = torch.randn(49152, 576, generator=torch.Generator().manual_seed(0))
    rows = []
    for name, rough, exact in (
        ("all-MiniLM-L6-v2", load_table(coarse=True), load_table(coarse=False)),
        ("random rows", make_table("", _Numbers(49152), made, True), make_table("", _Numbers(49152), made, False)),
    ):
        ids = np.random.default_rng(0).choice(exact.outputs, tokens)
        found = {"table": name, "answers": len(exact.outputs), "d": exact.dimension}
        for kind, one in (("bfloat16, then exact", rough), ("exact", exact)):
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
    kinds = ("bfloat16, then exact", "exact", "loop over scipy")
    return table(
        ["ms a token", "answers", "d", *kinds],
        [[row["table"], row["answers"], row["d"], *(f"{row[kind]:.3f}" for kind in kinds)] for row in rows],
    )


# Attacks


class Attacker:
    """Knows the mechanism, the table, and how often public reports use a token."""

    def __init__(self, embeddings: Table) -> None:
        texts = [row["text"] for bank in PUBLIC_BANKS for row in generate(250, 0, bank=bank)]
        encoded = embeddings.tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.texts = texts[::40]
        self.table = embeddings
        ids, counts = np.unique(np.concatenate([np.array(ids) for ids in encoded]), return_counts=True)
        frequency = np.full(len(embeddings.unit), 0.5)  # a token that public reports lack
        frequency[ids] += counts
        frequency[np.setdiff1d(np.arange(len(frequency)), embeddings.outputs)] = 1e-9
        self.prior = np.log(frequency / frequency.sum()).astype(np.float32)

    def guesses(self, answers: NDArray[np.int64], betas: Sequence[float]) -> list[NDArray[np.int64]]:
        """The likeliest token for each answer, for each beta."""
        distinct, which = np.unique(answers, return_inverse=True)
        found = []
        for part in np.array_split(distinct, max(1, len(distinct) // 256)):
            cosines = (self.table.unit[part] @ self.table.unit.T).numpy()
            found.append([(self.prior + np.float32(beta) * cosines).argmax(1) for beta in betas])
        return [np.concatenate(column)[which.ravel()] for column in zip(*found, strict=True)]

    def beta(self, privatiser: Privatiser) -> float:
        """The best one on public reports."""
        tokens, answers, _ = _joined(privatiser.walks(self.texts, 1_000_000))
        right = [float((guesses == tokens).mean()) for guesses in self.guesses(answers, BETAS)]
        return BETAS[int(np.argmax(right))]

    def success(
        self, privatiser: Privatiser, answers: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which tokens are guessed right."""
        (guesses,) = self.guesses(answers, [self.beta(privatiser)])
        return guesses == tokens


def _joined(walks: Sequence[Walk]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Tokens, answers and groups of all texts."""
    return (
        np.concatenate([walk.tokens for walk in walks]),
        np.concatenate([walk.answers for walk in walks]),
        np.concatenate([walk.groups for walk in walks]),
    )


# Utility


def utility(embeddings: Table, base: BaseModel, rows: Sequence[Any], seed: int) -> list[dict[str, Any]]:
    """Scores and attacks for each mechanism and budget; the first two rows are clean text and no text."""
    labels = np.array([[row["labels"][name] for name in CHEXPERT] for row in rows], dtype=np.float32)
    texts = [row["text"] for row in rows]
    found = [
        {"mechanism": "clean", "epsilon": None, "f1": score(base, texts, labels), "nearest": 1.0, "prior": 1.0},
        {"mechanism": "no text", "epsilon": None, "f1": score(base, ["."] * len(texts), labels)},
    ]
    attacker = Attacker(embeddings)
    for mechanism, budgets in BUDGETS.items():
        for epsilon in budgets:
            privatiser = Privatiser(embeddings, Choice(epsilon, "uniform", mechanism), TASK, seed=seed)
            walks = privatiser.walks(texts)
            tokens, answers, _ = _joined(walks[:ATTACKED])
            found.append(
                {
                    "mechanism": mechanism,
                    "epsilon": epsilon,
                    "f1": score(base, [privatiser.spelt(walk) for walk in walks], labels),
                    "nearest": float((answers == tokens).mean()),
                    "prior": float(attacker.success(privatiser, answers, tokens).mean()),
                    "tokens": len(tokens),
                }
            )
            print(found[-1], flush=True)
    return found


def score(base: BaseModel, texts: Sequence[str], labels: NDArray[np.float32]) -> tuple[float, float, float]:
    """Weighted F1 at 1/2 of the public head on mean-pooled features, and its 95 % interval over reports."""
    head = base.public_head
    assert head is not None
    order = [head.labels["chexpert"].index(name) for name in CHEXPERT]
    decided = np.empty(labels.shape, dtype=bool)
    by_length = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    for start in range(0, len(texts), 32):
        part = by_length[start : start + 32]
        encoded = base.tokenizer(
            [texts[k] for k in part], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.inference_mode():
            states = base.module(**encoded).last_hidden_state
            mask = encoded["attention_mask"][:, :, None].float()
            pooled = (states * mask).sum(1) / mask.sum(1)
            logits = pooled @ head.weight["chexpert"].T + head.bias["chexpert"]
        decided[part] = logits.numpy()[:, order] > 0
    rng = np.random.default_rng(0)
    resampled = [rng.integers(len(labels), size=len(labels)) for _ in range(500)]
    values = [_weighted(decided[k], labels[k]) for k in resampled]
    low, high = np.quantile(values, (0.025, 0.975))
    return _weighted(decided, labels), float(low), float(high)


def _weighted(decided: NDArray[np.bool_], labels: NDArray[np.float32]) -> float:
    return f1_scores(decided, labels, np.ones_like(labels), CHEXPERT).main


def utility_table(rows: Sequence[dict[str, Any]]) -> str:
    """Weighted F1 beside the success of the attacks."""
    cells = []
    for row in rows:
        value, low, high = row["f1"]
        attacks = [f"{100 * row[kind]:.1f} %" if kind in row else "-" for kind in ("nearest", "prior")]
        budget = "-" if row["epsilon"] is None else f"{row['epsilon']:g}"
        cells.append([row["mechanism"], budget, f"{value:.3f} ({low:.3f} to {high:.3f})", *attacks])
    return table(["mechanism", "epsilon a token", "weighted F1", "guessed: nearest", "guessed: prior"], cells)


# Identifiers


def identifiers(embeddings: Table, copies: int = 4) -> list[dict[str, Any]]:
    """Both attacks on invented identifiers, by group, under the profile ``full``."""
    lines = [line for line in IDENTIFIERS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    texts = [re.sub(r"\{[A-Z]+:([^{}]*)\}", r"\1", line) for line in lines] * copies
    attacker = Attacker(embeddings)
    found = []
    for mechanism, budgets in (("polar", (10, 20, 30, 40, 60, 100)), ("laplace", (20, 40)), ("santext", (2, 4, 8))):
        for epsilon in budgets:
            privatiser = Privatiser(embeddings, Choice(epsilon, "full", mechanism), TASK, seed=0)
            tokens, answers, groups = _joined(privatiser.walks(texts))
            guessed = attacker.success(privatiser, answers, tokens)
            rates = {
                str(k + 1): [float((answers == tokens)[groups == k].mean()), float(guessed[groups == k].mean())]
                for k in range(4)
                if (groups == k).any()
            }
            counts = np.bincount(groups, minlength=4) // copies
            found.append({"mechanism": mechanism, "epsilon": epsilon, "rates": rates, "tokens": counts.tolist()})
    return found


def identifier_table(rows: Sequence[dict[str, Any]]) -> str:
    """Success of nearest and prior, by group."""
    cells = [
        [
            row["mechanism"],
            row["epsilon"],
            *(
                "-" if k not in row["rates"] else "{:.1f} %, {:.1f} %".format(*(100 * x for x in row["rates"][k]))
                for k in "1234"
            ),
        ]
        for row in rows
    ]
    counts = rows[0]["tokens"]
    return table(["mechanism", "epsilon", *(f"group {k + 1} ({counts[k]})" for k in range(4))], cells)


if __name__ == "__main__":
    main()
