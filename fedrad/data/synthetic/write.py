"""From a patient's problems to a report: sentences with what each asserts, then the text in the hospital's style."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from fedrad.data.synthetic import normal, phrases
from fedrad.data.synthetic.findings import FINDINGS
from fedrad.data.synthetic.grammar import expand
from fedrad.data.synthetic.patients import Problem
from fedrad.data.synthetic.phrases import Phrase
from fedrad.data.synthetic.style import Style, lay_out, say

_LEXICON = {**phrases.LEXICON, **normal.LEXICON}
_CHANGES: dict[str, tuple[str, ...]] = {
    "": ("", "", "", "", "", "", "", "stable"),
    "new": ("new", "new", "interval development of"),
    "stable": ("stable", "unchanged", "persistent", "stable", "redemonstrated", "chronic"),
    "better": ("improved", "decreasing", "improving", "decreased", "residual", "smaller"),
    "worse": ("increased", "worsening", "increasing", "larger", "progressive"),
    "gone": ("",),
}
_MACROS = 5  # normal templates per hospital


@dataclass(frozen=True)
class Sentence:
    """What one sentence commits the report to.

    ``asserts``: labels stated as present. ``denies``: labels stated as absent. ``abnormal``: mentions something that
    a normal report would not, labelled or not.
    """

    text: str
    asserts: frozenset[str] = frozenset()
    denies: frozenset[str] = frozenset()
    abnormal: bool = False


@dataclass(frozen=True)
class Draft:
    """A report before layout."""

    opening: tuple[Sentence, ...]
    findings: tuple[Sentence, ...]
    impression: tuple[Sentence, ...]

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        return self.opening + self.findings + self.impression

    @property
    def positives(self) -> frozenset[str]:
        """The labels: every asserted one, or No Finding if nothing abnormal is mentioned at all."""
        asserted = frozenset[str]().union(*(sentence.asserts for sentence in self.sentences))
        if any(sentence.abnormal for sentence in self.sentences):
            return asserted
        return frozenset({"No Finding"})


def write(problems: Sequence[Problem], style: Style, seed: int, site: int, rng: random.Random) -> tuple[str, Draft]:
    """Text and draft of one report. ``seed`` and ``site`` only select the hospital's normal templates."""
    draft = _draft(problems, style, seed, site, rng)
    opening, body, impression = (
        [say(sentence.text, style, rng) for sentence in part]
        for part in (draft.opening, draft.findings, draft.impression)
    )
    return lay_out(opening, body, impression, style, rng), draft


def _draft(problems: Sequence[Problem], style: Style, seed: int, site: int, rng: random.Random) -> Draft:
    present = [problem for problem in problems if problem.change != "gone"]
    has_findings = rng.random() < style.findings
    has_impression = not has_findings or rng.random() < style.impression
    body: list[tuple[str, Sentence]] = []
    impression: list[Sentence] = []
    for problem in present:
        finding = FINDINGS[problem.kind]
        words = bind(problem.side, problem.change, style, rng)
        labelled = any(phrase.labels for phrase in finding.body)
        concluded = rng.random() < (0.15 if not labelled else 0.35 if finding.chronic else 0.8)
        if has_findings and (rng.random() < 0.93 or not concluded):
            body.append((finding.place, _assertion(finding.body, words, style, rng)))
            concluded = concluded and has_impression
        else:
            concluded = True
        if concluded:
            source = finding.impression if has_impression and has_findings else finding.body + finding.impression
            impression.append(_assertion(source, words, style, rng))
    asserted = frozenset[str]().union(*(s.asserts for _, s in body), *(s.asserts for s in impression))

    # The normal part: either in the hospital's standing words or freely.
    macro = rng.random() < style.macro
    template = random.Random(f"{seed}|macro|{site}|{rng.randrange(_MACROS)}") if macro else rng
    places = {FINDINGS[problem.kind].place for problem in present}
    if not has_findings:
        impression = _normal_findings(places, asserted, present, style, template, short=True) + impression
    else:
        body += _place_normal(_normal_findings(places, asserted, present, style, template), style)
    for problem in problems:
        name = FINDINGS[problem.kind].name
        if problem.change == "gone" and name:
            text = expand(
                rng.choice(normal.RESOLVED),
                {**bind(problem.side, problem.change, style, rng), "thing": name},
                style.taste,
                rng,
            )
            body.append((FINDINGS[problem.kind].place, Sentence(text)))
    ordered = [sentence for place in style.order for where, sentence in body if where == place]
    if has_impression and has_findings:
        impression += _conclusion(impression, asserted, bool(present), style, template)
    elif not ordered and not impression:
        impression = _conclusion([], asserted, bool(present), style, template)
    return Draft(_opening(style, rng), tuple(ordered), tuple(impression + _comments(present, style, rng)))


