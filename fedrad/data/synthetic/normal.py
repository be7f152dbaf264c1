"""What a report says of normal anatomy, and its concluding sentence.

A bank with ``anatomy`` lists the parts of the body, and a report walks through them. The bank ``chest-xray`` has none:
its reports are composed by the rules below, which were fitted to public chest x-ray reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedrad.data.synthetic.bank import Negative
from fedrad.data.synthetic.draft import Sentence, Voice
from fedrad.data.synthetic.patients import Problem

_SHORT = 0.4  # a report without a section for findings says less about what is normal
_PLEURAL = frozenset({"Pleural Effusion", "Pleural Other", "Pneumothorax"})


def normal_part(
    voice: Voice, asserted: frozenset[str], present: Sequence[Problem], *, short: bool
) -> Iterator[Sentence]:
    """Normal sentences with their places. None of them denies a label that the report asserts."""
    if voice.bank.anatomy:
        yield from _walk(voice, asserted, present, short=short)
    else:
        for sentence in _composed(voice, asserted, present, short=short):
            yield replace(sentence, place=_place_of(sentence))


def conclusion(voice: Voice, said: Sequence[Sentence], asserted: frozenset[str], abnormal: bool) -> list[Sentence]:
    """ "No acute ..." or "Findings within normal limits.", or nothing.

    Args:
        said: the impression so far.
    """
    if voice.bank.anatomy:
        silent = bool(said) and voice.rng.random() >= 0.06
        groups = ["conclusions" if abnormal else "normal-conclusions"]
    else:
        acute = asserted & {"Pneumonia", "Consolidation", "Edema", "Pneumothorax", "Pleural Effusion"}
        opaque = asserted & {"Lung Opacity", "Atelectasis"}
        silent = bool(acute) or voice.rng.random() < (0.65 if opaque else 0.4 if said else 0.03)
        groups = ["conclusions"] if abnormal else ["conclusions"] * 3 + ["normal-conclusions"]
    return [] if silent else [voice.say(*groups)]


def _walk(voice: Voice, asserted: frozenset[str], present: Sequence[Problem], *, short: bool) -> Iterator[Sentence]:
    kinds, used = {problem.kind for problem in present}, set[str]()
    for part in voice.bank.anatomy:
        mentioned = voice.rng.random() < part.chance * (_SHORT if short else 1.0)
        denies = {
            phrase.template: phrase.labels
            for phrase in part.sentences
            if not phrase.labels & asserted and phrase.template not in used
        }
        if mentioned and denies and not part.unless & kinds:
            template = voice.pick(list(denies))
            used.add(template)
            yield Sentence(voice.expand(template), denies=denies[template], place=part.place)


def _composed(voice: Voice, asserted: frozenset[str], present: Sequence[Problem], *, short: bool) -> list[Sentence]:
    rng, kinds = voice.rng, {problem.kind for problem in present}
    places = {voice.bank.findings[kind].place for kind in kinds}
    nouns = [negative for negative in voice.bank.negatives if not asserted.intersection(negative.labels)]
    said, used = list[Sentence](), set[tuple[str, ...]]()

    def say(*groups: str) -> None:
        template = voice.pick([text for group in groups for text in voice.bank.sentences[group]])
        said.append(_negated(voice, template, nouns, used))

    def free(*labels: str) -> bool:
        return asserted.isdisjoint(labels)

    if not present and rng.random() < (0.5 if short else 0.08):
        say("whole-normal")
        return said
    if not free("Cardiomegaly", "Enlarged Cardiomediastinum") or "upper normal heart" in kinds:
        if free("Enlarged Cardiomediastinum") and rng.random() < 0.45:
            say("mediastinum")
        if free("Edema") and rng.random() < 0.3:
            say("vessels")
    elif free("Edema") and rng.random() < 0.4:
        say("heart-and-vessels")
    else:
        say(*(["heart"] if "aorta" in kinds else ["heart", "heart-and-mediastinum"]))
        if free("Edema") and rng.random() < 0.2:
            say("vessels")
    clear = free("Lung Opacity", "Atelectasis", "Edema", "Pneumonia")
    clear = clear and ("lungs" not in places or ("Lung Lesion" in asserted and rng.random() < 0.5))
    if rng.random() < (0.75 if clear else 0.3):
        say("lungs" if clear else "lungs-otherwise")
    negations = rng.choices((0, 1), (50, 50))[0] if short else rng.choices((0, 1, 2), (10, 75, 15))[0]
    thorough = not short and rng.random() < 0.12
    if thorough:
        if free("Edema"):
            say("vessels")
        say("abdomen")
    for _ in range(negations + thorough):
        say("negations")
    bones = 0.1 if short else 1.0 if thorough else 0.15 if "bones" in places else 0.35
    if free("Fracture") and rng.random() < bones:
        say("bones")
    if free(*_PLEURAL) and rng.random() < (0.08 if short else 0.15):
        say("pleura")
        said[-1] = replace(said[-1], denies=_PLEURAL)
    if rng.random() < 0.08 and not short:
        say("abdomen")
    return said


def _negated(voice: Voice, template: str, nouns: Sequence[Negative], used: set[tuple[str, ...]]) -> Sentence:
    """Puts a noun in place of every ``<negative>``, if possible none whose labels are in ``used``."""
    weights = [negative.weight for negative in nouns]
    denied: set[str] = set()
    if len(used) > 4:  # everything has been said
        used.clear()
    while "<negative>" in template:
        negative = voice.rng.choices(nouns, weights)[0]
        for _ in range(20):
            if negative.labels not in used and negative.noun not in template:
                break
            negative = voice.rng.choices(nouns, weights)[0]
        used.add(negative.labels)
        denied.update(negative.labels[:1])
        template = template.replace("<negative>", negative.noun, 1)
    return Sentence(voice.expand(template), denies=frozenset(denied))


def _place_of(sentence: Sentence) -> str:
    """The part of the anatomy that a composed sentence is about, by its words."""
    text = sentence.text.lower()
    if any(word in text for word in ("bon", "osseous", "skelet", "rib")):
        return "bones"
    if sentence.denies:
        return "pleura"
    if any(word in text for word in ("heart", "cardi", "mediast", "trachea")):
        return "heart"
    return "vessels" if any(word in text for word in ("vascul", "vessels", "edema")) else "lungs"
