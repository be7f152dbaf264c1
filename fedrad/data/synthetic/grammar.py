"""A small template language: ``[a|b|]`` is a choice, ``<name>`` a word from the lexicon or bound by the caller."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")
_NAME = re.compile(r"<([A-Za-z_]+)>")
_MOST_EXPANSIONS = 200  # a template that refers to itself would otherwise never end


@dataclass(frozen=True)
class Taste:
    """A hospital's habits: the odds of each option. They follow from ``salt``; with ``strength`` 0 they are equal."""

    salt: str
    strength: float

    def choose(self, options: Sequence[str], rng: random.Random) -> str:
        """One of the options. Their odds (exponential weights) are fixed for each hospital and set of options."""
        if self.strength == 0 or len(options) == 1:
            return options[rng.randrange(len(options))]
        return rng.choices(options, _odds(self.salt, self.strength, tuple(options)))[0]


@functools.lru_cache(maxsize=20_000)
def _odds(salt: str, strength: float, options: tuple[str, ...]) -> tuple[float, ...]:
    habit = random.Random(f"{salt}|{'|'.join(options)}")
    return tuple(1 - strength + strength * habit.expovariate(1.0) for _ in options)


def expand(template: str, words: Mapping[str, str], taste: Taste, rng: random.Random) -> str:
    """Resolves every choice and name of a template, then tidies spaces, articles and punctuation.

    ``<Side>`` is ``<side>`` with a capital. Raises KeyError for an unknown name.
    """
    for _ in range(_MOST_EXPANSIONS):
        if choice := _INNERMOST.search(template):
            chosen = taste.choose(choice.group(1).split("|"), rng)
            template = template[: choice.start()] + chosen + template[choice.end() :]
        elif name := _NAME.search(template):
            word = words[name.group(1).lower()]
            if name.group(1)[0].isupper() and not word.startswith(("[", "<")):
                word = word[:1].upper() + word[1:]
            template = template[: name.start()] + word + template[name.end() :]
        else:
            return tidy(template)
    raise ValueError("a template of the phrase bank does not end")


def names(template: str, lexicon: Mapping[str, str]) -> set[str]:
    """The names that a template uses, directly or through the lexicon, and that the lexicon lacks.

    No entry of the lexicon may refer to itself (`endless`).
    """
    found = set[str]()
    for name in {match.lower() for match in _NAME.findall(template)}:
        found |= names(lexicon[name], lexicon) if name in lexicon else {name}
    return found


def endless(lexicon: Mapping[str, str]) -> list[str]:
    """The entries that refer to themselves, directly or through others."""

    def reaches(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            new = {match.lower() for match in _NAME.findall(lexicon.get(waiting.pop(), ""))} - found
            found |= new
            waiting += new
        return found

    return [name for name in lexicon if name in reaches(name)]


def faults(template: str) -> list[str]:
    """Errors in the notation of a template."""
    rest = _NAME.sub("", template)
    while _INNERMOST.search(rest):
        rest = _INNERMOST.sub("", rest)
    found = [f"unbalanced {mark}" for mark in "[]" if mark in rest]
    if "<" in rest or ">" in rest or "<" in _NAME.sub("", template):
        found.append("a < or > that is no <name>")
    if "|" in rest and not found:
        found.append("a | outside of [ ]")
    return found


def tidy(text: str) -> str:
    """Single spaces, no space before punctuation, "an" before a vowel, capitals after full stops, one final stop."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([.,;:])", r"\1", text)
    text = re.sub(r"([.,])[.,]+", r"\1", text)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    text = re.sub(r"(^|[.:?] )([a-z])", lambda match: match.group(1) + match.group(2).upper(), text)
    return text if text.endswith((".", "?")) else text + "."
