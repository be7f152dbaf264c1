"""From a patient's problems to a report: sentences with what each asserts, then the text in the hospital's style."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fedrad.data.synthetic.bank import Bank, Negative, Phrase, Style
from fedrad.data.synthetic.grammar import expand
from fedrad.data.synthetic.patients import Problem
from fedrad.data.synthetic.style import lay_out, say

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


def write(
    bank: Bank, problems: Sequence[Problem], style: Style, seed: int, site: int, rng: random.Random
) -> tuple[str, Draft]:
    """Text and draft of one report. ``seed`` and ``site`` only select the hospital's normal templates."""
    draft = _draft(bank, problems, style, seed, site, rng)
    opening, body, impression = (
        [say(sentence.text, style, rng) for sentence in part]
        for part in (draft.opening, draft.findings, draft.impression)
    )
    return lay_out(opening, body, impression, style, rng), draft


def _draft(bank: Bank, problems: Sequence[Problem], style: Style, seed: int, site: int, rng: random.Random) -> Draft:
    present = [problem for problem in problems if problem.change != "gone"]
    has_findings = rng.random() < style.findings
    has_impression = not has_findings or rng.random() < style.impression
    body: list[tuple[str, Sentence]] = []
    impression: list[Sentence] = []
    for problem in present:
        finding = bank.findings[problem.kind]
        words = bind(bank, problem.side, problem.change, style, rng)
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
    places = {bank.findings[problem.kind].place for problem in present}
    if not has_findings:
        impression = _normal_findings(bank, places, asserted, present, style, template, short=True) + impression
    else:
        body += _place_normal(_normal_findings(bank, places, asserted, present, style, template), style)
    for problem in problems:
        name = bank.findings[problem.kind].resolved
        if problem.change == "gone" and name:
            text = expand(
                rng.choice(bank.sentences["resolved"]),
                {**bind(bank, problem.side, problem.change, style, rng), "thing": name},
                style.taste,
                rng,
            )
            body.append((bank.findings[problem.kind].place, Sentence(text)))
    ordered = [sentence for place in style.order for where, sentence in body if where == place]
    if has_impression and has_findings:
        impression += _conclusion(bank, impression, asserted, bool(present), style, template)
    elif not ordered and not impression:
        impression = _conclusion(bank, [], asserted, bool(present), style, template)
    return Draft(
        _opening(bank, style, rng),
        tuple(ordered),
        tuple(impression + _comments(bank, present, style, rng)),
        bank.normal_label,
    )


def bind(bank: Bank, side: str, change: str, style: Style, rng: random.Random) -> dict[str, str]:
    """The words that stay the same wherever a report speaks of one problem: where it is, and what became of it."""
    lobes = ("upper lobe", "lower lobe", "lower lobe")
    lobe = "right middle lobe" if side == "right" and rng.random() < 0.2 else f"{side} {rng.choice(lobes)}"
    if side == "left" and rng.random() < 0.1:
        lobe = "lingula"
    return {
        **bank.lexicon,
        "side": side,
        "other": "left" if side == "right" else "right",
        "lobe": lobe,
        "zone": f"{side} {rng.choice(bank.places['zone'])}",
        "base": f"{side} {rng.choice(bank.places['base'])}",
        "basilar": rng.choice(bank.places["basilar"]).replace("<side>", side),
        "chg": style.taste.choose(bank.changes[change], rng),
        "date": style.mark if style.redaction > 0.15 else f"{rng.randrange(1, 13)}/{rng.randrange(2009, 2020)}",
        "deid": style.mark,
    }


def _assertion(options: Sequence[Phrase], words: dict[str, str], style: Style, rng: random.Random) -> Sentence:
    by_template = {phrase.template: phrase for phrase in options}
    phrase = by_template[style.taste.choose(list(by_template), rng)]
    return Sentence(expand(phrase.template, words, style.taste, rng), asserts=phrase.labels, abnormal=True)


def _negated(
    bank: Bank, template: str, nouns: Sequence[Negative], style: Style, rng: random.Random, used: set[tuple[str, ...]]
) -> Sentence:
    """Fill every ``<negative>`` with a noun that, if possible, repeats nothing in ``used``."""
    weights = [negative.weight for negative in nouns]
    denied: set[str] = set()
    if len(used) > 4:  # everything has been said
        used.clear()
    while "<negative>" in template:
        negative = rng.choices(nouns, weights)[0]
        for _ in range(20):
            if negative.labels not in used and negative.noun not in template:
                break
            negative = rng.choices(nouns, weights)[0]
        used.add(negative.labels)
        denied.update(negative.labels[:1])
        template = template.replace("<negative>", negative.noun, 1)
    words = {**bank.lexicon, "other": "left", "deid": style.mark}
    return Sentence(expand(template, words, style.taste, rng), denies=frozenset(denied))


