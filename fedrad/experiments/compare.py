"""``fedrad compare``: how sure each score is, and which differences are more than chance.

Formulas and their sources are in ``fedrad.evidence.paired``. Differences are those of a condition to the baseline,
seed by seed on the same test reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedrad.errors import ConfigError, DataError
from fedrad.evidence.paired import (
    LEAST_SEEDS,
    Seed,
    bootstrap,
    bootstrap_p,
    equivalence,
    holm,
    interval,
    label_f1,
    mcnemar,
    mean_interval,
    observed,
    patient_counts,
    randomisation_p,
    signed_rank_p,
    smallest_signed_rank_p,
)
from fedrad.experiments.predicted import Predicted
from fedrad.experiments.runs import Condition, FinishedRun, shown

MARGIN, DRAWS = 0.01, 10_000
ALL_LABELS = "(every label right)"


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        scores: a row for each condition: mean over seeds, intervals, collapses.
        labels: the same for each label.
        differences: a row for each condition against its baseline.
        mcnemar: a row for each of those and each label, over all common seeds.
        warnings: what the figures can't carry, a sentence each.
    """

    scores: pd.DataFrame
    labels: pd.DataFrame
    differences: pd.DataFrame
    mcnemar: pd.DataFrame
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        tables = {
            name: [{key: _plain(value) for key, value in record.items()} for record in table.to_dict("records")]
            for name, table in asdict(self).items()
            if isinstance(table, pd.DataFrame)
        }
        return {**tables, "warnings": list(self.warnings)}


