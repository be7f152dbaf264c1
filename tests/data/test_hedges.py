"""Hedged findings in generated reports: which labels they suspect, and what these count as."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedrad.corpora import BANKS, CHEXPERT
from fedrad.data.load import load_corpus
from fedrad.data.report import label_matrix
from fedrad.data.synthetic import drafts, generate, read_bank
from fedrad.data.synthetic.bank import Bank, Hedge, Phrase
from fedrad.data.synthetic.read_bank import load_bank
from fedrad.errors import ConfigError, DataError
from tests.data.phrases import said

FIRST = "LO | <there_is> <chg> <degree> <texture> opacity <where>."


def edited(tmp_path: Path, codes: str) -> Path:
    """The bank of chest x-rays with other codes before its first opacity."""
    bank = Path(shutil.copytree(Path(read_bank.__file__).parent / "banks" / "chest_xray", tmp_path / "bank"))
    file = bank / "findings" / "lungs.toml"
    text = file.read_text("utf-8")
    assert FIRST in text
    file.write_text(text.replace(FIRST, FIRST.replace("LO", codes, 1)), "utf-8")
    return bank


# Notation


@pytest.mark.parametrize(
    ("codes", "labels", "hedges"),
    [
        ("?PE", set(), (Hedge("Pleural Effusion"),)),
        ("LO ?PN", {"Lung Opacity"}, (Hedge("Pneumonia"),)),
        ("LO !ED ?LL:hazy,air_space", {"Lung Opacity"}, (Hedge("Lung Lesion", ("hazy", "air space")),)),
    ],
)
def test_a_phrase_may_hedge(tmp_path: Path, codes: str, labels: set[str], hedges: tuple[Hedge, ...]) -> None:
    phrase = read_bank.read_bank(edited(tmp_path, codes), CHEXPERT).findings["opacity"].body[0]
    assert (phrase.labels, phrase.hedges) == (labels, hedges)


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        ("?XX", "opacity.body, line 1: unknown label code 'XX'"),
        ("LO ?LO", "opacity.body, line 1: hedges 'LO' and asserts or denies it"),
        ("!ED ?ED:edema", "opacity.body, line 1: hedges 'ED' and asserts or denies it"),
        ("?PE:", "opacity.body, line 1: ?PE: needs its words"),
        ("?PE:fluid,", "opacity.body, line 1: ?PE: needs its words"),
        ("?PE:Fluid", "opacity.body, line 1: ?PE: needs its words in small letters"),
    ],
)
def test_what_is_wrong_with_a_hedge_is_said(tmp_path: Path, codes: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        read_bank.read_bank(edited(tmp_path, codes), CHEXPERT)
    assert says in str(error.value)


def test_words_choose_among_what_a_template_may_say() -> None:
    phrase = Phrase(
        frozenset(), "", hedges=(Hedge("Edema", ("edema",)), Hedge("Pneumonia", ("pneumonia", "infection")))
    )
    assert phrase.hedged("Early Pneumonia cannot be excluded.") == {"Pneumonia"}
    assert phrase.hedged("Mild edema or infection is possible.") == {"Edema", "Pneumonia"}
    assert phrase.hedged("Aspiration cannot be excluded.") == set()


# The banks


def hedging(bank: Bank) -> list[Phrase]:
    """The phrases that hedge something, each template once."""
    phrases = (phrase for finding in bank.findings.values() for phrase in finding.body + finding.impression)
    return list({phrase.template: phrase for phrase in phrases if phrase.hedges}.values())


@pytest.mark.parametrize("name", BANKS)
def test_each_word_of_a_hedge_is_said_and_none_is_said_always(name: str) -> None:
    bank = load_bank(name)
    assert len(hedging(bank)) >= 25
    for phrase in hedging(bank):
        times = 100 if any(hedge.words for hedge in phrase.hedges) else 0
        texts = [text.lower() for text in said(bank, phrase.template, times)]
        for hedge in phrase.hedges:
            assert all(any(word in text for text in texts) for word in hedge.words), (phrase.template, hedge)
            if hedge.words:
                assert any(hedge.label not in phrase.hedged(text) for text in texts), (phrase.template, hedge)


@pytest.mark.parametrize(
    ("name", "begins", "suspects"),
    [
        ("chest-xray", "Question small left effusion.", {"Pleural Effusion"}),
        ("chest-xray", "Small right pleural effusion versus thickening", {"Pleural Other"}),
        ("chest-xray-icu", "Cannot exclude subtle pneumonia", {"Pneumonia"}),
        ("chest-xray-icu", "Cardiac silhouette may be enlarged", {"Cardiomegaly", "Enlarged Cardiomediastinum"}),
        ("chest-xray-british", "? LRTI.", {"Pneumonia"}),
        ("chest-xray-indian", "Active Koch's can not be ruled out", set()),
        ("chest-xray-indian", "Query early consolidation", {"Consolidation", "Lung Opacity"}),
        ("chest-xray-hospitals", "Crowding at the left base in which pneumonia", {"Pneumonia", "Lung Opacity"}),
        ("chest-ct", "Hiatal hernia?", {"Hiatal hernia"}),
        ("chest-ct", "Hilar lymphadenopathy cannot be excluded", {"Lymphadenopathy"}),
        ("chest-ct", "Hilar lymphadenopathy cannot be evaluated", set()),
        ("chest-ct-western", "Possibly minimal scarring or atelectasis", {"Pulmonary fibrotic sequela", "Atelectasis"}),
        ("chest-ct-western", "Possible atypical pneumonia", set()),  # no label of CT-RATE
    ],
)
def test_sentences_suspect_what_they_name(name: str, begins: str, suspects: set[str]) -> None:
    bank = load_bank(name)
    found = [
        phrase.hedged(text)
        for phrase in hedging(bank)
        for text in said(bank, phrase.template, 100)
        if text.startswith(begins)
    ]
    assert found
    assert all(one == suspects for one in found)


# Their labels


@pytest.mark.parametrize("name", BANKS)
def test_hedged_labels_follow_the_policy_and_nothing_else_does(name: str) -> None:
    written = list(drafts(300, 5, bank=name))
    for uncertain, value in (("negative", 0), ("positive", 1), ("ignore", -1)):
        rows = list(generate(300, 5, bank=name, uncertain=uncertain))
        assert [row["text"] for row in rows] == [row["text"] for row, _ in written]
        for row, (_, draft) in zip(rows, written, strict=True):
            expected = {
                label: 1 if label in draft.positives else value * (label in draft.hedged) for label in BANKS[name]
            }
            assert row["labels"] == expected
            assert not (draft.hedged and row["labels"].get("No Finding"))
    assert sum(bool(draft.hedged) for _, draft in written) >= 5


def test_what_is_asserted_elsewhere_is_not_hedged() -> None:
    both = [
        (row, label)
        for row, draft in drafts(1500, 1, bank="chest-xray-icu")
        for label in draft.positives
        if any(label in sentence.hedges for sentence in draft.sentences)
    ]
    assert both
    assert all(row["labels"][label] == 1 for row, label in both)


def test_another_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.uncertain"):
        next(generate(1, 0, uncertain="maybe"))


def test_a_generated_corpus_follows_the_policy(tmp_path: Path) -> None:
    negative, positive, ignore = (
        load_corpus("synthetic", reports=200, bank="chest-xray-icu", uncertain=uncertain, cache_dir=tmp_path)
        for uncertain in ("negative", "positive", "ignore")
    )
    assert negative["text"] == positive["text"] == ignore["text"]
    hedged = label_matrix(ignore) == -1
    assert hedged.any()
    assert ((label_matrix(positive) - label_matrix(negative) == 1) == hedged).all()
