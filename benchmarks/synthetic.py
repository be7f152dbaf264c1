"""How much the synthetic reports leave to learn, and how much of it is worth something on real ones.

    python benchmarks/synthetic.py --openi indiana_reports.csv

Rows: the label-prior predictor, a linear probe on the frozen mean features of all-MiniLM-L6-v2, and LoRA (rank 4 on
query and value of the last two layers, with the head) without privacy, all trained on synthetic reports only. Columns:
weighted F1 at threshold 0.5 on held-out synthetic patients and, with ``--openi``, on Open-i. There, "No Finding" is
Problems = normal, as in the generator (nothing abnormal mentioned, labelled or not); the others are the loader's.

A random half of Open-i (by a hash of uid) was read while the grammar was written, and its errors looked at; of the
other half, "unread", some twenty reports were. About 6 minutes on one core, 2 with ``--no-lora``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fedrad.corpora import CHEXPERT
from fedrad.data.openi import openi_labels
from fedrad.data.synthetic import generate
from fedrad.model.base import BaseModel, load_base

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Reports:
    ids: list[list[int]]
    labels: NDArray[np.int8]  # [n, 14]

    def part(self, keep: NDArray[np.bool_]) -> Reports:
        return Reports([ids for ids, kept in zip(self.ids, keep, strict=True) if kept], self.labels[keep])


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    base = load_base("all-MiniLM-L6-v2")
    rows = list(generate(arguments.reports, arguments.seed))
    synthetic = _encode(base, [row["text"] for row in rows], [row["labels"] for row in rows])
    held_out = np.array([hashlib.sha256(row["patient"].encode()).digest()[0] < 51 for row in rows])
    train = synthetic.part(~held_out)
    tests = {"synthetic": synthetic.part(held_out)}
    if arguments.openi:
        tests |= _openi(base, arguments.openi)
    prevalence = train.labels.mean(axis=0)
    print(
        f"{len(train.ids)} synthetic reports to train on; " + ", ".join(f"{n}: {len(t.ids)}" for n, t in tests.items())
    )
    _show("label prior", {n: np.ones(t.labels.shape, np.float32) for n, t in tests.items()}, tests)
    features = _features(base, train)
    _show("linear probe", _probe(base, features, train, tests), tests)
    if arguments.lora:
        _show("LoRA, no privacy", _lora(base, features, prevalence, train, tests, arguments.epochs), tests)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=3750, help="generated; a fifth of the patients is held out")
    parser.add_argument("--openi", type=Path, help="indiana_reports.csv")
    parser.add_argument("--lora", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _encode(base: BaseModel, texts: list[str], labels: list[dict[str, int]]) -> Reports:
    ids = base.tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    return Reports(ids, np.array([[label[name] for name in CHEXPERT] for label in labels], dtype=np.int8))


def _openi(base: BaseModel, path: Path) -> dict[str, Reports]:
    texts, labels, unread = [], [], []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            text = f"{row['findings'].strip()} {row['impression'].strip()}".strip()
            if text:
                problems = row["Problems"].lower().split(";")
                texts.append(text)
                labels.append(openi_labels(problems) | {"No Finding": int("normal" in problems)})
                unread.append(hashlib.sha256(row["uid"].encode()).digest()[0] % 2 == 1)
    whole = _encode(base, texts, labels)
    return {"read": whole.part(~np.array(unread)), "unread": whole.part(np.array(unread))}


def _batches(
    reports: Reports, rng: np.random.Generator | None = None
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """Indices and padded ids of 32 reports of about the same length; shuffled if ``rng`` is given."""
    lengths = np.array([len(ids) for ids in reports.ids])
    order = np.argsort(lengths + (rng.uniform(0, 8, len(lengths)) if rng else 0), kind="stable")
    groups = [order[start : start + 32] for start in range(0, len(order), 32)]
    for group in rng.permutation(len(groups)) if rng else range(len(groups)):
        indices = groups[group]
        ids = torch.zeros(len(indices), int(lengths[indices].max()), dtype=torch.long)
        for row, index in enumerate(indices):
            ids[row, : lengths[index]] = torch.tensor(reports.ids[index])
        yield indices, ids


def _pooled(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    attention = (ids != 0).long()  # 0 is BERT's padding
    hidden = module(input_ids=ids, attention_mask=attention).last_hidden_state
    return (hidden * attention[..., None]).sum(dim=1) / attention.sum(dim=1, keepdim=True)


@torch.inference_mode()
def _features(base: BaseModel, reports: Reports) -> Scores:
    features = np.zeros((len(reports.ids), base.hidden), np.float32)
    for indices, ids in _batches(reports):
        features[indices] = _pooled(base.module, ids).numpy()
    return features


def _probe(base: BaseModel, features: Scores, train: Reports, tests: dict[str, Reports]) -> dict[str, Scores]:
    scaler = StandardScaler().fit(features)
    probes = [
        LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(features), train.labels[:, label])
        for label in range(len(CHEXPERT))
    ]
    result = {}
    for name, test in tests.items():
        scaled = scaler.transform(_features(base, test))
        result[name] = np.stack([probe.predict_proba(scaled)[:, 1] for probe in probes], axis=1)
    return result


def _lora(
    base: BaseModel,
    features: Scores,
    prevalence: NDArray[np.float64],
    train: Reports,
    tests: dict[str, Reports],
    epochs: int,
) -> dict[str, Scores]:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], layers_to_transform=[4, 5])
    encoder = get_peft_model(copy.deepcopy(base.module), lora)
    head = torch.nn.Linear(base.hidden, len(CHEXPERT))
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.logit(torch.tensor(prevalence, dtype=torch.float32), eps=1e-3)
    centre, scale = torch.tensor(features.mean(axis=0)), 1 / float(features.std(axis=0).mean())
    adapter = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([{"params": adapter, "lr": 1e-3}, {"params": head.parameters(), "lr": 3e-3}])
    steps = epochs * (len(train.ids) // 32 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    labels = torch.tensor(train.labels, dtype=torch.float32)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for indices, ids in _batches(train, rng):
            logits = head((_pooled(encoder, ids) - centre) * scale)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[indices], reduction="none")
            optimizer.zero_grad()
            loss.sum(dim=1).mean().backward()
            optimizer.step()
            schedule.step()
    result = {}
    with torch.inference_mode():
        for name, test in tests.items():
            result[name] = np.zeros(test.labels.shape, np.float32)
            for indices, ids in _batches(test):
                result[name][indices] = torch.sigmoid(head((_pooled(encoder, ids) - centre) * scale)).numpy()
    return result


def _f1(scores: Scores, labels: NDArray[np.int8]) -> NDArray[np.float64]:
    chosen, true = scores > 0.5, labels > 0
    return 2 * (chosen & true).sum(axis=0) / np.maximum(1, chosen.sum(axis=0) + true.sum(axis=0))


def _show(row: str, scores: dict[str, Scores], tests: dict[str, Reports]) -> None:
    f1 = {name: _f1(scores[name], test.labels) for name, test in tests.items()}
    weighted = {name: float(np.average(f1[name], weights=tests[name].labels.sum(axis=0))) for name in tests}
    print(f"\n{row:30}" + "".join(f"{name:>12}" for name in tests))
    print(f"{'  weighted F1':30}" + "".join(f"{weighted[name]:12.3f}" for name in tests), flush=True)
    if row != "label prior":
        for label, name in enumerate(CHEXPERT):
            print(f"{'    ' + name:30}" + "".join(f"{f1[test][label]:12.2f}" for test in tests), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    main()
