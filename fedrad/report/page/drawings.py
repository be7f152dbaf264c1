"""The pictures of a report, each with its numbers as a table beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedrad.report.page.files import RunFiles, shown
from fedrad.report.page.pictures import INK, MARKS, SERIES, STYLES, Picture, as_svg, drawing
from fedrad.report.page.series import Mean, budgets, epsilon_by_round, lines_of
from fedrad.training.result import rounded_up

_MOST_LINES, _MOST_LABELS, _MOST_HOSPITALS = 6, 30, 6


def utility_curve(runs: Sequence[RunFiles]) -> Picture | None:
    """The main score against epsilon; None where all runs have one epsilon, or nothing was evaluated."""
    lines = dict(list(lines_of(runs).items())[:_MOST_LINES])
    if len({point.epsilon for points in lines.values() for point in points}) < 2:
        return None
    score = shown(next(next(iter(run.figures)) for run in runs if run.figures))
    title = f"{score} against the budget epsilon: mean and 95% interval over runs that differ by their seeds only"
    with drawing(3.8) as (figure, plot):
        for (name, points), colour, mark, style in zip(lines.items(), SERIES, MARKS, STYLES, strict=False):
            private = [point for point in points if point.epsilon > 0]
            if private:
                plot.errorbar(
                    [point.epsilon for point in private],
                    [point.mean for point in private],
                    yerr=[[_half(point) for point in private]] * 2,
                    color=colour,
                    marker=mark,
                    linestyle=style,
                    capsize=4,
                    label=name if len(lines) > 1 else "with privacy",
                )
            for point in points:
                if point.epsilon == 0:
                    label = "without privacy" if len(lines) == 1 else f"{name}, without privacy"
                    plot.axhline(point.mean, color=colour, linestyle=":", linewidth=1.5, label=label)
        plot.set_xscale("log")
        ticks = sorted({point.epsilon for points in lines.values() for point in points if point.epsilon > 0})
        plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        plot.minorticks_off()
        plot.set_xlabel("epsilon (smaller: more privacy)")
        plot.set_ylabel(score)
        plot.legend()
        svg = as_svg(figure, "utility", title)
    rows = [
        (name, f"{p.epsilon:g}" if p.epsilon else "none", str(p.runs), f"{p.mean:.4f}", _interval(p))
        for name, points in lines.items()
        for p in points
    ]
    return Picture("utility", title, svg, ("condition", "epsilon", "runs", "mean", "95% interval"), tuple(rows))


def label_bars(run: RunFiles, number: int) -> Picture | None:
    """F1 of each label: the label prior, before, after. The labels with most positives if there are too many."""
    after, before, prior = (
        run.result["per_label"],
        _labels(run.result.get("before")),
        _labels(run.result.get("label_prior")),
    )
    positives = run.result.get("positives", {})
    names = sorted(after, key=lambda name: -positives.get(name, 0))[:_MOST_LABELS]
    if not names:
        return None
    kinds = {"label prior": prior, "before": before, "after": after}
    kinds = {kind: values for kind, values in kinds.items() if values}
    title = f"F1 of each label in {run.name}: {', '.join(kinds)}"
    with drawing(1.3 + 0.46 * len(names)) as (figure, plot):
        height = 0.8 / len(kinds)
        for place, ((kind, values), colour) in enumerate(
            zip(kinds.items(), (SERIES[5], SERIES[1], SERIES[0]), strict=False)
        ):
            plot.barh(
                [row + (place - (len(kinds) - 1) / 2) * height for row in range(len(names))],
                [values.get(name, 0.0) for name in names],
                height,
                color=colour,
                label=kind,
            )
        plot.set_yticks(range(len(names)), names)
        plot.set_ylim(len(names) - 0.4, -0.6)
        plot.set_xlim(0, 1)
        plot.set_xlabel("F1")
        plot.grid(visible=False, axis="y")
        figure.legend(loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=1.2)
        svg = as_svg(figure, f"labels-{number}", title)
    rows = tuple(
        (name, str(positives.get(name, "")), *(f"{values.get(name, math.nan):.3f}" for values in kinds.values()))
        for name in names
    )
    return Picture(f"labels-{number}", title, svg, ("label", "positives", *kinds), rows)


def epsilon_curve(run: RunFiles, number: int) -> Picture | None:
    """Epsilon of each hospital over the rounds, against its budget; the extremes where they are many."""
    spent = epsilon_by_round(run)
    if not spent or len(run.metrics) < 2:
        return None
    lines = _alike(spent)
    if len(lines) > _MOST_HOSPITALS:
        rounds = sorted({round for points in spent.values() for round, _ in points})
        at = {round: [value for points in spent.values() for r, value in points if r == round] for round in rounds}
        lines = {
            f"largest of {len(spent)}": [(round, max(values)) for round, values in at.items()],
            f"smallest of {len(spent)}": [(round, min(values)) for round, values in at.items()],
        }
    caps = budgets(run)
    from matplotlib.ticker import MaxNLocator

    title = f"epsilon that each hospital has spent by the end of each round in {run.name}, and its budget"
    with drawing(3.4) as (figure, plot):
        for place, (site, points) in enumerate(lines.items()):
            plot.plot(
                [round for round, _ in points],
                [value for _, value in points],
                color=SERIES[place],
                marker=MARKS[place],
                linestyle=STYLES[place],
                label=site,
            )
        for place, cap in enumerate(caps):
            plot.axhline(cap, color=INK, linestyle=(0, (6, 3)), linewidth=1, label="budget" if place == 0 else None)
        plot.set_ylim(bottom=0)
        plot.xaxis.set_major_locator(MaxNLocator(integer=True))
        plot.set_xlabel("round")
        plot.set_ylabel("epsilon spent")
        plot.legend(loc="lower right")
        svg = as_svg(figure, f"epsilon-{number}", title)
    rounds = sorted({round for points in lines.values() for round, _ in points})
    every = spent if len(spent) <= _MOST_LABELS else lines
    known = {site: dict(points) for site, points in every.items()}
    rows = tuple(
        (site, *(rounded_up(values[round], 4) if round in values else "" for round in rounds))
        for site, values in known.items()
    )
    return Picture(f"epsilon-{number}", title, svg, ("hospital", *(f"round {round}" for round in rounds)), rows)


def _alike(spent: Mapping[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    """Hospitals that spend the same, to the eye, as one line: those with one plan do, and would hide each other."""
    groups: dict[tuple[tuple[int, str], ...], list[str]] = {}
    for site, points in spent.items():
        groups.setdefault(tuple((round, f"{value:.2g}") for round, value in points), []).append(site)
    return {
        sites[0] if len(sites) == 1 else f"{sites[0]} and {len(sites) - 1} more": spent[sites[0]]
        for sites in groups.values()
    }


def _labels(scores: Mapping[str, object] | None) -> Mapping[str, float]:
    found = (scores or {}).get("per_label", {})
    return found if isinstance(found, Mapping) else {}


def _half(point: Mean) -> float:
    return 0.0 if math.isnan(point.high) else point.high - point.mean


def _interval(point: Mean) -> str:
    return "one run" if math.isnan(point.low) else f"{point.low:.4f} to {point.high:.4f}"
