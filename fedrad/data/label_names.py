"""Matches label names to known ones.

Names are compared without case and punctuation. Synonyms (``synonyms.toml``) are only suggested, never applied:
"effusion" may be pleural or pericardial, and only the user knows which.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

_SYNONYMS: Final = Path(__file__).with_name("synonyms.toml")
_SIMILAR = 0.8
"""Least difflib ratio. Accepts "atelectesis" for "Atelectasis", not "Pericardial effusion" for "Pleural Effusion"."""


def plain(name: str) -> str:
    """The name in lower case, with other characters than letters and digits as blanks."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in name.casefold()).split())


def positions(names: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """The position of each name in ``known``, or -1."""
    place = {plain(name): position for position, name in enumerate(known)}
    return tuple(place.get(plain(name), -1) for name in names)


def synonyms() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Collection of labels -> label -> its synonyms, in the form that ``plain`` gives."""
    with _SYNONYMS.open("rb") as file:
        return tomllib.load(file)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is a synonym of the name or spelt most like it, or None."""
    by_plain = {plain(candidate): candidate for candidate in known}
    for words_of in synonyms().values():
        for label, words in words_of.items():
            if label in known and plain(name) in words:
                return label
    close = get_close_matches(plain(name), list(by_plain), n=1, cutoff=_SIMILAR)
    return by_plain[close[0]] if close else None
