"""A phrase bank: what reports of one kind can say, and the labels that each phrase asserts. Read by ``read_bank``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedrad.data.synthetic.grammar import Taste

IN_IMPRESSION: Final = "impression"
"""The place of a part of the anatomy whose sentences stand at the end of the impression."""


@dataclass(frozen=True)
class Hedge:
    """A label that a phrase suspects without asserting it: where the sentence has one of ``words``, or, if there are
    none, however the template's choices fall."""

    label: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A sentence template and the labels it asserts; ``labels`` is empty for a finding outside the bank's labels.

    ``denies``: what it denies in the same breath ("cardiomegaly without edema"). ``hedges``: what it suspects.
    """

    labels: frozenset[str]
    template: str
    denies: frozenset[str] = frozenset()
    hedges: tuple[Hedge, ...] = ()

    def hedged(self, sentence: str) -> frozenset[str]:
        """The labels that a sentence made of the template hedges."""
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
        resolved: the noun for "resolution of ...", empty if such a thing is never said of it.
        body, impression: alternatives for one sentence each.
    """

    place: str
    chronic: bool
    resolved: str
    body: tuple[Phrase, ...]
    impression: tuple[Phrase, ...]


@dataclass(frozen=True)
class Negative:
    """A noun that normal sentences negate. ``labels[0]`` is denied; a report that asserts any of them never says so."""

    noun: str
    weight: float
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A part of the anatomy and what is said of it where it is normal.

    Attributes:
        place: as a finding's, or ``IN_IMPRESSION``.
        chance: that it is mentioned at all.
        unless: findings with which it is not.
        sentences: the labels of each are those that it denies.
    """

    place: str
    chance: float
    unless: frozenset[str]
    sentences: tuple[Phrase, ...]


@dataclass(frozen=True)
class Group:
    """Findings that come together: their shares are multiplied by the patient's burden, which is lognormal with mean 1;
    ``spread`` is the standard deviation of its logarithm."""

    spread: float
    findings: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Patients:
    """Which findings a patient has: those of a scenario, or each by its share in a group. Weights are relative."""

    exclusive: tuple[frozenset[str], ...]
    groups: tuple[Group, ...] = ()
    scenarios: tuple[tuple[str, ...], ...] = ()
    weights: tuple[float, ...] = ()
    second: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    unlabelled_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Release:
    """What de-identification and haste do to words."""

    redacted: re.Pattern[str]
    usual: float
    rarely: Mapping[str, float]
    abbreviations: tuple[tuple[str, str], ...]
    misspellings: Mapping[str, tuple[str, ...]]  # empty: slips of the finger only


@dataclass(frozen=True)
class Style:
    """How a hospital writes. Rates are probabilities per report unless said otherwise."""

    taste: Taste
    release: Release
    mark: str  # what de-identification leaves: "XXXX" or "___"
    redaction: float  # per eligible word
    headers: tuple[str, str]  # before findings and impression; "" for none
    sections: Mapping[str, str]  # headers within the findings, by place
    wrap: int  # columns, 0 for one line
    upper: bool
    impression: float  # has one at all
    findings: float  # has a findings section (otherwise all is said in the impression)
    numbered: float
    telegraphic: float  # per sentence: articles and verbs dropped
    indication: float
    technique: float
    comment: float
    macro: float  # a normal report, or the normal part of one, comes from the hospital's templates
    typo: float
    order: tuple[str, ...]  # of anatomy
    bullet: str  # before each sentence; "1." to number those of the findings; "" for prose


@dataclass(frozen=True)
class Bank:
    """All that reports of one kind can say.

    Attributes:
        labels: the corpus's labels in the order of its label files.
        normal_label: what a report is that mentions nothing abnormal; empty if no label says so.
        lexicon: the words that templates refer to.
        changes: what ``<chg>`` may become, for each change of a finding since the last report.
        places: what ``<zone>``, ``<base>`` and ``<basilar>`` may become.
        sentences: templates of normal sentences, and of those that are no finding, by group.
        anatomy: what is said where nothing is wrong; if it is empty, ``normal.py`` composes that from ``sentences``.
        indication, examination: what stands before the indication, and a title that a report may have.
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
