"""How a table is written, where it is not as fedrad would write it: separator, encoding, and words for 0 and 1.

The settings ``data.separator``, ``data.encoding``, ``data.map``, ``data.missing`` and ``data.uncertain`` for tables; a
hospital states them in its node configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fedrad.data.cells import one_line, said

_UNCERTAIN = -1
_VALUES: Final = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "false": 0, "true": 1, "-1": _UNCERTAIN, "-1.0": _UNCERTAIN}
"""What a cell of a label column means, in lower case."""
# Words that users have in label columns: only these are ever repeated in a message, since a cell may hold anything.
_PAIRS: Final = (
    ("yes", "no"),
    ("y", "n"),
    ("positive", "negative"),
    ("pos", "neg"),
    ("present", "absent"),
    ("ja", "nein"),
    ("j", "n"),
    ("oui", "non"),
    ("si", "no"),
    ("sí", "no"),
    ("sim", "não"),
    ("t", "f"),
)
MISSING_REMEDY: Final = (
    "Say how it counts: data.missing=negative, or ignore (left out of loss and score); or fill it in."
)


@dataclass(frozen=True)
class Form:
    """How a CSV file is written.

    Attributes:
        separator: "," or ";" or "tab"; "auto": the comma, or one of the others where the header has no comma.
        encoding: of a file without a byte order mark: "utf-8", "cp1252" or "latin-1".
    """

    separator: str = "auto"
    encoding: str = "utf-8"


USUAL: Final = Form()


class NoValue(ValueError):
    """What stands in a label cell says neither 0 nor 1; ``args`` are the problem, behind the label's name, and what to
    do. None of it is the cell."""


@dataclass(frozen=True)
class LabelCells:
    """How a cell of a label column is read.

    Attributes:
        words: what stands for what (``data.map``), words in lower case.
        uncertain: what -1 counts as: 0, 1, or -1 (masked).
        blank: likewise an empty cell; None: it is an error.
        missing: likewise a placeholder such as nan or n/a.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    uncertain: int = 0
    blank: int | None = 0
    missing: int | None = None

    def word(self, cell: str) -> str:
        """A cell as one line, translated; "" if it is missing."""
        line = one_line(cell)
        return said(self.words.get(line.lower(), line))

    def value(self, cell: str) -> int:
        """1, 0, or -1 for masked.

        Raises:
            NoValue: it says none of these, or is missing and may not be.
        """
        word = self.word(cell).lower()
        if not word:
            value, what = (self.missing, "is a placeholder.") if cell.strip() else (self.blank, "is blank.")
            if value is None:
                raise NoValue(what, MISSING_REMEDY)
            return value
        if word not in _VALUES:
            raise NoValue("is not 0 or 1.", _say_what(word))
        return self.uncertain if _VALUES[word] == _UNCERTAIN else _VALUES[word]

    def binary(self, words: set[str]) -> bool:
        """Whether a column of these ``word`` results is one label, and no column of class names."""
        return all(word.lower() in _VALUES for word in words if word)


def words_in(text: str) -> dict[str, str]:
    """``data.map`` as a mapping: ``"yes=1, no=0"``. Words are in lower case and with single blanks."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {one_line(word).lower(): one_line(meaning) for word, _, meaning in pairs}


def _say_what(word: str) -> str:
    for positive, negative in _PAIRS:
        if word in (positive, negative):
            return f"Say what it means: data.map={positive}=1,{negative}=0."
    allowed = ", ".join(value for value in _VALUES if not value.startswith("-"))
    return (
        f"Allowed are {allowed} (in any case), and -1 for uncertain; say what other words mean with data.map, e.g."
        " yes=1,no=0. Class names need a single column of their own."
    )
