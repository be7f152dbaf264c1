"""House styles: how a hospital lays out a report, what it calls things, and what its de-identification removes.

A bank has a few styles, modelled on the public collections and on common templates. Site i has style i modulo their
number, with rates and phrase preferences of its own: hospitals differ in layout, length, wording and normal templates,
not in medicine.
"""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedrad.data.synthetic.bank import RATES, Bank, Style
from fedrad.data.synthetic.grammar import Taste

_MISSPELT = 0.75  # of typing errors, where the bank lists misspellings
_FILLER = re.compile(
    r"\b(There is|There are|is|are|was|were|The|the|an?|seen|noted|has been|identified) ", re.IGNORECASE
)


def house_style(bank: Bank, site: int, seed: int) -> Style:
    """The style of a site, from its number and the corpus seed alone."""
    rng = random.Random(f"{seed}|style|{site}")
    archetype = bank.styles[site % len(bank.styles)]
    rates = {name: min(1.0, getattr(archetype, name) * rng.uniform(0.8, 1.2)) for name in RATES}
    return replace(archetype, taste=Taste(f"{seed}|taste|{site}", 0.6), **rates)


def say(sentence: str, style: Style, rng: random.Random) -> str:
    """A sentence as this hospital would have dictated and released it."""
    release = style.release
    if rng.random() < style.telegraphic:
        sentence = _FILLER.sub("", sentence)
        for long, short in release.abbreviations:
            if rng.random() < 0.3:
                sentence = sentence.replace(long, short)

    def redact(match: re.Match[str]) -> str:
        chance = style.redaction * release.rarely.get(match[0], release.usual)
        return style.mark if rng.random() < chance else match[0]

    if style.mark == "XXXX":
        sentence = release.redacted.sub(redact, sentence)
    if rng.random() < style.typo:
        sentence = _mistype(sentence, release.misspellings, rng)
    return sentence[:1].upper() + sentence[1:]


def in_sections(sentences: list[str], places: Sequence[str], style: Style) -> list[str]:
    """The findings as lines: a line for each section, with its header. Bulleted sentences stay separate."""
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


def lay_out(opening: list[str], findings: list[str], impression: list[str], style: Style, rng: random.Random) -> str:
    """The text of a report. A style with sections or bullets breaks lines; others are prose.

    Args:
        opening: indication and technique.
        findings: lines from `in_sections`.
    """
    if impression and rng.random() < style.numbered:
        impression = _listed(impression, "1.")
    if style.bullet:
        findings = _listed(findings, style.bullet)
        if style.bullet != "1.":
            impression = _listed(impression, style.bullet)
    between = "\n" if style.bullet or style.sections else " "
    sections = [[" ".join(opening)]]
    for header, sentences in zip(style.headers, (findings, impression), strict=True):
        lines = [header] * bool(header) + sentences if sentences else []
        sections.append(lines if between == "\n" else [" ".join(lines)])
    if style.wrap:
        sections = [[textwrap.fill(line, style.wrap) for line in lines] for lines in sections]
    texts = [between.join(lines) for lines in sections]
    text = ("\n\n" if style.wrap else between).join(text for text in texts if text)
    return text.upper() if style.upper else text


def _listed(sentences: list[str], bullet: str) -> list[str]:
    return [f"{f'{at}.' if bullet == '1.' else bullet} {sentence}" for at, sentence in enumerate(sentences, 1)]


def _mistype(sentence: str, misspellings: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Drops a word, swaps two letters or doubles a full stop; with ``misspellings``, mostly uses one of those."""
    words = sentence.split(" ")
    if misspellings and rng.random() < _MISSPELT:
        return _misspell(words, misspellings, rng)
    at, kind = rng.randrange(len(words)), rng.randrange(3)
    word = words[at]
    if kind == 0 and len(words) > 4 and word.lower() in {"is", "are", "the", "of", "a", "there", "in"}:
        del words[at]
    elif kind == 1 and len(word) > 5:
        middle = rng.randrange(1, len(word) - 2)
        words[at] = word[:middle] + word[middle + 1] + word[middle] + word[middle + 2 :]
    else:
        words[-1] += "."
    return " ".join(words)


def _misspell(words: list[str], misspellings: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Misspells one word; if no word has a known misspelling, doubles a word or drops a blank."""
    known = [at for at, word in enumerate(words) if word.strip(".,:;()").lower() in misspellings]
    if known and rng.random() < 0.8:
        at = rng.choice(known)
        word = words[at].strip(".,:;()")
        wrong = rng.choice(misspellings[word.lower()])
        words[at] = words[at].replace(word, wrong.capitalize() if word[0].isupper() else wrong)
    elif len(words) > 3:
        at = rng.randrange(1, len(words) - 2)
        pair = words[at : at + 2]
        if "no" not in (word.lower() for word in pair):  # or the report might say the opposite
            words[at : at + 2] = ["".join(pair)] if rng.random() < 0.5 else [pair[0], *pair]
    return " ".join(words)