def bind(side: str, change: str, style: Style, rng: random.Random) -> dict[str, str]:
    """The words that stay the same wherever a report speaks of one problem: where it is, and what became of it."""
    lobes = ("upper lobe", "lower lobe", "lower lobe")
    lobe = "right middle lobe" if side == "right" and rng.random() < 0.2 else f"{side} {rng.choice(lobes)}"
    if side == "left" and rng.random() < 0.1:
        lobe = "lingula"
    zones = (
        "midlung",
        "lung base",
        "upper lung",
        "lower lung",
        "apex",
        "base",
        "mid lung",
        "perihilar region",
        "lung apex",
    )
    return {
        **_LEXICON,
        "side": side,
        "other": "left" if side == "right" else "right",
        "lobe": lobe,
        "zone": f"{side} {rng.choice(zones)}",
        "base": f"{side} {rng.choice(('lung base', 'base', 'lower lung', 'lung base'))}",
        "basilar": rng.choice((f"{side} basilar", f"{side} basilar", f"{side} base", "bibasilar", "bilateral basilar")),
        "chg": style.taste.choose(_CHANGES[change], rng),
        "date": style.mark if style.redaction > 0.15 else f"{rng.randrange(1, 13)}/{rng.randrange(2009, 2020)}",
        "deid": style.mark,
    }


def _assertion(options: Sequence[Phrase], words: dict[str, str], style: Style, rng: random.Random) -> Sentence:
    by_template = {phrase.template: phrase for phrase in options}
    phrase = by_template[style.taste.choose(list(by_template), rng)]
    return Sentence(expand(phrase.template, words, style.taste, rng), asserts=phrase.labels, abnormal=True)


