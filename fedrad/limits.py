"""How a setting is declared, and the limits on its value, in the words of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import field
from typing import Any

LIMITS: dict[str, Callable[[Any], bool]] = {
    "above 0": lambda v: v > 0,
    "at least 0": lambda v: v >= 0,
    "at least 1": lambda v: v >= 1,
    "from 1 to 1024": lambda v: 1 <= v <= 1024,
    "from 0 to 2^63 - 1": lambda v: 0 <= v < 2**63,
    "from 0 to 1e9": lambda v: 0 <= v <= 1e9,
    "from 1e-9 to 1e9": lambda v: 1e-9 <= v <= 1e9,  # beyond, single precision overflows or rounds to 0
    "at least 8": lambda v: v >= 8,
    "at least 1e-9 and below 1": lambda v: 1e-9 <= v < 1,  # the accountant's range
    "above 0 and below 1": lambda v: 0 < v < 1,
    "at least 0 and below 1": lambda v: 0 <= v < 1,
    "above 0, at most 1": lambda v: 0 < v <= 1,
    "from 0 to 1": lambda v: 0 <= v <= 1,
    "from 0 to 64": lambda v: 0 <= v <= 64,
    "each above 0": lambda v: all(number > 0 for number in v),
    "each at least 1e-9 and below 1": lambda v: all(1e-9 <= number < 1 for number in v),
    "not empty": lambda v: v != "",
    "word=meaning, commas between, no word twice": lambda v: _is_map(v),
}


def _is_map(text: str) -> bool:
    words = [pair.partition("=")[0].strip().lower() for pair in text.split(",")]
    pairs = re.fullmatch(r"([^=,]*[^=,\s][^=,]*=[^=,]*[^=,\s][^=,]*(,|$))*", text)
    return not text or (pairs is not None and not text.endswith(",") and len(set(words)) == len(words))


def setting(
    default: Any, doc: str, *, choices: Collection[str] | Callable[[], Collection[str]] = (), limit: str = ""
) -> Any:
    """A field: ``choices`` are the allowed words, or a function that returns them; ``limit`` is one of ``LIMITS``."""
    return field(default=default, metadata={"doc": doc, "choices": choices, "limit": limit})


def spelt(word: str, choices: Iterable[str]) -> str:
    """The choice that equals ``word`` if dashes and underscores count as equal; else ``word`` itself."""
    return next((choice for choice in choices if choice.replace("_", "-") == word.replace("_", "-")), word)
