"""A phrase bank: what reports of one kind can say, and the labels that each phrase asserts. Read by ``read_bank``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from fedrad.data.synthetic.grammar import Taste

IN_IMPRESSION: Final = "impression"
"""The place of a part of the anatomy whose sentences end the impression."""


@dataclass(frozen=True)
class Hedge:
    """A label that a phrase suspects but does not assert.

    Attributes:
        words: the sentence suspects the label only if it has one of these; if there are none, it always does.
    """

    label: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A sentence template.

    Attributes:
        labels: those that it asserts; empty for a finding outside the bank's labels.
        denies: labels that it denies in the same breath ("cardiomegaly without edema").
    """

    labels: frozenset[str]
    template: str
    denies: frozenset[str] = frozenset()
    hedges: tuple[Hedge, ...] = ()

    def hedged(self, sentence: str) -> frozenset[str]:
        """The labels that a sentence made from the template suspects."""
        lowered = sentence.lower()
        return frozenset(
            hedge.label for hedge in self.hedges if not hedge.words or any(word in lowered for word in hedge.words)
        )


@dataclass(frozen=True)
class Finding:
    """One abnormality.

    Attributes:
        place: the part of the anatomy under which a report mentions it.
        chronic: it never goes away.
        resolved: the noun for "resolution of ..."; empty if no report says that of it.
        body, impression: alternatives for one sentence each.
    """

    place: str
    chronic: bool
    resolved: str
    body: tuple[Phrase, ...]
    impression: tuple[Phrase, ...]


@dataclass(frozen=True)
class Negative:
    """A noun that normal sentences negate. They deny ``labels[0]``; a report that asserts any of the labels never
    negates the noun."""

    noun: str
    weight: float
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A part of the anatomy, and what is said of it where it is normal.

    Attributes:
        place: as in `Finding`, or ``IN_IMPRESSION``.
        chance: that a report mentions it.
        unless: findings that rule it out.
        sentences: each denies its ``labels``.
    """

    place: str
    chance: float
    unless: frozenset[str]
    sentences: tuple[Phrase, ...]


@dataclass(frozen=True)
class Group:
    """Findings that come together. Each share is multiplied by the patient's burden, which is lognormal with mean 1;
    ``spread`` is the standard deviation of its logarithm."""

    spread: float
    findings: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Patients:
    """Which findings a patient has: each by its share in a group, or, without groups, those of a scenario. Weights are
    relative."""

    exclusive: tuple[frozenset[str], ...]
    groups: tuple[Group, ...] = ()
    scenarios: tuple[tuple[str, ...], ...] = ()
    weights: tuple[float, ...] = ()
    second: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    unlabelled_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Release:
    """What de-identification and haste do to words. Without ``misspellings``, typing errors are slips of the finger."""

    redacted: re.Pattern[str]
    usual: float
    rarely: Mapping[str, float]
    abbreviations: tuple[tuple[str, str], ...]
    misspellings: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Style:
    """How a hospital writes. Floats are probabilities, per report unless said otherwise."""

    taste: Taste
    release: Release
    mark: str  # what de-identification leaves: "XXXX" or "___"
    redaction: float  # per eligible word
    headers: tuple[str, str]  # before findings and impression; "" for none
    sections: Mapping[str, str]  # headers within the findings, by place
    wrap: int  # columns, 0 for one line
    upper: bool
    impression: float  # has one
    findings: float  # has a section for findings (otherwise the impression says all)
    numbered: float
    telegraphic: float  # per sentence: articles and verbs dropped
    indication: float
    technique: float
    comment: float
    macro: float  # the normal sentences come from the hospital's templates
    typo: float
    order: tuple[str, ...]  # of anatomy
    bullet: str  # before each sentence; "1." to number those of the findings; "" for prose


RATES: Final = tuple(field.name for field in fields(Style) if field.type == "float")
"""The probabilities of a style."""


@dataclass(frozen=True)
class Bank:
    """All that reports of one kind can say.

    Attributes:
        labels: the corpus's labels in the order of its label files.
        normal_label: the label of a report that mentions nothing abnormal; empty if there is none.
        lexicon: the words that templates refer to.
        changes: what ``<chg>`` may become, for each change of a finding since the last report.
        places: what ``<zone>``, ``<base>`` and ``<basilar>`` may become.
        sentences: templates of sentences that are no finding, by group.
        anatomy: what is said where nothing is wrong; if empty, ``normal.py`` composes that from ``sentences``.
        indication, examination: what precedes the indication, and a title that a report may have.
    """

    labels: tuple[str, ...]
    normal_label: str
    lexicon: Mapping[str, str]
    changes: Mapping[str, tuple[str, ...]]
    places: Mapping[str, tuple[str, ...]]
    findings: Mapping[str, Finding]
    sentences: Mapping[str, tuple[str, ...]]
    anatomy: tuple[Part, ...]
    negatives: tuple[Negative, ...]
    indication: str
    examination: str
    patients: Patients
    styles: tuple[Style, ...]