def compare(
    axes: Sequence[str],
    conditions: Sequence[Condition],
    *,
    by: str = "",
    baseline: str = "",
    margin: float = MARGIN,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Scores of all conditions, and differences along one axis.

    Args:
        by: the axis whose values are compared; default the first. Conditions are paired that agree in all others.
        baseline: its value to compare with, or a floor of the sweep; default the first value.
        margin: weighted F1 that counts as a loss, chosen before the figures were seen.
        draws: of the bootstrap and of the randomisation.
        seed: of both.

    Raises:
        ConfigError: there is no such axis or value.
        DataError: runs of one seed have different test sets, or a run has kept no predictions.
    """
    generator = np.random.default_rng(seed)
    scores = pd.DataFrame([_scores(c, axes, draws, generator) for c in conditions])
    labels = pd.DataFrame([row for c in conditions for row in _label_scores(c, axes, draws, generator)])
    pairs = _pairs(axes, conditions, by, baseline)
    differences, tests, warnings = [], list[dict[str, Any]](), _about_seeds(conditions)
    for first, second in pairs:
        runs = _common(first, second)
        if not runs:
            warnings.append(f"{second.name}: has no seed in common with {first.name}; not compared")
            continue
        differences.append(_difference(first, second, runs, margin, draws, generator))
        tests += _mcnemar(first, second, runs)
    table = pd.DataFrame(tests)
    for kind in ("exact", "mid"):
        if len(table):
            table[f"{kind} Holm"] = holm(table[kind])
    found = pd.DataFrame(differences)
    for kind in ("p boot", "p rand"):
        if len(found):
            found.insert(found.columns.get_loc(kind) + 1, f"{kind} Holm", holm(found[kind]))
    return Comparison(scores, labels, found, table, tuple(dict.fromkeys(warnings)))


def _seed(runs: Sequence[FinishedRun]) -> Seed:
    """What the runs, of one seed and one test set, got right.

    Raises:
        DataError: their test sets differ.
    """
    first = runs[0].predictions
    for run in runs[1:]:
        if run.predictions.test_set != first.test_set:
            raise DataError(
                f"was tested on other reports than {runs[0].directory}, or with other labels, so they can't be paired.",
                file=run.directory,
                remedy="Compare runs with the same data.* settings and data.seed.",
            )
    counts = [patient_counts(run.predictions.decisions, first.truth, first.known, first.patients) for run in runs]
    return Seed(np.stack(counts), first.test_set)


def _named(condition: Condition, axes: Sequence[str]) -> dict[str, Any]:
    keys = {axis: condition.keys[axis] for axis in axes}
    return {**keys, "floor": condition.floor, "hospital": condition.hospital or None, "seeds": len(condition.runs)}


def _scores(condition: Condition, axes: Sequence[str], draws: int, generator: np.random.Generator) -> dict[str, Any]:
    seeds = [_seed([run]) for run in condition.runs]
    values = observed(seeds)[:, 0]
    low, high = interval(bootstrap(seeds, draws, generator)[:, 0])
    over_seeds = mean_interval(values)
    collapsed = sum(value <= run.prior for value, run in zip(values, condition.runs, strict=True))
    return {
        **_named(condition, axes),
        "weighted F1": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        "low": low,
        "high": high,
        "low, seeds alone": over_seeds[0],
        "high, seeds alone": over_seeds[1],
        "label prior": float(np.mean([run.prior for run in condition.runs])),
        "collapsed": int(collapsed),
    }


def _label_scores(
    condition: Condition, axes: Sequence[str], draws: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    seeds = [_seed([run]) for run in condition.runs]
    names = condition.runs[0].predictions.names
    drawn = bootstrap(seeds, min(draws, 2000), generator, label_f1)[:, 0]
    means = observed(seeds, label_f1)[:, 0].mean(axis=0)
    bounds: NDArray[Any] = np.quantile(drawn, [0.025, 0.975], axis=0)
    return [
        {**_named(condition, axes), "label": name, "F1": float(mean), "low": float(low), "high": float(high)}
        for name, mean, low, high in zip(names, means, *bounds, strict=True)
    ]


def _pairs(
    axes: Sequence[str], conditions: Sequence[Condition], by: str, baseline: str
) -> list[tuple[Condition, Condition]]:
    """(baseline, other) for each condition of the grid that has one."""
    grid = [condition for condition in conditions if not condition.floor]
    floors = [condition for condition in conditions if condition.floor and condition.floor == baseline]
    if floors:
        return [(floor, c) for c in grid for floor in floors if _under(floor, c)]
    if not axes or not grid:
        return []
    by = by or axes[0]
    if by not in axes:
        raise ConfigError(f"--by {by}: is not swept here; there are {', '.join(axes)}")
    values = list(dict.fromkeys(shown(condition.keys[by]) for condition in grid))
    baseline = baseline or values[0]
    if baseline not in values:
        names = dict.fromkeys(condition.floor for condition in conditions if condition.floor)
        raise ConfigError(f"--baseline {baseline}: {by} has the values {', '.join(values)}; floors: {', '.join(names)}")

    def others(condition: Condition) -> tuple[Any, ...]:
        return tuple(value for axis, value in condition.keys.items() if axis != by)

    bases = {others(c): c for c in grid if shown(c.keys[by]) == baseline}
    return [(bases[others(c)], c) for c in grid if others(c) in bases and bases[others(c)] is not c]


def _under(floor: Condition, cell: Condition) -> bool:
    return all(value is None or value == cell.keys[axis] for axis, value in floor.keys.items())


def _common(first: Condition, second: Condition) -> list[tuple[FinishedRun, FinishedRun]]:
    """Their runs seed by seed."""
    others = {run.seed: run for run in second.runs}
    return [(run, others[run.seed]) for run in first.runs if run.seed in others]


def _difference(
    first: Condition,
    second: Condition,
    runs: Sequence[tuple[FinishedRun, FinishedRun]],
    margin: float,
    draws: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    seeds = [_seed(pair) for pair in runs]
    values = observed(seeds)
    by_seed = values[:, 1] - values[:, 0]
    drawn = bootstrap(seeds, draws, generator)
    differences = drawn[:, 1] - drawn[:, 0]
    low, high = interval(differences)
    same = equivalence(differences, margin)
    return {
        "baseline": first.name,
        "compared": second.name,
        "seeds": len(seeds),
        "difference": float(by_seed.mean()),
        "low": low,
        "high": high,
        "p boot": bootstrap_p(differences),
        "p rand": randomisation_p(seeds, draws, generator),
        "p rank": signed_rank_p(by_seed),
        "p rank min": smallest_signed_rank_p(len(seeds)),
        "margin": margin,
        "p no loss": same.no_loss,
        "p equal": same.p,
    }


def _mcnemar(
    first: Condition, second: Condition, runs: Sequence[tuple[FinishedRun, FinishedRun]]
) -> list[dict[str, Any]]:
    """Of each label, and of all of them at once, over all seeds; a patient of a test set is a cluster."""
    pairs = [(one.predictions, other.predictions) for one, other in runs]
    starts: dict[str, int] = {}
    clusters = []
    for one, _ in pairs:
        start = starts.setdefault(one.test_set, len(starts) * max(len(a) for a, _ in pairs))
        clusters.append(start + np.unique(one.patients, return_inverse=True)[1])

    gains = [_right(other) - _right(one) for one, other in pairs]
    named = {"baseline": first.name, "compared": second.name, "seeds": len(pairs)}
    return [
        {**named, "label": label, **asdict(mcnemar([gain[:, k] for gain in gains], clusters))}
        for k, label in enumerate([*pairs[0][0].names, ALL_LABELS])
    ]


def _right(found: Predicted) -> NDArray[np.int64]:
    """1 where a decision is right, [n, L + 1]; the last column is of all labels of the report."""
    return np.column_stack([found.correct, found.correct.all(axis=1)]).astype(np.int64)


def _about_seeds(conditions: Sequence[Condition]) -> list[str]:
    few = [condition for condition in conditions if len(condition.runs) < LEAST_SEEDS and not condition.floor]
    if not few:
        return []
    least = min(len(condition.runs) for condition in few)
    return [
        f"{len(few)} conditions have fewer than {LEAST_SEEDS} seeds (the fewest: {least}). With {least}, a signed-rank"
        f" test over seeds can't go below p = {smallest_signed_rank_p(least):.3g}, and intervals understate how much"
        " runs differ; take 6 at least, better 10"
    ]


def _plain(value: Any) -> Any:
    """JSON has no NaN and no numpy."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
