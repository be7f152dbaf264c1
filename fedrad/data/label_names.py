"""Label names that mean the same, and the known one that an unknown one may mean.

Names are compared without case and punctuation. Synonyms (``synonyms.toml``) are never applied, only offered:
"effusion" may be pleural or pericardial, and whoever made the column knows which.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

_SYNONYMS: Final = Path(__file__).with_name("synonyms.toml")
_SIMILAR = 0.8
"""Of difflib's ratio: finds "atelectesis" and "Consolidations", not "Pericardial effusion" for "Pleural Effusion"."""


def plain(name: str) -> str:
    """The name in lower case, with everything but letters and digits as single blanks: ``Pleural_Effusion`` and
    ``pleural effusion`` are the same."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in name.casefold()).split())


def positions(names: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """For each name the position of the same one in ``known``, or -1."""
    place = {plain(name): position for position, name in enumerate(known)}
    return tuple(place.get(plain(name), -1) for name in names)


def synonyms() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Collection of labels -> label -> words that radiologists use for it, as ``plain`` writes them."""
    with _SYNONYMS.open("rb") as file:
        return tomllib.load(file)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that an unknown one may mean, by synonym or spelling; None if there is none."""
    by_plain = {plain(candidate): candidate for candidate in known}
    for words_of in synonyms().values():
        for label, words in words_of.items():
            if label in known and plain(name) in words:
                return label
    close = get_close_matches(plain(name), list(by_plain), n=1, cutoff=_SIMILAR)
    return by_plain[close[0]] if close else None
