"""A public base: an encoder whose weights, except the embedding tables, are trained on generated reports only.

It knows chest reports before any private step, and costs no privacy, since it reads no hospital's report. Hospitals pin
its fingerprint like that of any other base model.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedrad.data.batches import Batch, Tokenized, collate
from fedrad.errors import ConfigError
from fedrad.model.base import BaseModel
from fedrad.model.families import take_apart
from fedrad.model.layers import Layers, Readout
from fedrad.model.public_head import PublicHead
from fedrad.public_base.text import COLUMNS, ROWS, SEED_OFFSET, BaseRecipe, of_collection, read_text
from fedrad.tasks.metrics import f1_scores

_POOL = 32
_FEATURE_SCALE = 4.0
_AXES_FROM = 4000
AXES = 128
Progress = Callable[[str], None]


class Line:
    """Shows the latest line of progress on standard error: in place on a terminal, elsewhere every 20 seconds."""

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


class _Encoder(nn.Module):
    """A trainable copy of a whole encoder: ids [B, T], attention [B, T] -> mean-pooled vectors [B, d], float32."""

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
    """A trained copy of ``base``, and its head.

    AdamW under a one-cycle schedule, gradients clipped to norm 1, in bfloat16 if the processor multiplies it fast.
    Deterministic on one machine with a fixed number of threads.

    Raises:
        ConfigError: the recipe's reports are too long for the model, or too few.
    """
    if base.max_length < recipe.max_length:
        raise ConfigError(
            f"{base.name!r} reads at most {base.max_length} tokens, and max_length is {recipe.max_length}"
        )
    progress("generating reports")
    text = read_text(recipe, base.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = _Encoder(base)
        heads = {key: nn.Linear(base.hidden, len(names)) for key, names in ROWS.items()}
    weights = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    rates = [recipe.learning_rate, 5 * recipe.learning_rate]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "lr": rates[0]},
            {"params": [parameter for head in heads.values() for parameter in head.parameters()], "lr": rates[1]},
        ],
        weight_decay=0.01,
        fused=True,
    )
    rng = np.random.default_rng([SEED_OFFSET, recipe.seed])
    steps = recipe.epochs * sum(1 for _ in _batches(text, recipe, np.random.default_rng(0)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 2))
    started, done, mean_loss = time.monotonic(), 0, 0.0
    for _ in range(recipe.epochs):
        for rows in _batches(text, recipe, rng):
            batch = _padded(text, rows, base)
            with fast_products():
                pooled = encoder(batch.ids, batch.attention)
            loss = _loss(heads, pooled.float() * _FEATURE_SCALE, batch)
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
    trained = replace(base, module=encoder.module, public_head=None)
    return trained, _public_head(trained, heads, recipe)


def fast_products() -> AbstractContextManager[Any]:
    """Autocasts to bfloat16 if the processor has instructions for it; otherwise does nothing."""
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


def _batches(text: Tokenized, recipe: BaseRecipe, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of reports of similar length, in random order. An incomplete batch is left out."""
    order = rng.permutation(len(text))
    size = min(recipe.batch, len(text))
    batches = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        pool = pool[np.argsort(text.lengths[pool], kind="stable")]
        batches += [pool[at : at + size] for at in range(0, len(pool) - size + 1, size)]
    for place in rng.permutation(len(batches)):
        yield batches[place]


def _padded(text: Tokenized, rows: NDArray[np.int64], base: BaseModel) -> Batch:
    # Few widths: some libraries compile their products for each shape.
    width = -(-int(text.lengths[rows].max()) // 16) * 16
    return collate(text, rows, base.tokenizer.pad_token_id, at_least=width)


def _loss(heads: dict[str, nn.Linear], features: Tensor, batch: Batch) -> Tensor:
    """Mean over the reports of the mean cross-entropy over the labels of each one's collection."""
    total = features.new_zeros(())
    for collection, columns in COLUMNS.items():
        mine = batch.mask[:, columns.start].nonzero().squeeze(1)
        if len(mine):
            logits = heads[collection](features[mine])
            labels = batch.labels[mine, columns].contiguous()
            total = total + binary_cross_entropy_with_logits(logits, labels) * (len(mine) / len(features))
    return total


@torch.no_grad()
def pooled_vectors(base: BaseModel, text: Tokenized) -> Tensor:
    """Mean-pooled vectors [n, d] of the reports, float32, as `fast_products` computes them."""
    encoder = _Encoder(base).requires_grad_(False)
    out = torch.empty(len(text), base.hidden)
    order = np.argsort(text.lengths, kind="stable")
    with fast_products():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            batch = _padded(text, rows, base)
            out[torch.from_numpy(rows)] = encoder(batch.ids, batch.attention).float()
    return out


def score_base(base: BaseModel, head: PublicHead, recipe: BaseRecipe, *, reports: int = 1000) -> dict[str, float]:
    """Weighted F1 by collection of labels, on generated reports that the recipe does not train on."""
    text = read_text(recipe, base.tokenizer, reports=reports, seed=2)
    pooled = pooled_vectors(base, text)
    scores = {}
    for collection, columns in COLUMNS.items():
        rows = of_collection(text, collection)
        if len(rows):
            logits = pooled[rows] @ head.weight[collection].T + head.bias[collection]
            truth, mask = text.labels[rows, columns], text.mask[rows, columns]
            scores[collection] = f1_scores(logits.numpy() > 0, truth, mask, ROWS[collection]).main
    return scores


def _public_head(trained: BaseModel, heads: dict[str, nn.Linear], recipe: BaseRecipe) -> PublicHead:
    pooled = pooled_vectors(trained, read_text(recipe, trained.tokenizer, reports=_AXES_FROM, seed=1)).double()
    mean = pooled.mean(0)
    _, values, axes = torch.linalg.svd(pooled - mean, full_matrices=False)
    k = min(AXES, len(values))
    axes = axes[:k]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # a direction's sign is arbitrary
    return PublicHead(
        labels=dict(ROWS),
        weight={key: (head.weight.detach() * _FEATURE_SCALE).clone() for key, head in heads.items()},
        bias={key: head.bias.detach().clone() for key, head in heads.items()},
        mean=mean.float(),
        directions=axes.float(),
        spread=(values[:k] / math.sqrt(len(pooled))).float(),
    )
