"""Draws what ``benchmarks.privatise_utility --out`` wrote: scores over the success of the strongest attack on tokens.

    python -m benchmarks.privatise_plot utility.json --out docs/privatise.png

A panel for each set of texts, a line for each mechanism, a point for each budget. Up and to the left is better.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ATTACK = "pairs"


def draw(sets: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The bars are the intervals of both figures."""
    figure, axes = plt.subplots(1, len(sets), figsize=(4 * len(sets), 3.4), squeeze=False, layout="constrained")
    for axis, (name, rows) in zip(axes[0], sets.items(), strict=True):
        axis.axhline(rows[0]["score"][0], color="grey", linewidth=0.8, linestyle=":", label="clean texts")
        mechanisms = dict.fromkeys(row["mechanism"] for row in rows if ATTACK in row)
        for number, mechanism in enumerate(mechanisms):
            points = [row for row in rows if row["mechanism"] == mechanism]
            success, scores = [row[ATTACK] for row in points], [row["score"] for row in points]
            axis.errorbar(
                [100 * each[0] for each in success],
                [each[0] for each in scores],
                xerr=[[100 * part for part in side] for side in _bars(success)],
                yerr=_bars(scores),
                color=f"C{number}",
                marker=".",
                linewidth=1.6 if mechanism == "polar" else 0.9,
                elinewidth=0.5,
                label=mechanism,
            )
        axis.set(title=name, xlabel="tokens that the attack by pairs finds, %")
    axes[0][0].set_ylabel("score")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _bars(figures: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """How far each interval, given as figure, low end and high end, reaches below and above its figure."""
    return [value - low for value, low, _ in figures], [high - value for value, _, high in figures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="what --out of benchmarks.privatise_utility wrote")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    arguments = parser.parse_args()
    sets: dict[str, Any] = {}
    for file in arguments.files:
        sets |= json.loads(file.read_text(encoding="utf-8"))
    del sets["machine"]
    draw(sets, arguments.out)


if __name__ == "__main__":
    main()
