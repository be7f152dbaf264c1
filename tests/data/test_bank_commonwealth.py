"""Chest x-ray reports as in Britain and as in India: what they assert, what they deny, and how often."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from fedrad.corpora import CHEXPERT
from fedrad.data.synthetic import drafts
from fedrad.data.synthetic.bank import Bank, Phrase
from fedrad.data.synthetic.read_bank import load_bank
from fedrad.data.synthetic.style import house_style, lay_out
from tests.data.phrases import Corpus, label_matrix, said, templates

NAMES = ("chest-xray-british", "chest-xray-indian")
LABELS = tuple(name for name in CHEXPERT if name != "No Finding")

# What a sentence must contain to assert a label: written independently of the phrase banks.
SAYS = {
    "Atelectasis": r"atelecta|collapse",
    "Cardiomegaly": r"cardiomegaly|(heart|cardi|ventric|atri|ctr|c/?t ratio).*(large|increase|raised|bulky|prominent"
    r"|above|\d|greater|more than)|(large|increase|raised|prominent).*(heart|cardi|c[. /]?t[. /]|ventric)"
    r"|both the cardiac",
    "Consolidation": r"consolidat",
    "Edema": r"o?edema|congest|failure|diversion|overload|kerley|septal lines|cephali[sz]ation|decompens"
    r"|redistribution|\b(lvf|ccf)",
    "Enlarged Cardiomediastinum": r"silhouette|outline|shadow|contour|mediastin|paratracheal",
    "Fracture": r"fractur",
    "Lung Lesion": r"nodul|\bmass(?!ive)|granuloma|metasta|lesion|tumour|carcinoma|malignan|neoplas",
    "Lung Opacity": r"opaci|shadow|densit|haz[eiy]|ground.glass|infiltrat|consolidat|white-out",
    "Pleural Effusion": r"effusion|fluid|hydropneumo|pleural collection",
    "Pleural Other": r"pleura|plaque|apical cap|fissur|fibrothorax",
    "Pneumonia": r"pneumoni|infect|pneumonitis|lrti",
    "Pneumothorax": r"(?<!hydro)pneumothora|hydropneumothora",
    "Support Devices": r"wire|sutur|clip|valve|stent|pacemaker|pacing|icd|crt|device|picc|catheter|line|port|shunt|tub"
    r"|lead|tracheostomy|staple|recorder|box|drain|ett|hickman|electrode|tavi|icd|central venous|vascath|ngt|\brt\b",
}
# Words that assert a label wherever they stand, if nothing denies or hedges them. "Shadow" is also the heart's, and
# what a device is depends on its surroundings.
WORDS = {
    "Atelectasis": r"atelecta|collapse",
    "Cardiomegaly": r"cardiomegaly|cardiac enlargement|heart (is|appears|remains)?\b.*enlarged|enlarged? heart"
    r"|c\.?t\.? ?ratio|\bctr\b|cardiothoracic ratio|heart size|\b(cardiac|heart) (outline|silhouette|shadow)",
    "Consolidation": r"consolidat",
    "Edema": r"oedema|edema|congesti|(cardiac|heart|ventricular) failure|\blvf\b|\bccf\b|kerley|septal lines|overload"
    r"|diversion|cephali[sz]ation",
    "Enlarged Cardiomediastinum": r"\b(cardiac|cardiomediastinal|heart) (silhouette|outline|shadow|contour)|widen"
    r"|wide\b|mediastinal (enlarge|contour|prominen)",
    "Fracture": r"fractur",
    "Lung Lesion": r"\b(?<!reticulo-)nodul|\bmass(?!ive)|granuloma(?!tous)|metasta|cavit.*lesion"
    r"|(coin|lung|mass|cannon ?ball) lesion|tumour|carcinoma",
    "Lung Opacity": r"opaci|(?<!soft tissue )densit|\bhaz[eiy]|ground.glass|infiltrat|consolidat|shadowing",
    "Pleural Effusion": r"(?<!pericardial )effusion|pleural fluid|hydropneumo",
    "Pleural Other": r"pleural (thick|plaq|calc|scar|cap|tent)|apical caps?\b|calcified pleura|fibrothorax"
    r"|fissural thick",
    "Pneumonia": r"pneumonia|infect(?!ious hepat)|pneumonitis|lrti",
    "Pneumothorax": r"pneumothora",
    "Support Devices": r"wires|sutures|\bclips|pacemaker|catheter|\btubes?\b|\bstents?\b|central line|\bdrain\b|valve",
}
DENIAL = re.compile(r"\b(no|not|without|absent|neither|nor|free of|excluded|ruled out|removed)\b", re.IGNORECASE)
HEDGE = re.compile(
    r"\b(may|might|could|possib\w*|perhaps|suspicio\w*|suspected|questionable|equivocal|query|can ?not"
    r"|difficult|doubtful|to rule out|to exclude|(should|must|not) be excluded|r/o|d/d|versus|needs? exclusion)\b|\?",
    re.IGNORECASE,
)
# Denials that deny no label, and a heart that is named without being large.
HARMLESS = re.compile(
    r"\b(no|not|without) (complication|clinical significance|significance|action required|mediastinal shift|changed"
    r"|cleared|under tension|re-expanded|shown|be used)",
    re.IGNORECASE,
)
REMOVED = re.compile(r"\b(removed|removal of)\b", re.IGNORECASE)
UPPER_NORMAL = re.compile(r"upper (limit|end)s? of|cannot be assessed|difficult to assess", re.IGNORECASE)
# Shares of reports: every label is frequent enough to be learnt and none is usual.
RARE, USUAL, NORMAL = 0.04, 0.25, (0.25, 0.35)
LISTS = {"": "F: A. B.", "-": "F:\n- A.\n- B.", "1.": "F:\n1. A.\n2. B."}


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bank(name: str) -> Bank:
    return load_bank(name)


@pytest.fixture(scope="module")
def corpus(name: str) -> Corpus:
    return list(drafts(3000, seed=3, bank=name))


def phrases(bank: Bank, *, suspected: bool = True) -> Iterator[Phrase]:
    for name, finding in bank.findings.items():
        if suspected or not name.startswith("suspected"):
            yield from finding.body + finding.impression


def test_no_label_is_rare_and_a_third_of_the_reports_are_normal(corpus: Corpus) -> None:
    share = dict(
        zip(CHEXPERT, label_matrix(corpus).mean(axis=0), strict=True)  # type: ignore[attr-defined]
    )
    assert NORMAL[0] < share.pop("No Finding") < NORMAL[1]
    assert {label: value for label, value in share.items() if not RARE <= value <= USUAL} == {}
    unlabelled = np.mean([not any(row["labels"].values()) for row, _ in corpus])  # type: ignore[attr-defined]
    assert 0.05 < unlabelled < 0.25


@pytest.mark.parametrize("label", LABELS)
def test_every_label_is_asserted_and_denied_in_many_ways(bank: Bank, label: str) -> None:
    body = {p.template for finding in bank.findings.values() for p in finding.body if label in p.labels}
    impression = {p.template for finding in bank.findings.values() for p in finding.impression if label in p.labels}
    assert len(body) >= 18
    assert len(impression) >= 10
    denials = {phrase.template for part in bank.anatomy for phrase in part.sentences if label in phrase.labels}
    assert len(denials) >= 3


def test_hedges_assert_nothing_and_are_many(bank: Bank) -> None:
    suspected = [
        phrase
        for name, finding in bank.findings.items()
        if name.startswith("suspected")
        for phrase in finding.body + finding.impression
    ]
    assert len({phrase.template for phrase in suspected}) >= 25
    for phrase in suspected:
        assert not phrase.labels
        assert all(HEDGE.search(text) for text in said(bank, phrase.template)), phrase.template


def test_a_phrase_says_its_labels_and_no_others_and_denies_nothing(bank: Bank) -> None:
    for phrase in phrases(bank, suspected=False):
        for text in said(bank, phrase.template):
            nothing = not phrase.labels and (UPPER_NORMAL.search(text) or REMOVED.search(text))
            firm = "" if nothing else HEDGE.split(HARMLESS.sub("", text))[0]
            for label in LABELS:
                if label in phrase.labels:
                    assert re.search(SAYS[label], firm, re.IGNORECASE), (label, text)
                else:
                    assert not re.search(WORDS[label], firm, re.IGNORECASE), (label, text)
            assert not phrase.labels or not DENIAL.search(firm), text


def test_a_normal_sentence_denies_every_label_that_it_names(bank: Bank) -> None:
    """So no report that asserts a label can hold a sentence that denies it."""
    for part in bank.anatomy:
        for phrase in part.sentences:
            for text in said(bank, phrase.template):
                for label, words in WORDS.items():
                    # An opacity may be there where no consolidation is.
                    words = words.replace("consolidat|", "") if label == "Lung Opacity" else words
                    assert label in phrase.labels or not re.search(words, text, re.IGNORECASE), (label, text)


def test_a_report_without_finding_names_none_but_to_deny_it(corpus: Corpus) -> None:
    normal = [draft for row, draft in corpus if row["labels"]["No Finding"]]  # type: ignore[index]
    finding = re.compile(r"effusion|pneumothorax|consolidation|nodule|collapse|cardiomegaly|fracture", re.IGNORECASE)
    excused = re.compile(DENIAL.pattern + r"|resol|clear|disappear|regress", re.IGNORECASE)
    for draft in normal:
        for sentence in draft.findings + draft.impression:
            assert not finding.search(sentence.text) or excused.search(sentence.text), sentence.text
    others = [draft for row, draft in corpus if row["labels"]["Pleural Effusion"]]  # type: ignore[index]
    assert any(finding.search(s.text) and not excused.search(s.text) for draft in others for s in draft.sentences)


def test_what_has_resolved_is_not_asserted(bank: Bank, corpus: Corpus) -> None:
    things = {finding.resolved for finding in bank.findings.values()} - {""}
    assert len(things) >= 7
    said_to_be_gone = re.compile(
        r"has (now )?(resolved|cleared|disappeared)|(?<!partial )(resolution|clearing|clearance|disappearance) of"
        r"|no longer seen|(?<!in)completely resolved",
        re.IGNORECASE,
    )
    resolved = [s for _, draft in corpus for s in draft.sentences if said_to_be_gone.search(s.text)]
    assert len(resolved) > 20
    assert all(not sentence.asserts for sentence in resolved)


def test_banks_share_no_phrase() -> None:
    """What is learnt from one bank is of use to another only if they say things differently."""
    banks = [load_bank(name) for name in (*NAMES, "chest-xray")]
    for one, other in itertools.combinations(banks, 2):
        both = templates(one) & templates(other)
        assert len(both) <= 0.01 * len(templates(one)), both


def test_failure_comes_with_a_large_heart_and_effusions(corpus: Corpus) -> None:
    labels = label_matrix(corpus)  # type: ignore[attr-defined]
    edema = labels[:, CHEXPERT.index("Edema")]
    for name in ("Cardiomegaly", "Pleural Effusion"):
        other = labels[:, CHEXPERT.index(name)]
        assert (edema & other).mean() > 1.5 * edema.mean() * other.mean()


def test_reports_are_terse(corpus: Corpus) -> None:
    words = [len(str(row["text"]).split()) for row, _ in corpus]
    assert 20 < np.mean(words) < 60
    assert np.percentile(words, 99) < 160
    assert min(words) >= 1


def test_findings_may_be_a_list() -> None:
    style = replace(house_style(load_bank("chest-xray-indian"), 0, 0), upper=False, wrap=0, headers=("F:", ""))
    said_as = {
        bullet: lay_out([], ["A.", "B."], [], replace(style, bullet=bullet), random.Random(0)) for bullet in LISTS
    }
    assert said_as == LISTS
