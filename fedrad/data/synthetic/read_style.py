"""The house styles of a phrase bank, from its ``style.toml``, which explains them."""

from __future__ import annotations

import re
from dataclasses import fields

from fedrad.data.synthetic.bank import Release, Style
from fedrad.data.synthetic.grammar import Taste
from fedrad.data.synthetic.toml_table import Table


def read_styles(table: Table, misspellings: Table, places: set[str]) -> tuple[Style, ...]:
    """The styles of ``style.toml``; each must look at all ``places`` where findings and normal sentences stand."""
    redaction = table.table("redaction")
    release = Release(
        redacted=re.compile(r"\b(" + "|".join(re.escape(word) for word in redaction.words("words")) + r")\b"),
        usual=redaction.take("usual", float),
        rarely=redaction.table("others").numbers(),
        abbreviations=tuple(table.table("abbreviations").strings().items()),
        misspellings={word: misspellings.words(word) for word in misspellings.keys()},
    )
    redaction.done()
    styles = []
    for entry in table.tables("style"):
        headers = entry.words("headers")
        if len(headers) != 2:
            entry.wrong("headers", "must be two: before the findings and before the impression")
        style = Style(
            taste=Taste("", 0.0),
            release=release,
            mark=entry.take("mark", str),
            headers=(headers[0], headers[-1]) if headers else ("", ""),
            wrap=entry.take("wrap", int),
            upper=entry.take("upper", bool),
            order=entry.words("order"),
            **{field.name: entry.take(field.name, float) for field in fields(Style) if field.type == "float"},
        )
        for place in sorted(places - set(style.order)):
            entry.wrong("order", f"lacks the place {place!r}, so that its findings would be lost")
        entry.done()
        styles.append(style)
    if not styles:
        table.wrong("style", "must have at least one style")
    table.done()
    return tuple(styles)
