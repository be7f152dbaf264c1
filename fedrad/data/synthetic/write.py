"""From a patient's problems to a report: sentences with what each asserts, then the text in the hospital's style."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from fedrad.data.synthetic.bank import IN_IMPRESSION, Bank, Phrase, Style
from fedrad.data.synthetic.draft import Draft, Sentence
from fedrad.data.synthetic.grammar import expand
from fedrad.data.synthetic.normal import anatomy, anatomy_conclusion, conclusion, normal_findings, place_normal
from fedrad.data.synthetic.patients import Problem
from fedrad.data.synthetic.style import in_sections, lay_out, say

_MACROS = 5  # normal templates per hospital


def write(
    bank: Bank, problems: Sequence[Problem], style: Style, seed: int, site: int, rng: random.Random
) -> tuple[str, Draft]:
    """Text and draft of one report. ``seed`` and ``site`` only select the hospital's normal templates."""
    draft = _draft(bank, problems, style, seed, site, rng)
    opening, body, impression = (
        [say(sentence.text, style, rng) for sentence in part]
        for part in (draft.opening, draft.findings, draft.impression)
    )
    sections = in_sections(body, [sentence.place for sentence in draft.findings], style)
    return lay_out(opening, sections, impression, style, rng), draft


def _draft(bank: Bank, problems: Sequence[Problem], style: Style, seed: int, site: int, rng: random.Random) -> Draft:
    present = [problem for problem in problems if problem.change != "gone"]
    has_findings = rng.random() < style.findings
    has_impression = not has_findings or rng.random() < style.impression
    body: list[tuple[str, Sentence]] = []
    impression: list[Sentence] = []
    kinds = [bank.findings[problem.kind] for problem in present]
    possible = frozenset[str]().union(*(phrase.labels for kind in kinds for phrase in kind.body + kind.impression))
    for problem in present:
        finding = bank.findings[problem.kind]
        words = bind(bank, problem.side, problem.change, style, rng)
        labelled = any(phrase.labels for phrase in finding.body)
        concluded = rng.random() < (0.15 if not labelled else 0.35 if finding.chronic else 0.8)
        if has_findings and (rng.random() < 0.93 or not concluded):
            body.append((finding.place, _assertion(finding.body, possible, words, style, rng)))
            concluded = concluded and has_impression
        else:
            concluded = True
        if concluded:
            source = finding.impression if has_impression and has_findings else finding.body + finding.impression
            impression.append(_assertion(source, possible, words, style, rng))
    asserted = frozenset[str]().union(*(s.asserts for _, s in body), *(s.asserts for s in impression))

    # The normal part: either in the hospital's standing words or freely.
    macro = rng.random() < style.macro
    template = random.Random(f"{seed}|macro|{site}|{rng.randrange(_MACROS)}") if macro else rng
    places = {bank.findings[problem.kind].place for problem in present}
    if bank.anatomy:
        normal = anatomy(bank, asserted, present, style, template, short=not has_findings)
        if has_findings:
            body += normal
        else:
            impression = [sentence for _, sentence in normal] + impression
    elif not has_findings:
        impression = normal_findings(bank, places, asserted, present, style, template, short=True) + impression
    else:
        body += place_normal(normal_findings(bank, places, asserted, present, style, template))
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
    ordered = [replace(sentence, place=place) for place in style.order for where, sentence in body if where == place]
    if bank.anatomy:
        if has_impression and has_findings:
            impression += [sentence for where, sentence in body if where == IN_IMPRESSION]
        if has_impression or not ordered:
            impression += anatomy_conclusion(bank, impression, bool(present), style, template)
    elif has_impression and has_findings:
        impression += conclusion(bank, impression, asserted, bool(present), style, template)
    elif not ordered and not impression:
        impression = conclusion(bank, [], asserted, bool(present), style, template)
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


def _assertion(
    options: Sequence[Phrase], possible: frozenset[str], words: dict[str, str], style: Style, rng: random.Random
) -> Sentence:
    """One of the phrases that deny nothing which any of the patient's findings may assert."""
    by_template = {phrase.template: phrase for phrase in options if not phrase.denies & possible}
    phrase = by_template[style.taste.choose(list(by_template), rng)]
    text = expand(phrase.template, words, style.taste, rng)
    return Sentence(text, asserts=phrase.labels, denies=phrase.denies, hedges=phrase.hedged(text), abnormal=True)


def _opening(bank: Bank, style: Style, rng: random.Random) -> tuple[Sentence, ...]:
    words = {**bank.lexicon, "deid": style.mark, "date": style.mark}
    sentences = []
    if rng.random() < style.indication:
        template = bank.indication + style.taste.choose(bank.sentences["indication"], rng)
        sentences.append(Sentence(expand(template, words, style.taste, rng)))
    if rng.random() < 0.02:
        sentences.append(Sentence(bank.examination))
    elif rng.random() < style.technique:
        template = style.taste.choose(bank.sentences["technique"], rng)
        sentences.append(Sentence(expand(template, words, style.taste, rng)))
    return tuple(sentences)


def _comments(bank: Bank, present: Sequence[Problem], style: Style, rng: random.Random) -> list[Sentence]:
    words = {**bank.lexicon, "deid": style.mark}
    if rng.random() < 0.03 and "elsewhere" in bank.sentences:
        group = "elsewhere"
    elif rng.random() < style.comment * (1.0 if present else 0.3):
        group = "comments"
    else:
        return []
    return [Sentence(expand(style.taste.choose(bank.sentences[group], rng), words, style.taste, rng))]
