"""A report before layout: sentences, and what each commits the report to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """What one sentence commits the report to.

    ``asserts``: labels stated as present. ``denies``: labels stated as absent. ``hedges``: labels that are suspected.
    ``abnormal``: mentions something that a normal report would not, labelled or not. ``place``: the part of the anatomy
    that it is about, in the findings.
    """

    text: str
    asserts: frozenset[str] = frozenset()
    denies: frozenset[str] = frozenset()
    hedges: frozenset[str] = frozenset()
    abnormal: bool = False
    place: str = ""


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
        """The labels: every asserted one, or the bank's label for a report that mentions nothing abnormal at all."""
        asserted = frozenset[str]().union(*(sentence.asserts for sentence in self.sentences))
        if any(sentence.abnormal for sentence in self.sentences):
            return asserted
        return frozenset({self.normal_label} - {""})

    @property
    def hedged(self) -> frozenset[str]:
        """The labels that are suspected and nowhere asserted; as in CheXpert, a denial elsewhere settles nothing."""
        return frozenset[str]().union(*(sentence.hedges for sentence in self.sentences)) - self.positives
