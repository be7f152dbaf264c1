"""How far the public base carries: weighted F1, before any private step, on reports by other hands.

    python -m benchmarks.transfer [--base chest-minilm] [--openi DIR]

``other_hands/*.csv`` are invented reports: 180 chest x-rays in three national styles, 120 chest CTs in three. They were
written and labelled for this purpose, one by one, without a look at the phrase banks. Nothing was tuned on them. Author
and banks are not strangers all the same: a language model wrote the reports, and most phrases. No Finding is CheXpert's
there for a report with devices only, and otherwise Open-i's.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score

from benchmarks.public_base import pooled_of
from fedrad.data.label_names import positions
from fedrad.data.load import load_corpus
from fedrad.data.report import label_matrix, label_names
from fedrad.data.synthetic import generate
from fedrad.model.base import BaseModel, load_base
from fedrad.model.public_head import PublicHead

OTHER_HANDS = Path(__file__).with_name("other_hands")


def main() -> None:
    """Prints a markdown table, and the labels of the reports by other hands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="chest-minilm")
    parser.add_argument("--openi", type=Path, help="folder with indiana_reports.csv")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = load_base(arguments.base)
    head = base.public_head
    if head is None:
        raise SystemExit(f"{arguments.base} is no public base")
    print("| reports | number | weighted F1 | macro F1 |", "|---|---|---|---|", sep="\n")
    by_label = []
    for file, collection in (("chest_xray", "chexpert"), ("chest_ct", "ct-rate")):
        with (OTHER_HANDS / f"{file}.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        names = tuple(name for name in rows[0] if name not in ("text", "style"))
        truth = np.array([[row[name] == "1" for name in names] for row in rows])
        guess = decisions(base, head, collection, names, [row["text"] for row in rows])
        _show(f"{file.replace('_', ' ')} by other hands", truth, guess)
        for style in sorted({row["style"] for row in rows}):
            mine = [place for place, row in enumerate(rows) if row["style"] == style]
            _show(f"of these, {style}", truth[mine], guess[mine])
        each = f1_score(truth, guess, average=None, zero_division=0)
        by_label.append(", ".join(f"{name} {score:.2f}" for name, score in zip(names, each, strict=True)))
    unseen = list(generate(1000, 1, bank="chest-xray-hospitals"))
    names = tuple(unseen[0]["labels"])
    truth = np.array([[row["labels"][name] == 1 for name in names] for row in unseen])
    _show("bank chest-xray-hospitals", truth, decisions(base, head, "chexpert", names, [r["text"] for r in unseen]))
    if arguments.openi is not None:
        reports = load_corpus("openi", arguments.openi)
        names = label_names(reports.features)
        truth = np.asarray(label_matrix(reports)) == 1
        _show("Open-i", truth, decisions(base, head, "chexpert", names, list(reports["text"])))
    print("", *by_label, sep="\n\n")


def decisions(
    base: BaseModel, head: PublicHead, collection: str, names: tuple[str, ...], texts: list[str]
) -> np.ndarray:  # type: ignore[type-arg]
    """What the public head decides, [n, L]."""
    rows = list(positions(names, head.labels[collection]))
    pooled = pooled_of(base, texts, 256)
    logits = pooled @ head.weight[collection][rows].T + head.bias[collection][rows]
    return np.asarray(logits.numpy() > 0)


def _show(what: str, truth: np.ndarray, guess: np.ndarray) -> None:  # type: ignore[type-arg]
    weighted, macro = (f1_score(truth, guess, average=kind, zero_division=0) for kind in ("weighted", "macro"))
    print(f"| {what} | {len(truth)} | {weighted:.3f} | {macro:.3f} |", flush=True)


if __name__ == "__main__":
    main()
