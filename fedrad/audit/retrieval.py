"""Candidate retrieval: from a hospital's answer to one round, which of C known reports is in its shard?

The server knows the adapter that it sent, the answer, and C candidate reports with their labels, of which one is in the
shard. It takes the candidate whose gradient points most nearly in the direction of the update (largest cosine).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.audit.subsets import Pool, trained_on
from fedrad.model.buckets import micro_batches
from fedrad.privacy.gradients import leaf_gradients


def gradients_of(pool: Pool) -> Tensor:
    """The gradient of every report of the pool at the adapter that the server sends, float32 [n, numbers], length 1."""
    inputs, classifier = pool.inputs, pool.setup.classifier
    classifier.load_state(pool.state)
    found: dict[int, Tensor] = {}
    for rows in micro_batches(inputs.lengths, np.arange(len(inputs)), classifier.kernels.micro_tokens):
        batch = inputs.batch(rows)
        with classifier.arithmetic():
            _, grads = leaf_gradients(classifier.suffix, classifier.adapter(), batch.read, batch.losses)
        flat = flattened(grads, len(rows))
        found |= dict(zip(rows.tolist(), flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12), strict=True))
    return torch.stack([found[row] for row in range(len(inputs))])


def flattened(tensors: Mapping[str, Tensor], rows: int) -> Tensor:
    """All tensors behind one another in the order of their names, [rows, numbers]."""
    return torch.cat([tensors[name].detach().cpu().reshape(rows, -1) for name in sorted(tensors)], dim=1)


def top_one(similarity: NDArray[np.float64], shard: NDArray[np.int64], candidates: int, seed: int) -> float:
    """How often the most similar of C candidates is the one in the shard, each report of the shard in turn.

    Args:
        similarity: of each report of the pool [n].
        shard: the rows that are in it. The other candidates are drawn from all others.
        candidates: C.
    """
    generator = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(len(similarity)), shard)
    right = [
        similarity[row] > similarity[generator.choice(others, candidates - 1, replace=False)].max() for row in shard
    ]
    return float(np.mean(right))


def attack_round(pool: Pool, epsilon: float, *, shard: int, candidates: int, repeats: int) -> dict[str, Any]:
    """One round of a hospital with so many reports, attacked; averaged over random shards.

    Returns:
        epsilon of the whole run (None: no privacy), reports in the shard, candidates, the rate of a random choice, and
        the top-1 rate.
    """
    gradients, rates = gradients_of(pool), []
    for k in range(repeats):
        rows = np.sort(np.random.default_rng(1000 + k).permutation(len(pool.inputs))[:shard])
        answer = trained_on(pool, rows, epsilon, seed=1000 + k, rounds=1)
        # A step goes against the gradient.
        update = flattened({name: pool.state[name] - tensor for name, tensor in answer.items()}, 1)[0]
        similarity = (gradients @ update).double().numpy()
        rates.append(top_one(similarity, rows, candidates, seed=k))
    return {
        "epsilon": epsilon or None,
        "reports": shard,
        "candidates": candidates,
        "by chance": 1 / candidates,
        "top-1": float(np.mean(rates)),
        "trials": shard * repeats,
    }
