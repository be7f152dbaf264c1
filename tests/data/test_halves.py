"""Halves of a phrase bank: nothing in common, and nothing missing."""

from __future__ import annotations

import pytest

from fedrad.corpora import BANKS
from fedrad.data.synthetic import drafts
from fedrad.data.synthetic.bank import Bank
from fedrad.data.synthetic.halves import half
from fedrad.data.synthetic.read_bank import load_bank


def templates(bank: Bank) -> set[str]:
    phrases = {phrase.template for finding in bank.findings.values() for phrase in finding.body + finding.impression}
    phrases |= {phrase.template for part in bank.anatomy for phrase in part.sentences}
    return phrases | {template for group in bank.sentences.values() for template in group}


@pytest.mark.parametrize("name", BANKS)
def test_halves_share_no_template_and_together_are_the_bank(name: str) -> None:
    bank = load_bank(name)
    first, second = half(bank, 0), half(bank, 1)
    assert templates(first) & templates(second) == set()
    assert templates(first) | templates(second) == templates(bank)
    assert 0.4 < len(templates(first)) / len(templates(bank)) < 0.6
    assert half(bank, 0) == first


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("which", [0, 1])
def test_a_half_keeps_every_finding_label_and_group(name: str, which: int) -> None:
    bank = load_bank(name)
    part = half(bank, which)
    assert list(part.findings) == list(bank.findings)
    for name, finding in part.findings.items():
        assert finding.body, name
        assert finding.impression, name
        asserted = frozenset().union(*(phrase.labels for phrase in bank.findings[name].body))
        kept = frozenset().union(*(phrase.labels for phrase in finding.body))
        assert bool(kept) == bool(asserted), name
    assert all(part.sentences.values())
    assert all(one.sentences for one in part.anatomy)
    spoken = {label for finding in part.findings.values() for phrase in finding.body for label in phrase.labels}
    assert spoken == set(bank.labels) - {bank.normal_label}


@pytest.mark.parametrize("name", BANKS)
def test_halves_tell_of_the_same_patients_in_other_words(name: str) -> None:
    one, other = (list(drafts(400, 0, bank=name, half=which)) for which in (0, 1))
    assert [row["time"] for row, _ in one] == [row["time"] for row, _ in other]
    said = [{sentence.text for _, draft in part for sentence in draft.sentences} for part in (one, other)]
    assert len(said[0] & said[1]) < 0.05 * len(said[0])
    assert list(drafts(5, 0, bank=name, half=0)) == one[:5]


def test_there_are_two() -> None:
    with pytest.raises(ValueError, match="halves 0 and 1"):
        half(load_bank("chest-xray"), 2)
