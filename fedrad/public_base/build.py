"""A public base: an encoder, trained as a whole but for its embedding tables on generated reports and nothing else.

It knows chest reports before any private step, and costs no privacy: no hospital's report is read. Hospitals pin its
fingerprint like that of any other base model.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedrad.corpora import COLLECTIONS, NO_OTHER_LABEL
from fedrad.data.synthetic import generate
from fedrad.errors import ConfigError
from fedrad.model.base import BaseModel
from fedrad.model.families import take_apart
from fedrad.model.layers import Layers, Readout
from fedrad.model.public_head import PublicHead

# Share of each bank among the reports. The bank of hospitals that the base has never seen is not here.
BANKS: Final[Mapping[str, float]] = {
    "chest-xray": 0.3,
    "chest-xray-icu": 0.15,
    "chest-xray-british": 0.15,
    "chest-xray-indian": 0.15,
    "chest-ct": 0.13,
    "chest-ct-western": 0.12,
}
_ROWS: Final = {**COLLECTIONS, "chexpert": (*COLLECTIONS["chexpert"], NO_OTHER_LABEL)}

# Generated reports are others than those of a synthetic corpus, whatever its seed.
_SEED_OFFSET = 7_000_000
_SITES = 24
_POOL = 32
_FEATURE_SCALE = 4.0
_AXES_FROM = 4000
AXES = 128
Progress = Callable[[str], None]


@dataclass(frozen=True)
class BaseRecipe:
    """How a public base is made.

    Attributes:
        reports: generated reports of all banks together.
        epochs: passes over them.
        learning_rate: of the encoder, the peak of a one-cycle schedule; the head takes five times as much.
        batch: reports in a step.
        max_length: tokens at which a report is cut.
        banks: share of each phrase bank.
        half: 0 or 1, to use one half of the phrases only (``data.synthetic.halves``); None: all.
    """

    reports: int = 8000
    epochs: int = 1
    learning_rate: float = 2e-4
    batch: int = 32
    max_length: int = 256
    seed: int = 0
    banks: tuple[tuple[str, float], ...] = tuple(BANKS.items())
    half: int | None = None


class Line:
    """Shows the latest line of progress on standard error: in place on a terminal, every 20 seconds elsewhere."""

    def __init__(self) -> None:
        self._last = -math.inf

    def __call__(self, line: str) -> None:
        """Shows a line."""
        now = time.monotonic()
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif now - self._last >= 20:
            self._last = now
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clears the line of a terminal."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Text:
    """Generated reports as tokens: ids by report, the collection of each, labels [L of that collection] of each."""

    ids: list[list[int]]
    collection: list[str]
    labels: list[NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.ids)


def read_text(recipe: BaseRecipe, tokenizer: Any, *, reports: int = 0, seed: int = 0) -> Text:
    """The generated reports that a recipe trains on, bank by bank."""
    ids: list[list[int]] = []
    which: list[str] = []
    labels: list[NDArray[np.float32]] = []
    total = sum(share for _, share in recipe.banks)
    for bank, share in recipe.banks:
        count = round((reports or recipe.reports) * share / total)
        rows = list(generate(count, _SEED_OFFSET + recipe.seed + seed, _SITES, bank=bank, half=recipe.half))
        if not rows:
            continue
        names = tuple(rows[0]["labels"])
        collection = next(key for key, known in COLLECTIONS.items() if set(names) <= set(known))
        for start in range(0, len(rows), 1000):
            texts = [row["text"] for row in rows[start : start + 1000]]
            ids += tokenizer(texts, truncation=True, max_length=recipe.max_length)["input_ids"]
        which += [collection] * len(rows)
        labels += [_labels_of(row["labels"], collection) for row in rows]
    return Text(ids, which, labels)


def _labels_of(given: Mapping[str, int], collection: str) -> NDArray[np.float32]:
    """The labels of one report as the rows of its head, CheXpert's No Finding among them."""
    other = any(value for name, value in given.items() if name not in ("No Finding", "Support Devices"))
    full = {**given, NO_OTHER_LABEL: int(not other)}
    return np.array([full[name] for name in _ROWS[collection]], dtype=np.float32)


class _Encoder(nn.Module):
    """The whole encoder, trained: ids [B, T], attention [B, T] -> pooled vectors [B, d], float32."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__()
        self.module = copy.deepcopy(base.module).float().requires_grad_(True)
        for part in self.module.modules():
            if isinstance(part, nn.Embedding):
                part.requires_grad_(False)
        stack = take_apart(self.module)
        self.embed = stack.embed
        self.layers = Layers(stack, range(len(stack.order)), first_token_only=False, eager_up_to=10_000)
        self.readout = Readout(None, base.hidden)

    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        return self.readout.pool(self.layers(self.embed(ids), attention), attention)


def train_base(
    base: BaseModel, recipe: BaseRecipe, progress: Progress = lambda line: None
) -> tuple[BaseModel, PublicHead]:
    """The model and its head after training on generated reports, all weights but the embedding tables.

    ``base`` itself stays as it is.

    AdamW under a one-cycle schedule, gradients clipped to norm 1, in bfloat16 where the processor multiplies it fast.
    Deterministic on one machine with a fixed number of threads.
    """
    if base.max_length < recipe.max_length:
        raise ConfigError(
            f"{base.name!r} reads at most {base.max_length} tokens, and max_length is {recipe.max_length}"
        )
    progress("generating reports")
    text = read_text(recipe, base.tokenizer)
    if not len(text):
        raise ConfigError(f"{recipe.reports} generated reports are too few for {len(recipe.banks)} phrase banks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = _Encoder(base)
        heads = nn.ModuleDict({key: nn.Linear(base.hidden, len(names)) for key, names in _ROWS.items()})
    weights = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    rates = [recipe.learning_rate, 5 * recipe.learning_rate]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "lr": rates[0]}, {"params": heads.parameters(), "lr": rates[1]}],
        weight_decay=0.01,
        fused=True,
    )
    rng = np.random.default_rng([_SEED_OFFSET, recipe.seed])
    steps = recipe.epochs * sum(1 for _ in _batches(text, recipe, np.random.default_rng(0)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 2))
    started, done, mean_loss = time.monotonic(), 0, 0.0
    for _ in range(recipe.epochs):
        for rows in _batches(text, recipe, rng):
            ids, attention = _collate(text, rows, base.tokenizer)
            with fast_products():
                pooled = encoder(ids, attention)
            loss = _loss(heads, pooled.float() * _FEATURE_SCALE, text, rows)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            mean_loss += (float(loss.detach()) - mean_loss) / min(done, 50)
            left = (time.monotonic() - started) / done * (steps - done)
            progress(f"training on generated reports: step {done} of {steps}, loss {mean_loss:.3f}, {left:.0f} s left")
    encoder.eval().requires_grad_(False)
    progress("finding the principal directions of its features")
    return replace(base, module=encoder.module, public_head=None), _public_head(encoder, heads, recipe, base)


def fast_products() -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where the processor has instructions for it; elsewhere plain float32."""
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


