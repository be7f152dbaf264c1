"""From a patient's problems to a report: sentences and what each asserts, then the text in the hospital's style."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedrad.data.synthetic.bank import IN_IMPRESSION, Bank, Phrase, Style
from fedrad.data.synthetic.draft import Draft, Sentence, Voice, asserted_in
from fedrad.data.synthetic.normal import conclusion, normal_part
from fedrad.data.synthetic.patients import Problem
from fedrad.data.synthetic.style import in_sections, lay_out, say

_MACROS = 5  # normal templates per hospital


def write(
    bank: Bank, problems: Sequence[Problem], style: Style, seed: int, site: int, rng: random.Random
) -> tuple[str, Draft]:
    """Text and draft of one report. ``seed`` and ``site`` only select the hospital's normal templates."""
    draft = _draft(Voice(bank, style, rng), problems, f"{seed}|macro|{site}")
    opening, body, impression = (
        [say(sentence.text, style, rng) for sentence in part]
        for part in (draft.opening, draft.findings, draft.impression)
    )
    sections = in_sections(body, [sentence.place for sentence in draft.findings], style)
    return lay_out(opening, sections, impression, style, rng), draft


def _draft(voice: Voice, problems: Sequence[Problem], macros: str) -> Draft:
    bank, style, rng = voice.bank, voice.style, voice.rng
    present = [problem for problem in problems if problem.change != "gone"]
    has_findings = rng.random() < style.findings
    has_impression = not has_findings or rng.random() < style.impression
    body: list[Sentence] = []
    impression: list[Sentence] = []
    kinds = [bank.findings[problem.kind] for problem in present]
    possible = frozenset[str]().union(*(phrase.labels for kind in kinds for phrase in kind.body + kind.impression))
    for problem, finding in zip(present, kinds, strict=True):
        words = voice.bind(problem.side, problem.change)
        labelled = any(phrase.labels for phrase in finding.body)
        concluded = rng.random() < (0.15 if not labelled else 0.35 if finding.chronic else 0.8)
        if has_findings and (rng.random() < 0.93 or not concluded):
            body.append(replace(_assertion(voice, finding.body, possible, words), place=finding.place))
            concluded = concluded and has_impression
        else:
            concluded = True
        if concluded:
            phrases = finding.impression if has_impression and has_findings else finding.body + finding.impression
            impression.append(_assertion(voice, phrases, possible, words))
    asserted = asserted_in(body + impression)

    # The normal part: either the hospital's standing words or a free choice.
    macro = rng.random() < style.macro
    normal_voice = replace(voice, rng=random.Random(f"{macros}|{rng.randrange(_MACROS)}")) if macro else voice
    normal = list(normal_part(normal_voice, asserted, present, short=not has_findings))
    body, impression = (body + normal, impression) if has_findings else (body, normal + impression)
    body += _resolved(voice, problems)
    ordered = [sentence for place in style.order for sentence in body if sentence.place == place]
    if has_impression and has_findings:
        impression += [sentence for sentence in body if sentence.place == IN_IMPRESSION]
    if bank.anatomy:
        concludes = has_impression or not ordered
    else:
        concludes = (has_impression and has_findings) or not (ordered or impression)
    if concludes:
        impression += conclusion(normal_voice, impression, asserted, bool(present))
    opening = tuple(_opening(voice))
    return Draft(opening, tuple(ordered), (*impression, *_comments(voice, bool(present))), bank.normal_label)


def _assertion(voice: Voice, options: Sequence[Phrase], possible: frozenset[str], words: dict[str, str]) -> Sentence:
    """Says one of the phrases, leaving out those that deny a label in ``possible``: another finding may assert it."""
    by_template = {phrase.template: phrase for phrase in options if not phrase.denies & possible}
    phrase = by_template[voice.pick(list(by_template))]
    text = voice.expand(phrase.template, words)
    return Sentence(text, asserts=phrase.labels, denies=phrase.denies, hedges=phrase.hedged(text), abnormal=True)


def _resolved(voice: Voice, problems: Sequence[Problem]) -> Iterator[Sentence]:
    for problem in problems:
        finding = voice.bank.findings[problem.kind]
        if problem.change == "gone" and finding.resolved:
            template = voice.rng.choice(voice.bank.sentences["resolved"])
            words = {**voice.bind(problem.side, problem.change), "thing": finding.resolved}
            yield Sentence(voice.expand(template, words), place=finding.place)


def _opening(voice: Voice) -> Iterator[Sentence]:
    bank, style, rng = voice.bank, voice.style, voice.rng
    if rng.random() < style.indication:
        yield Sentence(voice.expand(bank.indication + voice.pick(bank.sentences["indication"])))
    if rng.random() < 0.02:
        yield Sentence(bank.examination)
    elif rng.random() < style.technique:
        yield voice.say("technique")


def _comments(voice: Voice, abnormal: bool) -> Iterator[Sentence]:
    if voice.rng.random() < 0.03 and "elsewhere" in voice.bank.sentences:
        yield voice.say("elsewhere")
    elif voice.rng.random() < voice.style.comment * (1.0 if abnormal else 0.3):
        yield voice.say("comments")