def _normal_findings(
    bank: Bank,
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
    nouns = [negative for negative in bank.negatives if not asserted.intersection(negative.labels)]

    def pick(*groups: str) -> Sentence:
        templates = [template for group in groups for template in bank.sentences[group]]
        return _negated(bank, style.taste.choose(templates, rng), nouns, style, rng, used)

    if not present and rng.random() < (0.5 if short else 0.08):
        return [pick("whole-normal")]
    sentences: list[Sentence] = []
    heart_normal = not asserted & {"Cardiomegaly", "Enlarged Cardiomediastinum"}
    heart_normal = heart_normal and not any(problem.kind == "upper normal heart" for problem in present)
    if not heart_normal:
        if "Enlarged Cardiomediastinum" not in asserted and rng.random() < 0.45:
            sentences.append(pick("mediastinum"))
        if "Edema" not in asserted and rng.random() < 0.3:
            sentences.append(pick("vessels"))
    elif "Edema" not in asserted and rng.random() < 0.4:
        sentences.append(pick("heart-and-vessels"))
    else:
        aortic = "aorta" in {problem.kind for problem in present}
        sentences.append(pick("heart") if aortic else pick("heart", "heart-and-mediastinum"))
        if "Edema" not in asserted and rng.random() < 0.2:
            sentences.append(pick("vessels"))
    lung_free = not asserted & {"Lung Opacity", "Atelectasis", "Edema", "Pneumonia"}
    lung_free = lung_free and ("lungs" not in places or ("Lung Lesion" in asserted and rng.random() < 0.5))
    if lung_free and rng.random() < 0.75:
        sentences.append(pick("lungs"))
    elif not lung_free and rng.random() < 0.3:
        sentences.append(pick("lungs-otherwise"))
    negations = rng.choices((0, 1, 2), (10, 75, 15))[0] if not short else rng.choices((0, 1), (50, 50))[0]
    thorough = not short and rng.random() < 0.12
    if thorough:
        sentences += [pick("vessels"), pick("abdomen")] if "Edema" not in asserted else [pick("abdomen")]
        negations += 1
    sentences += [pick("negations") for _ in range(negations)]
    if "Fracture" not in asserted and rng.random() < (
        0.1 if short else 1.0 if thorough else 0.35 if "bones" not in places else 0.15
    ):
        sentences.append(pick("bones"))
    if rng.random() < 0.08 and not short:
        sentences.append(pick("abdomen"))
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
    bank: Bank, said: Sequence[Sentence], asserted: frozenset[str], abnormal: bool, style: Style, rng: random.Random
) -> list[Sentence]:
    """ "No acute ..." where the report allows it."""
    acute = asserted & {"Pneumonia", "Consolidation", "Edema", "Pneumothorax", "Pleural Effusion"}
    opaque = asserted & {"Lung Opacity", "Atelectasis"}
    if acute or rng.random() < (0.65 if opaque else 0.4 if said else 0.03):
        return []
    templates = bank.sentences["conclusions"]
    if not abnormal:
        templates = templates * 3 + bank.sentences["normal-conclusions"]
    template = style.taste.choose(templates, rng)
    return [Sentence(expand(template, bank.lexicon, style.taste, rng))]


def _opening(bank: Bank, style: Style, rng: random.Random) -> tuple[Sentence, ...]:
    words = {**bank.lexicon, "deid": style.mark, "date": style.mark}
    sentences = []
    if rng.random() < style.indication:
        template = "Indication: " + style.taste.choose(bank.sentences["indication"], rng)
        sentences.append(Sentence(expand(template, words, style.taste, rng)))
    if rng.random() < 0.02:
        sentences.append(Sentence("Chest."))
    elif rng.random() < style.technique:
        template = style.taste.choose(bank.sentences["technique"], rng)
        sentences.append(Sentence(expand(template, words, style.taste, rng)))
    return tuple(sentences)


def _comments(bank: Bank, present: Sequence[Problem], style: Style, rng: random.Random) -> list[Sentence]:
    words = {**bank.lexicon, "deid": style.mark}
    if rng.random() < 0.03:
        group = "elsewhere"
    elif rng.random() < style.comment * (1.0 if present else 0.3):
        group = "comments"
    else:
        return []
    return [Sentence(expand(style.taste.choose(bank.sentences[group], rng), words, style.taste, rng))]
