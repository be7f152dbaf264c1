"""Finds columns in a header, and explains which are missing.

A file may lack a header, so error messages show names only if they can't be data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from fedrad.errors import DataError

SEPARATORS: Final = {";": "';'", "\t": "tabs", "|": "'|'"}
SEPARATE: Final = (
    "Say so with data.separator (fedrad predict: --separator; '|' can't be named), or save it with commas between the"
    " cells."
)
_LONGEST_NAME, _MOST_NAMES = 40, 12
# Some cell of a row of data matches this: white space, numbers, dates, identifiers, blanks.
_LIKE_DATA = re.compile(r"\s|^\W*\d|\d{3}|^$")


def check_columns(
    path: Path,
    header: Sequence[str],
    columns: Sequence[str],
    remedy: str = "The first line must hold the column names.",
) -> list[int]:
    """The places of columns in the header.

    Raises:
        DataError: some are missing, or one is there twice. It lists the header's names, unless they may be a report.
    """
    missing = [name for name in columns if name not in header]
    if missing:
        problem = f"the header lacks {', '.join(map(repr, missing))}"
        for separator, called in SEPARATORS.items():
            pieces = {piece.strip().lower() for piece in ",".join(header).split(separator)}
            if any(name.lower() in pieces for name in missing):
                raise DataError(f"{problem}: its cells seem to be separated by {called}.", file=path, remedy=SEPARATE)
        lower = {name.lower(): name for name in header}
        hints = {}
        for name in missing:
            for close in get_close_matches(name.lower(), sorted(lower), n=1, cutoff=0.7):
                hints[name] = lower[close]
        hint = "".join(f" Did you mean {there!r} for {name!r}?" for name, there in hints.items())
        there = "" if len(hints) == len(missing) else _what_is_there(header, columns)
        raise DataError(f"{problem}.{hint}{there}", file=path, remedy=remedy)
    doubled = [name for name in columns if header.count(name) > 1]
    if doubled:
        raise DataError(f"the header has {doubled[0]!r} twice.", file=path, remedy="Rename or remove one of them.")
    return [header.index(name) for name in columns]


def _what_is_there(header: Sequence[str], columns: Sequence[str]) -> str:
    """The names in a header, or only their number if they may be data.

    Names are short. Unless a wanted name is among them, they must also be single words, which a report is not.
    """
    if not header:
        return " Its first line is blank."
    known = any(name in columns for name in header)
    if all(len(name) <= _LONGEST_NAME and (known or not _LIKE_DATA.search(name)) for name in header):
        more = len(header) - _MOST_NAMES
        names = ", ".join(map(repr, header[:_MOST_NAMES]))
        return f" It has {names}{f' and {more} more' if more > 0 else ''}."
    return f" It has {len(header)} column{'s' if len(header) > 1 else ''}."
