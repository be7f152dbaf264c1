"""A report before layout: sentences, what each commits the report to, and the voice that makes them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrad.data.synthetic.bank import Bank, Style
from fedrad.data.synthetic.grammar import expand


@dataclass(frozen=True)
class Sentence:
    """One sentence.

    Attributes:
        asserts: labels that it states as present.
        denies: labels that it states as absent.
        hedges: labels that it only suspects.
        abnormal: it mentions something that a normal report would not, labelled or not.
        place: the part of the anatomy that it is about.
    """

    text: str
    asserts: frozenset[str] = frozenset()
    denies: frozenset[str] = frozenset()
    hedges: frozenset[str] = frozenset()
    abnormal: bool = False
    place: str = ""


def asserted_in(sentences: Iterable[Sentence]) -> frozenset[str]:
    """The labels that any of the sentences asserts."""
    return frozenset[str]().union(*(sentence.asserts for sentence in sentences))


@dataclass(frozen=True)
class Draft:
    """A report before layout."""

    opening: tuple[Sentence, ...]
    findings: tuple[Sentence, ...]
    impression: tuple[Sentence, ...]
    normal_label: str

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        return self.opening + self.findings + self.impression

    @property
    def positives(self) -> frozenset[str]:
        """The asserted labels; if no sentence is abnormal, the bank's label for a normal report."""
        if any(sentence.abnormal for sentence in self.sentences):
            return asserted_in(self.sentences)
        return frozenset({self.normal_label} - {""})

    @property
    def hedged(self) -> frozenset[str]:
        """The labels that some sentence suspects and none asserts. As in CheXpert, a denial does not cancel a hedge."""
        return frozenset[str]().union(*(sentence.hedges for sentence in self.sentences)) - self.positives


@dataclass(frozen=True)
class Voice:
    """Chooses and expands a bank's templates with a hospital's taste; ``rng`` supplies the chance."""

    bank: Bank
    style: Style
    rng: random.Random

    def pick(self, templates: Sequence[str]) -> str:
        return self.style.taste.choose(templates, self.rng)

    def expand(self, template: str, words: Mapping[str, str] | None = None) -> str:
        """Args:
        words: values of names, besides the lexicon.
        """
        mark = self.style.mark
        known = {**self.bank.lexicon, "deid": mark, "date": mark, "other": "left", **(words or {})}
        return expand(template, known, self.style.taste, self.rng)

    def say(self, *groups: str) -> Sentence:
        """A sentence that is no finding, from one of the groups of ``bank.sentences``."""
        return Sentence(self.expand(self.pick([text for group in groups for text in self.bank.sentences[group]])))

    def bind(self, side: str, change: str) -> dict[str, str]:
        """The words that stay the same wherever a report speaks of one problem: where it is, and how it has changed."""
        rng, places = self.rng, self.bank.places
        lobes = ("upper lobe", "lower lobe", "lower lobe")
        lobe = "right middle lobe" if side == "right" and rng.random() < 0.2 else f"{side} {rng.choice(lobes)}"
        if side == "left" and rng.random() < 0.1:
            lobe = "lingula"
        return {
            "side": side,
            "other": "left" if side == "right" else "right",
            "lobe": lobe,
            "zone": f"{side} {rng.choice(places['zone'])}",
            "base": f"{side} {rng.choice(places['base'])}",
            "basilar": rng.choice(places["basilar"]).replace("<side>", side),
            "chg": self.pick(self.bank.changes[change]),
            "date": self.style.mark
            if self.style.redaction > 0.15
            else f"{rng.randrange(1, 13)}/{rng.randrange(2009, 2020)}",
        }
