"""Membership inference on the final adapter: the likelihood-ratio attack (LiRA), offline.

Carlini et al. 2022, Membership inference attacks from first principles, arXiv 2112.03570. The adversary has the final
adapter and one report with its labels, and has trained shadow models on reports of the same kind. It asks how much more
confident the adapter is of the report than the shadow models are that never saw it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrad.audit.subsets import Pool, losses_of, trained_on

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def confidence_of(losses: Floats) -> Floats:
    """phi = ln(p / (1 - p)) with p = exp(-loss), the probability of all labels of a report (section V of the paper)."""
    return -losses - np.log(-np.expm1(-np.maximum(losses, 1e-12)))


def offline_scores(confidences: Floats, members: Bools) -> Floats:
    """The offline attack (its equation 4) on every model, with all others as its shadow models.

    The score of report x under a model is P[N(mu_out, sigma) < phi], with the mean of the others that were not trained
    on x. With few of them sigma is one for all reports, as the paper advises.

    Args:
        confidences: phi of each model and report [M, n].
        members: whether the model was trained on it [M, n].

    Returns:
        [M, n], NaN where fewer than two other models are without the report.
    """
    outside = np.where(members, 0.0, confidences)
    total, count = outside.sum(axis=0), (~members).sum(axis=0)
    spread = np.sqrt(np.mean((confidences - total / np.maximum(count, 1))[~members] ** 2))
    others = count - ~members  # how many other models are without it
    mean = (total - outside) / np.maximum(others, 1)
    scores = stats.norm.cdf((confidences - mean) / spread)
    found: Floats = np.where(others >= 2, scores, np.nan)
    return found


def success(scores: Floats, members: Bools) -> dict[str, float]:
    """AUC, and true positive rates at false positive rates of 10%, 1% and 0.1%, over all pairs with a score."""
    usable = np.isfinite(scores)
    inside, outside = scores[usable & members], scores[usable & ~members]
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    auc = (ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside))
    rates = {f"TPR at {rate:.1%} FPR": rate for rate in (0.1, 0.01, 0.001)}
    return {"AUC": float(auc)} | {
        name: float(np.mean(inside > np.quantile(outside, 1 - rate, method="higher"))) for name, rate in rates.items()
    }


def attack_membership(pool: Pool, epsilon: float, models: int) -> dict[str, Any]:
    """Trains so many models, each on a random half of the pool, and attacks each of them with the others.

    Returns:
        epsilon (None: no privacy), models, reports that each was trained on, and ``success``.
    """
    generator, reports = np.random.default_rng(pool.experiment.train.seed), len(pool.inputs)
    members, confidences = np.zeros((models, reports), dtype=np.bool_), np.empty((models, reports))
    for k in range(models):
        rows = np.sort(generator.permutation(reports)[: reports // 2])
        members[k, rows] = True
        pool.setup.classifier.load_adapter(trained_on(pool, rows, epsilon, seed=k))
        confidences[k] = confidence_of(losses_of(pool.inputs))
    found = success(offline_scores(confidences, members), members)
    return {"epsilon": epsilon or None, "models": models, "reports": reports // 2, **found}
