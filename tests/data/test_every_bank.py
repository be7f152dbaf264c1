"""What holds for every phrase bank: labels and sentences agree, every phrase expands, halves share nothing."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from fedrad.corpora import BANKS
from fedrad.data.load import load_corpus
from fedrad.data.report import label_names
from fedrad.data.synthetic import drafts, generate
from fedrad.data.synthetic.halves import half
from fedrad.data.synthetic.read_bank import load_bank
from tests.data.phrases import said, templates


@pytest.mark.parametrize("name", BANKS)
def test_labels_are_what_the_sentences_assert(name: str) -> None:
    normal = {load_bank(name).normal_label} - {""}
    for row, draft in drafts(1000, seed=3, sites=6, bank=name):
        assert tuple(row["labels"]) == BANKS[name]
        positive = {label for label, value in row["labels"].items() if value}
        asserted = set().union(*(sentence.asserts for sentence in draft.sentences))
        assert positive == (asserted if any(sentence.abnormal for sentence in draft.sentences) else normal)
        denied = set().union(*(sentence.denies for sentence in draft.sentences))
        assert not positive & denied, "a report contradicts itself"


@pytest.mark.parametrize("name", BANKS)
def test_every_phrase_expands(name: str) -> None:
    bank = load_bank(name)
    for template in templates(bank):
        if not {"<thing>", "<Thing>", "<negative>"} & set(re.findall(r"<\w+>", template)):
            for text in said(bank, template, 3):
                assert not re.search(r"[\[\]<>|]|  | [.,]|^\W*$", text), text


@pytest.mark.parametrize("name", BANKS)
def test_it_is_a_corpus(name: str, tmp_path: Path) -> None:
    corpus = load_corpus("synthetic", reports=5, bank=name, cache_dir=tmp_path)
    assert label_names(corpus.features) == BANKS[name]
    assert corpus["text"][:] == [row["text"] for row in generate(5, 0, bank=name)]


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
    for kind, finding in part.findings.items():
        assert finding.body, kind
        assert finding.impression, kind
        asserted = frozenset().union(*(phrase.labels for phrase in bank.findings[kind].body))
        kept = frozenset().union(*(phrase.labels for phrase in finding.body))
        assert bool(kept) == bool(asserted), kind
    assert all(part.sentences.values())
    assert all(one.sentences for one in part.anatomy)
    spoken = Counter(label for f in part.findings.values() for phrase in set(f.body) for label in phrase.labels)
    assert spoken.keys() == set(bank.labels) - {bank.normal_label}
    if name in ("chest-xray-british", "chest-xray-indian"):
        assert min(spoken.values()) >= 8


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
