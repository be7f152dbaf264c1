"""What a report says of what is normal: by walking through a bank's anatomy, or composed as in chest x-ray reports."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from fedrad.data.synthetic.bank import Bank, Negative, Style
from fedrad.data.synthetic.draft import Sentence
from fedrad.data.synthetic.grammar import expand
from fedrad.data.synthetic.patients import Problem

# Where the hospital has no section for findings, less is said of what is normal.
_SHORT = 0.4
_PLEURAL = frozenset({"Pleural Effusion", "Pleural Other", "Pneumothorax"})


def anatomy(
    bank: Bank, asserted: frozenset[str], present: Sequence[Problem], style: Style, rng: random.Random, *, short: bool
) -> list[tuple[str, Sentence]]:
    """Places and normal sentences, none of which denies what the report asserts."""
    kinds, said = {problem.kind for problem in present}, list[tuple[str, Sentence]]()
    used: set[str] = set()
    words = {**bank.lexicon, "deid": style.mark}
    for part in bank.anatomy:
        mentioned = rng.random() < part.chance * (_SHORT if short else 1.0)
        denies = {
            phrase.template: phrase.labels
            for phrase in part.sentences
            if not phrase.labels & asserted and phrase.template not in used
        }
        if mentioned and denies and not part.unless & kinds:
            template = style.taste.choose(list(denies), rng)
            used.add(template)
            text = expand(template, words, style.taste, rng)
            said.append((part.place, Sentence(text, denies=denies[template])))
    return said


def anatomy_conclusion(
    bank: Bank, said: Sequence[Sentence], abnormal: bool, style: Style, rng: random.Random
) -> list[Sentence]:
    """ "Findings within normal limits." where nothing is wrong; a report is never empty."""
    if said and rng.random() >= 0.06:
        return []
    group = "conclusions" if abnormal else "normal-conclusions"
    return [Sentence(expand(style.taste.choose(bank.sentences[group], rng), bank.lexicon, style.taste, rng))]


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


def normal_findings(
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
    if not asserted & _PLEURAL and rng.random() < (0.08 if short else 0.15):
        sentences.append(replace(pick("pleura"), denies=_PLEURAL))
    if rng.random() < 0.08 and not short:
        sentences.append(pick("abdomen"))
    return sentences


def place_normal(sentences: list[Sentence]) -> list[tuple[str, Sentence]]:
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


def conclusion(
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
