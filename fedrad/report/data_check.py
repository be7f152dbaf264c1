"""A check of the data for people. None of it shows a text, or a value of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from fedrad.data.survey import Problem, Survey

if TYPE_CHECKING:  # it brings torch
    from fedrad.planning.outlook import Outlook

PRIVATE = (
    "PRIVATE: these counts are computed from the reports, without noise. Nothing was sent; don't publish or send them."
)
_LEARNABLE = {
    "fine": "learnable: noise stays well below the signal",
    "borderline": "learnable, but noise will cost a good part of the score",
    "noise-dominated": "NOT learnable like this: the result would be mostly noise",
}


def problem_lines(problems: list[Problem]) -> list[str]:
    """A line for each: where, what, and what to do."""
    lines = []
    for problem in problems:
        where = f"{problem.file}: " if problem.file else ""
        if problem.rows:
            more = ", ..." if problem.count > len(problem.rows) else ""
            rows = f"row{'s' if problem.count > 1 else ''} {', '.join(map(str, problem.rows))}{more}"
            where += f"{rows} ({problem.count:,} in all): " if more else f"{rows}: "
        lines.append(f"{where}{problem.says}{f' {problem.remedy}' if problem.remedy else ''}")
    return lines


def survey_lines(survey: Survey, max_length: int, limit: str) -> list[str]:
    """Reports, patients, texts and lengths; texts are cut at ``max_length``, which ``limit`` says in words."""
    if not survey.reports:
        return []
    each, lengths = survey.per_patient, survey.lengths
    rows = "" if survey.rows is None else f" of {survey.rows:,} rows"
    lines = [
        f"reports: {survey.reports:,} that can be used{rows}",
        f"patients: {survey.patients:,}; reports of each: median {np.median(each):.3g}, most {each[-1]:,};"
        f" {(each > 1).sum():,} have several",
        f"same text: {survey.copies:,} reports are copies within a patient, {survey.shared:,} are shared by patients",
        f"removed spans (___ or XXXX): in {survey.holes:,} reports",
    ]
    if len(lengths):
        cut = lengths > max_length
        lines.append(
            f"tokens: median {np.median(lengths):.0f}, 90% up to {np.percentile(lengths, 90):.0f}, longest"
            f" {lengths.max():,}; {cut.mean():.1%} of the reports ({cut.sum():,}) are cut off at {max_length}"
            f" ({limit})"
        )
    return lines


def survey_table(survey: Survey, known: dict[str, str], offered: dict[str, str]) -> Table:
    """A line for each label."""
    table = Table(box=None, header_style="bold")
    table.add_column("class" if survey.single else "label", max_width=40, overflow="ellipsis")
    for name in ("reports" if survey.single else "positive", "share", "uncertain", "missing"):
        table.add_column(name, justify="right")
    table.add_column("the public base")
    for label in survey.labels:
        doubt = ("–" if count is None else f"{count:,}" for count in (label.uncertain, label.missing))
        share = f"{label.positive / max(1, survey.reports):.1%}"
        knows = "–"
        if label.name in known:
            knows = "knows it" if known[label.name] else "does not know it"
        if label.name in offered:
            knows += f'; rename it if "{offered[label.name]}" is meant'
        table.add_row(Text(label.name), f"{label.positive:,}", share, *doubt, Text(knows))
    return table


def outlook_line(outlook: Outlook, warm: bool) -> str:
    """What ``fedrad plan`` says of this size; ``warm``: the run starts from what a public base knows."""
    plan = outlook.plan
    where = "in one place" if outlook.hospitals == 1 else f"in each of {outlook.hospitals} hospitals"
    size = f"plan: {plan.declared_size:,} declared {plan.unit}s {where}"
    if not plan.private:
        return f"{size}, NOT PRIVATE (privacy.epsilon = 0)"
    # From a public base, noise does not drown what the start knows, so the ratio alone would mislead.
    verdict = f"noise / signal {outlook.present.rho:.3g}: {_LEARNABLE[outlook.verdict]}"
    if warm:
        verdict = "starts from what the public base knows; the notes say what private training is expected to add"
    return f"{size} at epsilon {plan.epsilon:g}: {verdict}"
