"""An evaluation for people: a table for the terminal, and a page of HTML that stands alone."""

from __future__ import annotations

import io
import re
from dataclasses import asdict
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

import fedrad
from fedrad.errors import ConfigError
from fedrad.evidence.scores import OVERALL, Figure, LabelScores

if TYPE_CHECKING:  # it brings torch
    from fedrad.evaluate import Evaluated

_FIGURES = (("F1", "f1"), ("precision", "precision"), ("recall", "recall"), ("AUROC", "auroc"),
            ("average precision", "average_precision"), ("ECE", "ece"))  # fmt: skip
_INK = "#123456"  # what is drawn in it takes the colour of the page's text


def evaluation_tables(found: Evaluated) -> tuple[Table, Table]:
    """Overall, and a line for each label."""
    overall = Table(box=None, header_style="bold", show_header=False)
    for line in _overall(found):
        overall.add_row(*line)
    table = Table(box=None, header_style="bold")
    table.add_column("label", max_width=36, overflow="ellipsis")
    for name in ("positive", "threshold", "tp", "fp", "fn", "tn", *(title for title, _ in _FIGURES)):
        table.add_column(name, justify="right")
    for label in found.scores.labels:
        counts = (label.support, _threshold(label), label.tp, label.fp, label.fn, label.tn)
        figures = (_shown(getattr(label, key), 2) for _, key in _FIGURES)
        table.add_row(Text(label.name), *map(str, counts), *figures)
    return overall, table


def evaluation_json(found: Evaluated) -> dict[str, Any]:
    """What ``--json`` writes. It holds no report and no patient."""
    facts = {key: getattr(found, key) for key in ("run", "source", "which", "task", "privacy")}
    classes = {} if found.classes is None else {"classes": asdict(found.classes)}
    return {"fedrad": fedrad.__version__, **facts, "notes": list(found.notes), **found.scores.as_dict(), **classes}


def evaluation_html(found: Evaluated) -> str:
    """A page without external resources, for wide and narrow screens, light and dark, and screen readers.

    Raises:
        ConfigError: the extra ``report`` is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise ConfigError("--html: needs jinja2 and matplotlib: pip install 'fedrad[report]'") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("fedrad.report").joinpath("evaluation.html.j2").read_text("utf-8"))
    labels = found.scores.labels
    drawn = [(label, _reliability(Canvas(figsize=(2.6, 2.6)), label, k)) for k, label in enumerate(labels)]
    return template.render(
        found=found,
        scores=found.scores,
        overall=_overall(found),
        columns=[title for title, _ in _FIGURES],
        rows=[(label, _threshold(label), [_shown(getattr(label, key), 3) for _, key in _FIGURES]) for label in labels],
        f1_plot=_f1_plot(Canvas(figsize=(6.4, 1 + 0.32 * len(labels))), labels),
        curves=[(label, svg) for label, svg in drawn if svg],
        version=fedrad.__version__,
    )


def _overall(found: Evaluated) -> list[tuple[str, str]]:
    lines = [(name.replace("_f1", " F1"), _shown(getattr(found.scores, name), 4)) for name in OVERALL]
    if found.classes is None:
        return lines
    of = found.classes
    lines += [("exact match", _plain(of.exact_match)), ("top 3", _plain(of.top_3))]
    lines += [("similarity", _plain(of.similarity)), ("similarity of wrong answers", _plain(of.similarity_of_wrong))]
    if of.abstain_below:
        lines.append((f"answered at {of.abstain_below:g} or more", _plain(of.answered)))
        lines.append(("exact match of these", _plain(of.exact_match_of_answered)))
    if of.generated_exact_match is not None:
        lines.append(("exact match, written freely", _plain(of.generated_exact_match)))
        lines.append(("similarity, written freely", _plain(of.generated_similarity)))
    return lines


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _threshold(label: LabelScores) -> str:
    return "most probable" if label.threshold is None else f"{label.threshold:.3g}"


def _shown(figure: Figure, digits: int) -> str:
    if figure.value is None:
        return "–"
    value = f"{figure.value:.{digits}f}"
    return value if figure.low is None else f"{value} ({figure.low:.{digits}f}–{figure.high:.{digits}f})"


def _f1_plot(canvas: Any, labels: tuple[LabelScores, ...]) -> str:
    axes = canvas.subplots()
    for place, label in enumerate(labels):
        f1 = label.f1
        if f1.low is not None and f1.high is not None:
            axes.plot([f1.low, f1.high], [place, place], color=_INK, linewidth=1.2)
        if f1.value is not None:
            axes.plot(f1.value, place, "o", color="#2f7fc1", markersize=6)
    axes.set_yticks(range(len(labels)), [label.name for label in labels])
    axes.set_xlim(0, 1.02)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("F1, with its 95% interval")
    return _svg(canvas, "F1 of each label with its 95% interval; the figures are in the table", "f1")


def _reliability(canvas: Any, label: LabelScores, k: int) -> str:
    if not label.reliability:
        return ""
    axes = canvas.subplots()
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    predicted = [b.mean_probability for b in label.reliability]
    axes.plot(predicted, [b.share_positive for b in label.reliability], "o-", color="#2f7fc1", markersize=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability")
    axes.set_ylabel("share positive")
    return _svg(canvas, f"Reliability curve of {label.name}", f"curve{k}")


def _svg(canvas: Any, title: str, name: str) -> str:
    """The figure as an inline SVG with a title for screen readers, text as text, in the colour of the page."""
    from matplotlib import rc_context

    for axes in canvas.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=_INK)
        for part in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
            part.set_color(_INK)
        for side, spine in axes.spines.items():
            spine.set_color(_INK)
            spine.set_visible(side in ("left", "bottom"))
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        canvas.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' id="|#(?=[A-Za-z])', lambda match: f"{match[0]}{name}-", drawn)  # no name twice on the page
    head = f'<svg role="img" aria-labelledby="{name}-title"'
    return drawn.replace("<svg", head, 1).replace(">", f'><title id="{name}-title">{escape(title)}</title>', 1)
