"""House styles: how a hospital lays a report out, what it calls things, and what its de-identification removes.

A bank has a few styles, modelled on the public collections and on common templates; site i has style i modulo their
number, with rates and phrase preferences of its own. So hospitals differ in layout, length, wording and normal
templates, not in medicine.
"""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedrad.data.synthetic.bank import Bank, Style
from fedrad.data.synthetic.grammar import Taste

_RATES = (
    "redaction", "impression", "findings", "numbered", "telegraphic", "indication", "technique", "comment", "macro",
    "typo",
)  # fmt: skip


def house_style(bank: Bank, site: int, seed: int) -> Style:
    """The style of a site, from its number and the corpus seed alone."""
    rng = random.Random(f"{seed}|style|{site}")
    archetype = bank.styles[site % len(bank.styles)]
    rates = {name: min(1.0, getattr(archetype, name) * rng.uniform(0.8, 1.2)) for name in _RATES}
    return replace(archetype, taste=Taste(f"{seed}|taste|{site}", 0.6), **rates)


_FILLER = re.compile(
    r"\b(There is|There are|is|are|was|were|The|the|an?|seen|noted|has been|identified) ", re.IGNORECASE
)


def say(sentence: str, style: Style, rng: random.Random) -> str:
    """A sentence as this hospital would have dictated and released it."""
    if rng.random() < style.telegraphic:
        sentence = _FILLER.sub("", sentence)
        for long, short in style.release.abbreviations:
            if rng.random() < 0.3:
                sentence = sentence.replace(long, short)

    def redact(match: re.Match[str]) -> str:
        word = match.group(0)
        return (
            style.mark if rng.random() < style.redaction * style.release.rarely.get(word, style.release.usual) else word
        )

    if style.mark == "XXXX":
        sentence = style.release.redacted.sub(redact, sentence)
    if rng.random() < style.typo:
        sentence = _mistype(sentence, style.release.misspellings, rng)
    return sentence[:1].upper() + sentence[1:]


def in_sections(sentences: list[str], places: Sequence[str], style: Style) -> list[str]:
    """The lines of the findings: one for all, or one for each section, with its header; bulleted ones stay apart."""
    if style.bullet:
        return sentences
    lines: list[list[str]] = [[]]
    header = ""
    for sentence, place in zip(sentences, places, strict=True):
        title = style.sections.get(place, header)
        if title != header:
            header = title
            lines.append([header])
        own, colon, rest = sentence.partition(": ")
        repeats = colon and f"{own}:".lower() == header.lower()  # "LUNGS: Lungs: ..."
        lines[-1].append(rest if repeats else sentence)
    return [" ".join(line) for line in lines if line]


def _bulleted(bullet: str, number: int, sentence: str) -> str:
    return f"{number}. {sentence}" if bullet == "1." else f"{bullet} {sentence}"


def lay_out(opening: list[str], findings: list[str], impression: list[str], style: Style, rng: random.Random) -> str:
    """One text from sentences that have been said: opening (indication, technique), findings (`in_sections`) and
    impression. A style with sections or bullets breaks lines; others are prose."""
    if impression and rng.random() < style.numbered:
        impression = [f"{number}. {sentence}" for number, sentence in enumerate(impression, 1)]
    if style.bullet:
        findings = [_bulleted(style.bullet, number, sentence) for number, sentence in enumerate(findings, 1)]
        if style.bullet != "1.":
            impression = [f"{style.bullet} {sentence}" for sentence in impression]
    between = "\n" if style.bullet or style.sections else " "
    sections = [" ".join(opening)]
    for header, sentences in zip(style.headers, (findings, impression), strict=True):
        lines = ([header] if header else []) + sentences if sentences else []
        if style.wrap:
            lines = [textwrap.fill(line, style.wrap) for line in (lines if between == "\n" else [" ".join(lines)])]
        sections.append(between.join(lines))
    if style.wrap:
        sections[0] = textwrap.fill(sections[0], style.wrap)
    text = ("\n\n" if style.wrap else between).join(section for section in sections if section)
    return text.upper() if style.upper else text


_MISSPELT = 0.75  # of typing errors, where the bank knows misspellings


def _mistype(sentence: str, misspellings: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Drop a word, swap two letters, or stutter a full stop; with ``misspellings``, mostly one of those."""
    words = sentence.split(" ")
    if misspellings and rng.random() < _MISSPELT:
        return _misspell(words, misspellings, rng)
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


def _misspell(words: list[str], misspellings: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """A usual misspelling of one word; where none is known, a word twice or a blank too few."""
    known = [at for at, word in enumerate(words) if word.strip(".,:;()").lower() in misspellings]
    if known and rng.random() < 0.8:
        at = rng.choice(known)
        word = words[at].strip(".,:;()")
        wrong = rng.choice(misspellings[word.lower()])
        words[at] = words[at].replace(word, wrong.capitalize() if word[0].isupper() else wrong)
    elif len(words) > 3:
        at = rng.randrange(1, len(words) - 2)
        pair = words[at : at + 2]
        if "no" not in (word.lower() for word in pair):  # a report must not say the contrary
            words[at : at + 2] = ["".join(pair)] if rng.random() < 0.5 else [pair[0], *pair]
    return " ".join(words)
