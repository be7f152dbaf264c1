"""Two halves of a bank that share no phrase, to measure transfer: train on one, score on the other.

Both halves have the same findings, labels, patients, words and styles; only the sentences differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fedrad.data.synthetic.bank import Bank, Phrase


def half(bank: Bank, which: int) -> Bank:
    """One half of a bank, 0 or 1. Deterministic.

    Phrases of a finding that assert the same labels go to the halves in turn. A template that occurs in several places
    goes to the same half everywhere. A finding with a single sentence for the impression uses its body in the other
    half.
    """
    if which not in (0, 1):
        raise ValueError(f"a bank has the halves 0 and 1, not {which}")
    dealt: dict[str, int] = {}

    def mine(phrases: Sequence[Phrase]) -> tuple[Phrase, ...]:
        _deal(phrases, dealt)
        return tuple(phrase for phrase in phrases if dealt[phrase.template] == which)

    findings = {}
    for name, finding in bank.findings.items():
        body, impression = mine(finding.body), mine(finding.impression)
        findings[name] = replace(finding, body=body, impression=impression or body)
    sentences = {
        key: tuple(phrase.template for phrase in mine([Phrase(frozenset(), template) for template in templates]))
        for key, templates in bank.sentences.items()
    }
    anatomy = tuple(replace(part, sentences=mine(part.sentences)) for part in bank.anatomy)
    return replace(bank, findings=findings, sentences=sentences, anatomy=anatomy)


def _deal(phrases: Sequence[Phrase], dealt: dict[str, int]) -> None:
    """Gives each new phrase to the half that has fewer with the same labels, or else fewer of these phrases."""
    known = [(dealt[phrase.template], phrase.labels) for phrase in phrases if phrase.template in dealt]
    same, all_ = Counter(known), Counter(where for where, _ in known)
    for phrase in phrases:
        if phrase.template not in dealt:
            where = min((0, 1), key=lambda one: (same[one, phrase.labels], all_[one]))
            dealt[phrase.template] = where
            same[where, phrase.labels] += 1
            all_[where] += 1
