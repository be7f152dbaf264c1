"""Which kappa did STAMP's experiments use: the paper's (epsilon) or the released code's (epsilon / pi)?

    python -m benchmarks.privatise_kappa --plot docs/privatise-kappa.png

For the budgets of the paper's Table 1 and both readings: the mean cosine of a noised direction to the true one in
d = 768, measured over samples and in theory, ``A_d(kappa)``; and how many of the noised directions are still nearest to
their own among as many random directions as BERT has tokens. Real embeddings are less spread out than random ones,
so that such a share is an upper bound for them at best; where it starts to rise is what the two readings differ in.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import describe, machine, table, write_json
from fedrad.privacy.randomness import Stream
from fedrad.privatise.guarantees import Kappa, per_epsilon
from fedrad.privatise.sphere import around, directions, mean_cosine

DIMENSION, TOKENS = 768, 30_522
BUDGETS = tuple(range(50, 651, 50))
READINGS: tuple[Kappa, ...] = ("paper", "code")
Point = dict[str, float]


def measured(reading: Kappa, budget: float, rows: NDArray[np.float64], samples: int, stream: Stream) -> Point:
    """Mean cosine with its standard error, in theory too, and the share of samples nearest to their own row."""
    own = np.arange(samples) % len(rows)
    kappa = budget * per_epsilon(reading)
    noised = around(rows[own], np.full(samples, kappa), stream)
    cosines = np.sum(noised * rows[own], axis=1)
    nearest = (noised @ rows.T).argmax(axis=1)
    return {
        "epsilon": budget,
        "kappa": kappa,
        "cosine": float(cosines.mean()),
        "error": float(cosines.std(ddof=1) / np.sqrt(samples)),
        "theory": mean_cosine(DIMENSION, kappa),
        "recovered": float(np.mean(nearest == own)),
    }


def plot(curves: Mapping[Kappa, list[Point]], path: Path) -> None:
    """Mean cosine, and share of recovered tokens, over epsilon."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for number, (reading, points) in enumerate(curves.items()):
        budgets, label = [p["epsilon"] for p in points], f"kappa of the {reading}"
        axes[0].plot(budgets, [p["theory"] for p in points], color=f"C{number}", linewidth=0.8)
        axes[0].plot(budgets, [p["cosine"] for p in points], ".", color=f"C{number}", label=label)
        axes[1].plot(budgets, [p["recovered"] for p in points], ".-", color=f"C{number}", label=label)
    titles = ("mean cosine to the true direction", "share nearest to their own token")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="epsilon")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000, help="of each budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="draw the curves")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    print(describe(machine()), flush=True)
    stream = Stream.seeded(options.seed)
    rows = directions(TOKENS, DIMENSION, stream)
    curves = {
        reading: [measured(reading, budget, rows, options.samples, stream) for budget in BUDGETS]
        for reading in READINGS
    }
    columns = ("epsilon", *(f"{what}, {reading}" for reading in READINGS for what in ("A_d", "measured", "recovered")))
    lines = [
        (
            f"{budget}",
            *(
                text
                for reading in READINGS
                for p in [curves[reading][number]]
                for text in (f"{p['theory']:.3f}", f"{p['cosine']:.4f} ± {p['error']:.4f}", f"{p['recovered']:.1%}")
            ),
        )
        for number, budget in enumerate(BUDGETS)
    ]
    print(table(columns, lines))
    if options.plot:
        plot(curves, options.plot)
    write_json(options.json, {"benchmark": "privatise_kappa", "dimension": DIMENSION, "curves": curves})


if __name__ == "__main__":
    main()
