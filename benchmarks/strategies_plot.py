"""Draws what `benchmarks.strategies` measured: a panel for each corpus and number of hospitals, a line a strategy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_ORDER = ("head", "fedsb", "fedsb base", "ffa", "rolora", "fedavg", "refactor", "fedex", "flora", "flexlora")
_STYLES = ("-", "-", ":", "-", "-", "-", "--", "--", "--", "--")


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Weighted F1 over epsilon, mean over seeds, without label skew; the last point is without privacy."""
    corpora = [c for c in ("synthetic", "openi") if any(r["cell"]["corpus"] == c for r in records)]
    hospitals = sorted({r["cell"]["hospitals"] for r in records})
    epsilons = sorted({r["cell"]["epsilon"] for r in records} - {0.0})
    figure, axes = plt.subplots(
        len(corpora), len(hospitals), figsize=(4 * len(hospitals), 3.4 * len(corpora)), squeeze=False, sharey="row"
    )
    for row, corpus in enumerate(corpora):
        prior = statistics.mean(r["prior"] for r in records if r["cell"]["corpus"] == corpus)
        for column, count in enumerate(hospitals):
            axis = axes[row][column]
            axis.axhline(prior, color="grey", linewidth=0.8, linestyle=":", label="label prior")
            for number, (strategy, style) in enumerate(zip(_ORDER, _STYLES, strict=True)):
                means = [_mean(records, corpus, strategy, count, eps) for eps in [*epsilons, 0.0]]
                if any(mean is not None for mean in means):
                    axis.plot(range(len(means)), means, style, color=f"C{number}", marker=".", label=strategy)
            axis.set_xticks(range(len(epsilons) + 1), [*(f"{eps:g}" for eps in epsilons), "none"])
            axis.set_title(f"{corpus}, {count} hospital{'s' if count > 1 else ''}", fontsize=10)
            axis.set_xlabel("epsilon")
        axes[row][0].set_ylabel("weighted F1")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, dpi=110)


def _mean(
    records: Sequence[dict[str, Any]], corpus: str, strategy: str, hospitals: int, epsilon: float
) -> float | None:
    wanted = {"corpus": corpus, "strategy": strategy, "hospitals": hospitals, "epsilon": epsilon, "skew": "iid"}
    found = [r["weighted_f1"] for r in records if wanted.items() <= r["cell"].items()]
    return statistics.mean(found) if found else None
