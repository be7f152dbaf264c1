"""Tables that compare the scores of a run with those of the label prior and of the start."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedrad.tasks.metrics import Comparison, Scores
from fedrad.training.result import Result

_LABELS = 30
_WIDEST = 36


def score_table(result: Result) -> RenderableType:
    """The task's scores for the label prior, the start and the result."""
    if result.scores is None:
        return Text("scores: not evaluated; the server had no test set", style="bold")
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for name in result.scores.figures:
        table.add_column(name, justify="right")
    if result.comparison is not None:
        table.add_row("label prior (reads no text)", *_shown(result.comparison.prior))
        table.add_row("before training", *_shown(result.comparison.before))
    table.add_row(Text("after training", style="bold"), *_shown(result.scores))
    return table


def label_table(scores: Scores, comparison: Comparison) -> Table:
    """One line for each label; if there are too many, only those with most positives."""
    table = Table(
        title=f"F1 by label, on {comparison.reports:,} evaluated reports",
        box=None,
        header_style="bold",
        title_justify="left",
    )
    table.add_column("label", max_width=_WIDEST, no_wrap=True, overflow="ellipsis")
    for name in ("positives", "label prior", "before", "after"):
        table.add_column(name, justify="right")
    names = list(scores.per_label)
    shown = set(sorted(names, key=lambda name: -scores.positives.get(name, 0))[:_LABELS])
    for name in names:
        if name in shown:
            f1 = (each.per_label[name] for each in (comparison.prior, comparison.before, scores))
            table.add_row(Text(name), str(scores.positives.get(name, 0)), *(f"{value:.3f}" for value in f1))
    if len(names) > len(shown):
        table.add_row(f"... {len(names) - len(shown)} more in result.json")
    return table


def _shown(scores: Scores) -> list[str]:
    return [f"{value:.4f}" for value in scores.figures.values()]
