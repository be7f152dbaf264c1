"""Makes the files of the public base that comes with fedrad, and says what they score.

    python -m benchmarks.public_base --out DIR [--openi DIR] [--install]

Trains all weights of all-MiniLM-L6-v2 on generated reports, takes the difference as low-rank factors of 8-bit numbers,
and writes ``difference.safetensors`` and ``head.safetensors``; ``--install`` puts them into the package, where their
SHA-256 must then be set in ``fedrad/model/base.py``. Without ``--openi``, scores are those on generated reports.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

import fedrad.model
from benchmarks.difference import difference, save_difference
from fedrad.data.batches import Tokenized
from fedrad.data.label_names import positions
from fedrad.data.load import load_corpus
from fedrad.data.report import label_matrix, label_names
from fedrad.model.base import BaseModel, load_base
from fedrad.model.difference import apply_difference
from fedrad.model.public_head import HEAD_FILE, PublicHead
from fedrad.public_base.build import Line, pooled_vectors, score_base, train_base
from fedrad.public_base.text import BaseRecipe
from fedrad.settings import EMBEDDED

REPORTS, EPOCHS, RANK = 40_000, 1, 96


def main() -> None:
    """Trains, factorises, scores and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reports", type=int, default=REPORTS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--ranks", default=str(RANK), help="the last one is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--half", type=int, choices=(0, 1), help="train on one half of the phrases, score on the other")
    parser.add_argument("--openi", type=Path, help="folder with indiana_reports.csv")
    parser.add_argument("--install", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    embedded, began = load_base(EMBEDDED), time.monotonic()
    recipe = BaseRecipe(reports=arguments.reports, epochs=arguments.epochs, seed=arguments.seed, half=arguments.half)
    trained, head = train_base(embedded, recipe, Line())
    print(f"trained in {time.monotonic() - began:.0f} s")
    scored_on = recipe if arguments.half is None else replace(recipe, half=1 - arguments.half)
    _show("all weights", trained, head, scored_on, arguments.openi)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for rank in (int(text) for text in arguments.ranks.split(",")):
        tensors = difference(embedded.module, trained.module, rank)
        save_difference(tensors, arguments.out / "difference.safetensors")
        size = (arguments.out / "difference.safetensors").stat().st_size / 1e6
        shipped = replace(embedded, module=apply_difference(embedded.module, tensors))
        _show(f"rank {rank}, {size:.1f} MB", shipped, head, scored_on, arguments.openi)
    head.save(arguments.out / HEAD_FILE)
    for name in ("difference.safetensors", HEAD_FILE):
        print(name, hashlib.sha256((arguments.out / name).read_bytes()).hexdigest())
        if arguments.install:
            shutil.copy(arguments.out / name, Path(fedrad.model.__file__).parent / "chest_minilm" / name)


def pooled_of(base: BaseModel, texts: list[str], max_length: int) -> Tensor:
    """Mean-pooled vectors [n, d] of texts, float32."""
    ids = base.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    nothing = np.zeros((len(ids), 0), dtype=np.float32)
    return pooled_vectors(base, Tokenized.of(ids, nothing, nothing))


def _show(what: str, base: BaseModel, head: PublicHead, recipe: BaseRecipe, openi: Path | None) -> None:
    scores = score_base(base, head, recipe, reports=2000)
    if openi is not None:
        reports = load_corpus("openi", openi)
        names = label_names(reports.features)
        pooled = pooled_of(base, list(reports["text"]), recipe.max_length)
        rows = list(positions(names, head.labels["chexpert"]))
        logits = pooled @ head.weight["chexpert"][rows].T + head.bias["chexpert"][rows]
        truth = np.asarray(label_matrix(reports)) == 1
        scores["openi"] = float(f1_score(truth, logits.numpy() > 0, average="weighted", zero_division=0))
    print(f"{what}: weighted F1", ", ".join(f"{name} {score:.4f}" for name, score in scores.items()), flush=True)


if __name__ == "__main__":
    main()
