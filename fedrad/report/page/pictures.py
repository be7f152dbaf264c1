"""SVG that stands in the page: text is text, colours are the page's own, so both follow light and dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedrad.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#010203", "#020304"
# Stand-ins, which `as_svg` replaces by the page's variables: matplotlib knows no CSS. The last one is grey.
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
MARKS = ("o", "s", "^", "D", "v", "P")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)"} | {name: f"var(--s{n})" for n, name in enumerate(SERIES)}
WIDTH = 4.7  # inches of 72 points, which are CSS pixels here: no wider than a phone


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: its id.
        title: what it shows, in a sentence: for screen readers, and the caption.
        svg: markup, safe to stand in HTML.
        columns, rows: the same numbers as a table.
    """

    name: str
    title: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@contextmanager
def drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    """An empty plot in the page's style.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure as NewFigure
    except ImportError:
        raise ConfigError("fedrad report: needs matplotlib and jinja2: pip install 'fedrad[report]'") from None
    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 10.5,
        "svg.fonttype": "none",
        "text.parse_math": False,  # a label may hold a dollar sign
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 10.0,
    }
    with matplotlib.rc_context(style):
        figure = NewFigure(figsize=(WIDTH, height), dpi=72, layout="constrained")
        yield figure, figure.add_subplot()


def as_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an ``svg`` element with a title; equal figures have equal text."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # Ids must be unique in the page, which holds several of these.
    text = re.sub(r'(?<= id=")', f"{name}-", text)
    text = re.sub(r'(?<="#|\(#)(?=[^")]+["\)])', f"{name}-", text)
    box = re.search(r'viewBox="([^"]+)"', text)
    if box is None:
        raise AssertionError("matplotlib writes a viewBox")
    head = (
        f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-title" xmlns="http://www.w3.org/2000/svg"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink"><title id="{name}-title">{html.escape(title)}</title>'
    )
    text = re.sub(r"^<svg[^>]*>", lambda _: head, text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text
