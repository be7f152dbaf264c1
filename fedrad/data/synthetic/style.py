"""House styles: how a hospital lays a report out, what it calls things, and what its de-identification removes.

Six archetypes, modelled on the public collections and on common templates; site i has archetype i modulo 6, with rates
and phrase preferences of its own. So hospitals differ in layout, length, wording and normal templates, not in medicine.
"""

from __future__ import annotations

import random
import re
import textwrap
from dataclasses import dataclass, replace

from fedrad.data.synthetic.grammar import Taste


@dataclass(frozen=True)
class Style:
    """Rates are probabilities per report unless said otherwise."""

    taste: Taste
    mark: str  # what de-identification leaves: "XXXX" or "___"
    redaction: float  # per eligible word
    headers: tuple[str, str]  # before findings and impression; "" for none
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


_HEART_FIRST = ("heart", "vessels", "lungs", "pleura", "bones", "devices", "other")
_LUNGS_FIRST = ("lungs", "pleura", "heart", "vessels", "bones", "devices", "other")
_DEVICES_FIRST = ("devices", "lungs", "vessels", "pleura", "heart", "bones", "other")

_NOBODY = Taste("", 0.0)
_ARCHETYPES = (
    # Short prose without headers, much redacted, as in the Indiana collection.
    Style(
        _NOBODY, "XXXX", 0.8, ("", ""), 0, False, impression=0.93, findings=0.93, numbered=0.2, telegraphic=0.1,
        indication=0.0, technique=0.06, comment=0.05, macro=0.3, typo=0.04, order=_HEART_FIRST,
    ),
    # Upper-case headers, wrapped lines, as in MIMIC-CXR.
    Style(
        _NOBODY, "___", 0.3, ("FINDINGS:", "IMPRESSION:"), 80, False, impression=0.85, findings=0.85, numbered=0.15,
        telegraphic=0.0, indication=0.1, technique=0.35, comment=0.12, macro=0.2, typo=0.03, order=_LUNGS_FIRST,
    ),
    # Telegraphic, numbered impressions.
    Style(
        _NOBODY, "XXXX", 0.6, ("", ""), 0, False, impression=0.9, findings=0.9, numbered=0.5, telegraphic=0.35,
        indication=0.05, technique=0.15, comment=0.08, macro=0.25, typo=0.05, order=_LUNGS_FIRST,
    ),
    # Templates with headers in the line.
    Style(
        _NOBODY, "___", 0.2, ("Findings:", "Impression:"), 0, False, impression=0.8, findings=0.95, numbered=0.3,
        telegraphic=0.05, indication=0.15, technique=0.2, comment=0.1, macro=0.35, typo=0.02, order=_HEART_FIRST,
    ),
    # All in capitals, devices first.
    Style(
        _NOBODY, "XXXX", 0.3, ("CHEST:", "CONCLUSION:"), 0, True, impression=0.9, findings=0.9, numbered=0.6,
        telegraphic=0.3, indication=0.1, technique=0.2, comment=0.05, macro=0.3, typo=0.05, order=_DEVICES_FIRST,
    ),
    # Letter-like, often an opinion only.
    Style(
        _NOBODY, "___", 0.1, ("", "Opinion:"), 0, False, impression=0.7, findings=0.85, numbered=0.0, telegraphic=0.15,
        indication=0.2, technique=0.05, comment=0.15, macro=0.1, typo=0.03, order=_HEART_FIRST,
    ),
)  # fmt: skip
_RATES = (
    "redaction", "impression", "findings", "numbered", "telegraphic", "indication", "technique", "comment", "macro",
    "typo",
)  # fmt: skip


def house_style(site: int, seed: int) -> Style:
    """The style of a site, from its number and the corpus seed alone."""
    rng = random.Random(f"{seed}|style|{site}")
    archetype = _ARCHETYPES[site % len(_ARCHETYPES)]
    rates = {name: min(1.0, getattr(archetype, name) * rng.uniform(0.8, 1.2)) for name in _RATES}
    return replace(archetype, taste=Taste(f"{seed}|taste|{site}", 0.6), **rates)


# Words that automatic de-identification takes for names or dates: "costophrenic XXXX", "sternotomy XXXX", "x-XXXX".
_REDACTED = re.compile(
    r"\b(angles?|vessels|nodes?|ray|bones|skeletal structures|wires|linear|bandlike|median|likely|port|cava|leads"
    r"|minimal|tiny|new|signs|scattered linear|dual|small|platelike|lateral|chamber)\b"
)
_RARELY = {"small": 0.08, "lateral": 0.1, "minimal": 0.25, "likely": 0.8, "new": 0.8, "leads": 0.3, "bones": 0.9}
_FILLER = re.compile(
    r"\b(There is|There are|is|are|was|were|The|the|an?|seen|noted|has been|identified) ", re.IGNORECASE
)
_ABBREVIATIONS = (
    ("right lower lobe", "RLL"),
    ("left lower lobe", "LLL"),
    ("right upper lobe", "RUL"),
    ("without", "w/o"),
)


def say(sentence: str, style: Style, rng: random.Random) -> str:
    """A sentence as this hospital would have dictated and released it."""
    if rng.random() < style.telegraphic:
        sentence = _FILLER.sub("", sentence)
        for long, short in _ABBREVIATIONS:
            if rng.random() < 0.3:
                sentence = sentence.replace(long, short)

    def redact(match: re.Match[str]) -> str:
        word = match.group(0)
        return style.mark if rng.random() < style.redaction * _RARELY.get(word, 0.6) else word

    if style.mark == "XXXX":
        sentence = _REDACTED.sub(redact, sentence)
    if rng.random() < style.typo:
        sentence = _mistype(sentence, rng)
    return sentence[:1].upper() + sentence[1:]


def lay_out(opening: list[str], findings: list[str], impression: list[str], style: Style, rng: random.Random) -> str:
    """One text from sentences that have been said: opening (indication, technique), findings and impression."""
    if impression and rng.random() < style.numbered:
        impression = [f"{number}. {sentence}" for number, sentence in enumerate(impression, 1)]
    sections = [" ".join(opening)]
    for header, sentences in zip(style.headers, (findings, impression), strict=True):
        sections.append(" ".join(([header] if header else []) + sentences) if sentences else "")
    sections = [section for section in sections if section]
    if style.wrap:
        sections = [textwrap.fill(section, style.wrap) for section in sections]
    text = ("\n\n" if style.wrap else " ").join(sections)
    return text.upper() if style.upper else text


def _mistype(sentence: str, rng: random.Random) -> str:
    """Drop a word, swap two letters, or stutter a full stop."""
    words = sentence.split(" ")
    at = rng.randrange(len(words))
    kind = rng.randrange(3)
    if kind == 0 and len(words) > 4 and words[at].lower() in {"is", "are", "the", "of", "a", "there", "in"}:
        del words[at]
    elif kind == 1 and len(words[at]) > 5:
        middle = rng.randrange(1, len(words[at]) - 2)
        word = words[at]
        words[at] = word[:middle] + word[middle + 1] + word[middle] + word[middle + 2 :]
    else:
        words[-1] += "."
    return " ".join(words)