def _batches(text: Text, recipe: BaseRecipe, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of reports of about the same length, in random order; an incomplete one is left out."""
    order = rng.permutation(len(text))
    size = min(recipe.batch, len(text))
    batches = []
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL], key=lambda row: len(text.ids[row]))
        batches += [np.array(pool[at : at + size]) for at in range(0, len(pool) - size + 1, size)]
    for place in rng.permutation(len(batches)):
        yield batches[place]


def _collate(text: Text, rows: NDArray[np.int64], tokenizer: Any) -> tuple[Tensor, Tensor]:
    # Few widths: a library that compiles its products for each shape would otherwise compile all the time.
    width = -(-max(len(text.ids[row]) for row in rows) // 16) * 16
    ids = np.full((len(rows), width), tokenizer.pad_token_id, dtype=np.int64)
    attention = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(text.ids[row])] = text.ids[row]
        attention[place, : len(text.ids[row])] = 1
    return torch.from_numpy(ids), torch.from_numpy(attention)


def _loss(heads: nn.ModuleDict, features: Tensor, text: Text, rows: NDArray[np.int64]) -> Tensor:
    """Mean over the reports of the mean cross-entropy over the labels of each one's collection."""
    total = features.new_zeros(())
    for collection in COLLECTIONS:
        mine = [place for place, row in enumerate(rows) if text.collection[row] == collection]
        if mine:
            labels = torch.from_numpy(np.stack([text.labels[rows[place]] for place in mine]))
            logits = heads[collection](features[mine])
            total = total + binary_cross_entropy_with_logits(logits, labels) * (len(mine) / len(rows))
    return total


@torch.no_grad()
def pooled_vectors(encoder: Callable[[Tensor, Tensor], Tensor], ids: list[list[int]], tokenizer: Any) -> Tensor:
    """Pooled vectors [n, d], float32, of tokenized reports."""
    out: list[Tensor] = [torch.empty(0)] * len(ids)
    order = np.argsort([len(row) for row in ids], kind="stable")
    text = Text(ids, [""] * len(ids), [])
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = _collate(text, rows, tokenizer)
        for row, vector in zip(rows, encoder(*batch).float(), strict=True):
            out[row] = vector
    return torch.stack(out)


def pooled_of(base: BaseModel, texts: list[str], max_length: int) -> Tensor:
    """Mean-pooled vectors [n, d] of texts, float32."""
    ids = base.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    return pooled_vectors(_Encoder(base).requires_grad_(False), ids, base.tokenizer)


def score_base(base: BaseModel, head: PublicHead, recipe: BaseRecipe, *, reports: int = 1000) -> dict[str, float]:
    """Weighted F1 by collection of labels on generated reports that the recipe does not train on."""
    text = read_text(recipe, base.tokenizer, reports=reports, seed=2)
    with fast_products():
        pooled = pooled_vectors(_Encoder(base).requires_grad_(False), text.ids, base.tokenizer)
    scores = {}
    for collection in COLLECTIONS:
        rows = [row for row, which in enumerate(text.collection) if which == collection]
        if rows:
            logits = pooled[rows] @ head.weight[collection].T + head.bias[collection]
            truth = np.stack([text.labels[row] for row in rows])
            scores[collection] = float(f1_score(truth, logits.numpy() > 0, average="weighted", zero_division=0))
    return scores


def _public_head(encoder: _Encoder, heads: nn.ModuleDict, recipe: BaseRecipe, base: BaseModel) -> PublicHead:
    text = read_text(recipe, base.tokenizer, reports=_AXES_FROM, seed=1)
    with fast_products():
        pooled = pooled_vectors(encoder, text.ids, base.tokenizer).double()
    mean = pooled.mean(0)
    _, values, axes = torch.linalg.svd(pooled - mean, full_matrices=False)
    k = min(AXES, len(values))
    axes = axes[:k]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # a direction's sign is arbitrary
    return PublicHead(
        labels=dict(_ROWS),
        weight={key: (_linear(heads, key).weight.detach() * _FEATURE_SCALE).clone() for key in _ROWS},
        bias={key: _linear(heads, key).bias.detach().clone() for key in _ROWS},
        mean=mean.float(),
        directions=axes.float(),
        spread=(values[:k] / math.sqrt(len(pooled))).float(),
    )


def _linear(heads: nn.ModuleDict, key: str) -> nn.Linear:
    return cast(nn.Linear, heads[key])