@functools.cache
def _nouns(asserted: frozenset[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    pairs = [
        (noun, weight)
        for (noun, labels), weight in zip(normal.NEGATIVES.items(), normal.NEGATIVE_WEIGHTS, strict=True)
        if not asserted.intersection(labels)
    ]
    return tuple(noun for noun, _ in pairs), tuple(weight for _, weight in pairs)


def _negated(
    template: str, asserted: frozenset[str], style: Style, rng: random.Random, used: set[tuple[str, ...]]
) -> Sentence:
    """Fill every ``<negative>`` with a noun that contradicts nothing and, if possible, repeats nothing in ``used``."""
    nouns, weights = _nouns(asserted)
    denied: set[str] = set()
    if len(used) > 4:  # everything has been said
        used.clear()
    while "<negative>" in template:
        noun = rng.choices(nouns, weights)[0]
        for _ in range(20):
            if normal.NEGATIVES[noun] not in used and noun not in template:
                break
            noun = rng.choices(nouns, weights)[0]
        used.add(normal.NEGATIVES[noun])
        denied.update(normal.NEGATIVES[noun][:1])
        template = template.replace("<negative>", noun, 1)
    words = {**_LEXICON, "other": "left", "deid": style.mark}
    return Sentence(expand(template, words, style.taste, rng), denies=frozenset(denied))


def _normal_findings(
    places: set[str],
    asserted: frozenset[str],
    present: Sequence[Problem],
    style: Style,
    rng: random.Random,
    *,
    short: bool = False,
) -> list[Sentence]:
    """What is said of the anatomy that is not abnormal."""

    used: set[tuple[str, ...]] = set()

    def pick(bank: Sequence[str]) -> Sentence:
        return _negated(style.taste.choose(bank, rng), asserted, style, rng, used)

    if not present and rng.random() < (0.5 if short else 0.08):
        return [pick(normal.WHOLE_NORMAL)]
    sentences: list[Sentence] = []
    heart_normal = not asserted & {"Cardiomegaly", "Enlarged Cardiomediastinum"}
    heart_normal = heart_normal and not any(problem.kind == "upper normal heart" for problem in present)
    if not heart_normal:
        if "Enlarged Cardiomediastinum" not in asserted and rng.random() < 0.45:
            sentences.append(pick(normal.MEDIASTINUM))
        if "Edema" not in asserted and rng.random() < 0.3:
            sentences.append(pick(normal.VESSELS))
    elif "Edema" not in asserted and rng.random() < 0.4:
        sentences.append(pick(normal.HEART_AND_VESSELS))
    else:
        bank = (
            normal.HEART
            if "aorta" in {problem.kind for problem in present}
            else normal.HEART + normal.HEART_AND_MEDIASTINUM
        )
        sentences.append(pick(bank))
        if "Edema" not in asserted and rng.random() < 0.2:
            sentences.append(pick(normal.VESSELS))
    lung_free = not asserted & {"Lung Opacity", "Atelectasis", "Edema", "Pneumonia"}
    lung_free = lung_free and ("lungs" not in places or ("Lung Lesion" in asserted and rng.random() < 0.5))
    if lung_free and rng.random() < 0.75:
        sentences.append(pick(normal.LUNGS))
    elif not lung_free and rng.random() < 0.3:
        sentences.append(pick(normal.LUNGS_OTHERWISE))
    negations = rng.choices((0, 1, 2), (10, 75, 15))[0] if not short else rng.choices((0, 1), (50, 50))[0]
    thorough = not short and rng.random() < 0.12
    if thorough:
        sentences += [pick(normal.VESSELS), pick(normal.ABDOMEN)] if "Edema" not in asserted else [pick(normal.ABDOMEN)]
        negations += 1
    sentences += [pick(normal.NEGATIONS) for _ in range(negations)]
    if "Fracture" not in asserted and rng.random() < (
        0.1 if short else 1.0 if thorough else 0.35 if "bones" not in places else 0.15
    ):
        sentences.append(pick(normal.BONES))
    if rng.random() < 0.08 and not short:
        sentences.append(pick(normal.ABDOMEN))
    return sentences


def _place_normal(sentences: list[Sentence], style: Style) -> list[tuple[str, Sentence]]:
    """Put each normal sentence where the hospital looks at that anatomy."""
    places = []
    for sentence in sentences:
        lowered = sentence.text.lower()
        if "bon" in lowered or "osseous" in lowered or "skelet" in lowered or "rib" in lowered:
            place = "bones"
        elif sentence.denies:
            place = "pleura"
        elif "heart" in lowered or "cardi" in lowered or "mediast" in lowered or "trachea" in lowered:
            place = "heart"
        elif "vascul" in lowered or "vessels" in lowered or "edema" in lowered:
            place = "vessels"
        else:
            place = "lungs"
        places.append((place, sentence))
    return places


def _conclusion(
    said: Sequence[Sentence], asserted: frozenset[str], abnormal: bool, style: Style, rng: random.Random
) -> list[Sentence]:
    """ "No acute ..." where the report allows it."""
    acute = asserted & {"Pneumonia", "Consolidation", "Edema", "Pneumothorax", "Pleural Effusion"}
    opaque = asserted & {"Lung Opacity", "Atelectasis"}
    if acute or rng.random() < (0.65 if opaque else 0.4 if said else 0.03):
        return []
    banks = normal.CONCLUSIONS if abnormal else normal.CONCLUSIONS * 3 + normal.NORMAL_CONCLUSIONS
    template = style.taste.choose(banks, rng)
    return [Sentence(expand(template, _LEXICON, style.taste, rng))]


def _opening(style: Style, rng: random.Random) -> tuple[Sentence, ...]:
    words = {**_LEXICON, "deid": style.mark, "date": style.mark}
    sentences = []
    if rng.random() < style.indication:
        sentences.append(
            Sentence(expand("Indication: " + style.taste.choose(normal.INDICATION, rng), words, style.taste, rng))
        )
    if rng.random() < 0.02:
        sentences.append(Sentence("Chest."))
    elif rng.random() < style.technique:
        sentences.append(Sentence(expand(style.taste.choose(normal.TECHNIQUE, rng), words, style.taste, rng)))
    return tuple(sentences)


def _comments(present: Sequence[Problem], style: Style, rng: random.Random) -> list[Sentence]:
    words = {**_LEXICON, "deid": style.mark}
    if rng.random() < 0.03:
        return [Sentence(expand(style.taste.choose(normal.ELSEWHERE, rng), words, style.taste, rng))]
    if rng.random() >= style.comment * (1.0 if present else 0.3):
        return []
    return [Sentence(expand(style.taste.choose(normal.COMMENTS, rng), words, style.taste, rng))]
