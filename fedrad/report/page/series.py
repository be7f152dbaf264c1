"""Figures over several runs: which belong together, their means, and how sure these are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from fedrad.report.page.files import RunFiles

# What makes no other condition of a run: seeds, where it was written, and epsilon, which is the axis.
_NO_CONDITION = ("run.", "train.seed", "data.seed", "privacy.epsilon", "train.threads")


@dataclass(frozen=True)
class Mean:
    """A mean over runs that differ by their seeds only.

    Attributes:
        low, high: 95% interval of the mean (Student's t over runs); NaN for a single run.
    """

    epsilon: float
    runs: int
    mean: float
    low: float
    high: float

    @staticmethod
    def of(epsilon: float, values: Sequence[float]) -> Mean:
        """The mean of at least one value."""
        centre, n = fmean(values), len(values)
        half = float(stats.t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n) if n > 1 else math.nan
        return Mean(epsilon, n, centre, centre - half, centre + half)


def lines_of(runs: Sequence[RunFiles]) -> dict[str, list[Mean]]:
    """Of each condition, by what tells it from the others, the means of the main score by epsilon, ascending; epsilon 0
    stands for no privacy."""
    scored = [run for run in runs if run.figures]
    flats = [
        {key: value for key, value in run.experiment.flat().items() if not key.startswith(_NO_CONDITION)}
        for run in scored
    ]
    differing = [key for key in (flats[0] if flats else {}) if len({str(flat[key]) for flat in flats}) > 1]
    lines: dict[str, dict[float, list[float]]] = {}
    for run, flat in zip(scored, flats, strict=True):
        name = ", ".join(f"{key}={flat[key]}" for key in differing) or "all runs"
        by_epsilon = lines.setdefault(name, {})
        by_epsilon.setdefault(run.experiment.privacy.epsilon, []).append(next(iter(run.figures.values())))
    return {name: [Mean.of(eps, points[eps]) for eps in sorted(points)] for name, points in lines.items()}


def epsilon_by_round(run: RunFiles) -> dict[str, list[tuple[int, float]]]:
    """Of each hospital: (round, epsilon spent until then); those without a finite one are left out."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in run.metrics:
        for site, epsilon in line["epsilon"].items():
            if epsilon is not None:
                found.setdefault(site, []).append((int(line["round"]), float(epsilon)))
    return found


def budgets(run: RunFiles) -> list[float]:
    """The budgets of the hospitals, without repetition."""
    own = run.experiment.sites.epsilons
    return sorted(set(own)) if own else [run.experiment.privacy.epsilon] * (run.experiment.privacy.epsilon > 0)
