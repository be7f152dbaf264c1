"""Decides whether a cell or a section of a report is missing. Every reader and ``fedrad predict`` use this.

A cell is missing if it is blank or holds only *placeholders*: what a program or person wrote where there was no value.
Case, white space and surrounding punctuation do not count:

| from | placeholders |
|---|---|
| programs | ``nan`` ``None`` ``null`` ``nil`` ``NA`` ``N/A`` ``<NA>`` ``NaT`` ``\\N`` ``#N/A`` ``#REF!`` ``1.#QNAN`` |
| people | ``Not given.`` ``not available`` ``not applicable`` ``none provided`` ``no report`` ``undefined`` |
| de-identification | ``XXXX`` (three X or more), ``___`` |
| signs alone | ``.`` ``-`` ``--`` ``?`` ``...`` |

Only whole cells and sections are compared: "None seen.", "Normal." and "Pneumothorax: none." are reports. The exception
is CT-RATE's ``Not given.``: it is also dropped as the first or last sentence, where joining two columns has left it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedrad.errors import DataError

PLACEHOLDER = "with a placeholder, such as 'nan' or 'Not given.', in place of text"
"""How readers describe such reports in a warning."""

# White space and punctuation without signs that may be a value: a class may be called "+" or "±".
_MARKS = (
    r"\s!-*,-/:-@\[-`{-~\u00a0-\u00a9\u00ab-\u00b0\u00b4-\u00b8\u00bb\u00bf"
    r"\u200b-\u206f\u2012-\u2027\u3000-\u303f\ufe30-\ufe6f\uff01-\uff0a\uff0c-\uff0f\ufeff"
)
_PARTICIPLES = "(?:given|available|applicable|provided|specified|recorded|reported|stated|documented|entered)"
_NOTHING = re.compile(
    rf"""[{_MARKS}]*(?:(?:
        nan | nat | none | null | nil | n[{_MARKS}]{{0,3}}a | undefined | x{{3,}}
      | 1\.\#(?:ind|qnan) | \#(?:value|ref|name|num|div/0)
      | \\n | (?:(?:report|text|data|value)[ ])?not[ _-]{_PARTICIPLES} | none[ ]{_PARTICIPLES}
      | no[ ](?:report|text|data)(?:[ ]{_PARTICIPLES})?
    )(?:[{_MARKS}]+|$))*""",
    re.VERBOSE | re.IGNORECASE,
)
_ENDS = re.compile(r"^(?:Not given\.\s+)+|(?<=[.!?])(?:\s+Not given\.)+$")


def one_line(text: str) -> str:
    """The text with every run of white space replaced by one blank."""
    return " ".join(text.split())


def said(text: str) -> str:
    """A cell or section as one line; "" if it is missing."""
    line = one_line(text)
    if _NOTHING.fullmatch(line):
        return ""
    return _ENDS.sub("", line) if "Not given." in line else line


def joined(sections: Iterable[str]) -> tuple[str, bool]:
    """A report of several sections: (their text as one line, whether one of them is a placeholder)."""
    found = [(section, said(section)) for section in sections]
    return " ".join(text for _, text in found if text), any(not text and cell.strip() for cell, text in found)


def labels_in(
    names: Sequence[str], cells: Sequence[str], meaning: Mapping[str, int], remedy: str, path: Path, row: int
) -> dict[str, int]:
    """The labels in the cells of a row.

    Args:
        meaning: cell -> label.
    Raises:
        DataError: a cell has no meaning.
    """
    for name, cell in zip(names, cells, strict=True):
        if cell not in meaning:
            raise DataError(f"the value of label {name!r} is unknown.", file=path, row=row, remedy=remedy)
    return {name: meaning[cell] for name, cell in zip(names, cells, strict=True)}
