"""Pictures of a comparison, as SVG and PNG: utility against epsilon or size, and F1 of each label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedrad.errors import ConfigError
from fedrad.experiments.compare import Comparison
from fedrad.experiments.runs import short, shown

EPSILON = "privacy.epsilon"
_SIZES = ("data.reports", "sites.count")
_LABELS_SHOWN = 8
_STYLES = ("--", ":", "-.", (0, (5, 5)), (0, (1, 4)), (0, (8, 2, 1, 2, 1, 2)))


def plot(found: Comparison, axes: Sequence[str], folder: Path) -> list[Path]:
    """Draws what can be drawn of these axes.

    Returns:
        The files.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("--plot: needs matplotlib: pip install 'fedrad[report]'") from None
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    if EPSILON in axes:
        made += _curve(found, axes, EPSILON, "epsilon", folder / "utility")
    for axis in _SIZES:
        if axis in axes:
            made += _curve(found, axes, axis, axis.replace(".", " "), folder / f"n-{axis.replace('.', '-')}")
    return made + _bars(found, axes, folder / "labels")


def _curve(found: Comparison, axes: Sequence[str], along: str, called: str, path: Path) -> list[Path]:
    """Weighted F1 against one axis, a line for each combination of the others, with intervals; floors as levels."""
    figure, plot = _figure(8, 5)
    rows = found.scores
    grid, others = rows[rows["floor"] == ""], [axis for axis in axes if axis != along]
    values = sorted(grid[along].unique(), key=lambda value: (along == EPSILON and float(value) == 0, float(value)))
    places = {value: place for place, value in enumerate(values)}  # epsilon "none" has no place on a scale
    for names, line in _grouped(grid, others):
        line = line.assign(place=line[along].map(places)).sort_values("place")
        below, above = line["weighted F1"] - line["low"], line["high"] - line["weighted F1"]
        label = ", ".join(f"{short(axis)} {shown(n)}" for axis, n in zip(others, names, strict=True))
        spread = [below.clip(lower=0), above.clip(lower=0)]
        plot.errorbar(line["place"], line["weighted F1"], yerr=spread, marker="o", capsize=3, label=label or "runs")
    for number, (floor, line) in enumerate(_floors(rows, along, values).items()):
        style = _STYLES[number % len(_STYLES)]
        plot.plot(range(len(values)), line, color="grey", linestyle=style, marker=".", label=floor)
    plot.set_xticks(list(places.values()), ["none" if along == EPSILON and not v else shown(v) for v in places])
    plot.set_xlabel(called)
    plot.set_ylabel("weighted F1 (95% interval over seeds and patients)")
    plot.legend(fontsize="small")
    return _saved(figure, path)


def _bars(found: Comparison, axes: Sequence[str], path: Path) -> list[Path]:
    """F1 of each label, a bar for each condition of the grid, as many as can be read."""
    figure, plot = _figure(11, 5)
    rows = found.labels[found.labels["floor"] == ""]
    groups = _grouped(rows, list(axes))[:_LABELS_SHOWN]
    width = 0.8 / max(1, len(groups))
    for number, (names, bars) in enumerate(groups):
        label = ", ".join(f"{short(axis)} {shown(n)}" for axis, n in zip(axes, names, strict=True))
        places = [place + number * width for place in range(len(bars))]
        spread = [(bars["F1"] - bars["low"]).clip(lower=0), (bars["high"] - bars["F1"]).clip(lower=0)]
        plot.bar(places, bars["F1"], width, yerr=spread, label=label or "runs", error_kw={"linewidth": 0.7})
    names_shown = list(dict.fromkeys(rows["label"]))
    plot.set_xticks(
        [place + 0.4 - width / 2 for place in range(len(names_shown))], names_shown, rotation=60, ha="right"
    )
    plot.set_ylabel("F1")
    plot.legend(fontsize="small", ncols=2)
    return _saved(figure, path)


def _grouped(rows: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    if not keys:
        return [((), rows)]
    return [(names if isinstance(names, tuple) else (names,), group) for names, group in rows.groupby(keys, sort=False)]


def _floors(rows: pd.DataFrame, along: str, values: Sequence[Any]) -> dict[str, list[float]]:
    """Each floor at the values of the axis: level where it is the same for all of them; a mean over all else."""
    lines = {}
    for name, floor in rows[rows["floor"] != ""].groupby("floor", sort=False):
        level = floor.loc[floor[along].isna(), "weighted F1"].mean()
        at = floor.groupby(along)["weighted F1"].mean()
        lines[str(name)] = [float(at.get(value, level)) for value in values]
    return lines or {"prior": [float(rows["label prior"].mean())] * len(values)}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _saved(figure: Any, path: Path) -> list[Path]:
    files = [path.with_suffix(suffix) for suffix in (".svg", ".png")]
    for file in files:
        figure.savefig(file, dpi=150)
    return files
