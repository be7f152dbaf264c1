"""Generates order notes for imaging, each with the protocol that answers it.

A note has a reason, history, allergies, renal function, medication and prior imaging, in one of four house styles. Like
the generator of reports it reads no data, so training on its notes costs no privacy. What makes notes hard: prior
imaging names other protocols; some reasons fit several; and where contrast can't be given, another protocol may take
its place, which only renal function or an allergy tells.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrad.corpora import PROTOCOLS
from fedrad.data.protocol.phrases import Phrases, Protocol, load_phrases
from fedrad.data.report import FEATURES, Row, Source, row_of

_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
# Of a note: where a shared reason fits, that it is given; that contrast can't be; that a line which decides nothing is
# left out.
_AMBIGUOUS, _NO_CONTRAST, _LEFT_OUT = 0.15, 0.12, 0.25
_NOTES_A_PATIENT = 3  # at most
_SKEW = 1.2  # of a hospital's mix: standard deviation of the logarithm of a weight


def source(path: str | Path | None, reports: int, seed: int) -> Source:
    """Generated notes as a corpus; ``path`` is not used. The arguments are those of ``generate``."""
    features = FEATURES(class_names=PROTOCOLS)
    return Source([], lambda warn: (features, generate(reports, seed)))


def generate(notes: int, seed: int, sites: int = 4, bank: str = "phrases") -> Iterator[Row]:
    """Yields ``notes`` rows {text, labels: number of the protocol, patient, site, time "", split ""}.

    A pure function of its arguments; a smaller count gives a prefix of a larger one.

    Args:
        bank: ``phrases``, or ``public``, which shares no reason, history or style with it.

    Raises:
        ValueError: ``notes`` or ``sites`` is out of range.
    """
    if notes < 0 or sites < 1:
        raise ValueError("notes need a count of at least 0 and at least one site")
    phrases = load_phrases(bank)
    mixes = [_mix(phrases, seed, site) for site in range(sites)]
    made = patient = 0
    while made < notes:
        rng = random.Random(f"{seed}|patient|{patient}")
        site = rng.randrange(sites)
        for _ in range(min(rng.choice((1, 1, 1, 2, _NOTES_A_PATIENT)), notes - made)):
            text, protocol = _note(phrases, mixes[site], site, rng)
            yield row_of(text, PROTOCOLS.index(protocol), f"order-{patient:06d}", site=f"site-{site}")
            made += 1
        patient += 1


def _mix(phrases: Phrases, seed: int, site: int) -> list[float]:
    """How often a hospital asks for each protocol."""
    rng = random.Random(f"{seed}|mix|{site}")
    return [protocol.weight * rng.lognormvariate(0.0, _SKEW) for protocol in phrases.protocols]


def _note(phrases: Phrases, mix: Sequence[float], site: int, rng: random.Random) -> tuple[str, str]:
    """A note in the hospital's style, and its protocol."""
    (asked,) = rng.choices(phrases.protocols, mix)
    reason = rng.choice(asked.reasons)
    fitting = [each for each in phrases.ambiguous if asked.name in each.protocols]
    if fitting and rng.random() < _AMBIGUOUS:
        reason = rng.choice(fitting).reason
    kidneys, allergic = (rng.random() < _NO_CONTRAST / 2 for _ in range(2))
    parts = {
        "reason": reason,
        "history": rng.choice(asked.history),
        "comorbidity": rng.choice(phrases.words["comorbidity"]),
        "medication": rng.choice(phrases.words["medication"]),
        "age": rng.choice(phrases.words["age"]),
        "sex": rng.choice(phrases.words["sex"]),
        "renal": rng.choice(phrases.contrast["unsafe" if kidneys else "safe"]),
        "allergy": rng.choice(phrases.contrast["allergy" if allergic else "no_allergy"]),
        "prior": f"{rng.choice(phrases.protocols).name} {rng.randrange(2015, 2024)}",
    }
    told = kidneys or allergic
    decisive = {"renal"} if kidneys else {"allergy"} if allergic else set[str]()
    return _written(phrases, parts, decisive, site, rng), _answer(asked, without_contrast=told)


def _answer(asked: Protocol, *, without_contrast: bool) -> str:
    return asked.fallback if without_contrast and asked.fallback else asked.name


def _written(phrases: Phrases, parts: dict[str, str], decisive: set[str], site: int, rng: random.Random) -> str:
    """The lines of the hospital's style; lines that decide nothing may be missing."""
    style, lines = phrases.styles[site % len(phrases.styles)], []
    for line in style.lines:
        named = set(re.findall(r"\{(\w+)\}", line))
        if named & ({"reason"} | decisive) or rng.random() >= _LEFT_OUT:
            lines.append(expand(re.sub(r"\{(\w+)\}", lambda name: parts[name[1]], line), rng))
    text = style.joint.join(lines)
    return text.upper() if style.upper else text


def expand(phrase: str, rng: random.Random) -> str:
    """A phrase with each of its choices made."""
    return _CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), phrase)
