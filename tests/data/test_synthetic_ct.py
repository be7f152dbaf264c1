"""Generated chest CT reports of both banks: what they assert, what they deny, and how often."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fedrad.corpora import CT_RATE
from fedrad.data.synthetic import drafts
from fedrad.data.synthetic.bank import Bank
from fedrad.data.synthetic.read_bank import load_bank
from tests.data.phrases import Corpus, label_matrix, said

# What a sentence must contain to assert a label: written independently of the phrase banks.
SAYS = {
    "Medical material": r"wire|sutur|clip|stent|pace[mr]|pacing|\ba?icd|\bcvc\b"
    r"|mediport|\brods?\b|catheter|\bport\b|portacath|port-a|picc|tube|cannula"
    r"|prosthe|implant|material|hardware|screw|\blead|electrode|\bdevice|\bdrain|\blines?\b|staple|expander|filter|coil|occluder",
    "Arterial wall calcification": r"calci.*(aort|arter|vascul|wall|plaque)|(aort|arter|vascul|wall).*calci",
    "Cardiomegaly": r"cardiomegaly|heart.*(size|dimension|enlarge|large|measures)|(dimensions|size) of the heart"
    r"|cardiac.*(enlarge|size|large|diameter)|enlarge(d|ment of the) (heart|cardiac)",
    "Pericardial effusion": r"pericardi",
    "Coronary artery wall calcification": r"coronar.*calci|calci.*(coronar|LAD|left anterior|left main)"
    r"|(LAD|left anterior descending artery).*calci",
    "Hiatal hernia": r"hernia",
    "Lymphadenopathy": r"adenopath|((?<!non-)enlarge|pathological|bulky).*node|nodes?.*(enlarged|patholog)",
    "Emphysema": r"emphysem",
    "Atelectasis": r"atelecta",
    "Lung nodule": r"\b(micro)?nodules?\b",
    "Lung opacity": r"ground.glass|opaci|densit|infiltrat|crazy",
    "Pulmonary fibrotic sequela": r"sequela|fibro|scar",
    "Pleural effusion": r"pleural.*(effusion|fluid)|fluid.*pleural|effusions?,? .*pleural",
    "Mosaic attenuation pattern": r"mosaic",
    "Peribronchial thickening": r"peribronch|bronchial wall|walls? of the bronch|bronchi: wall",
    "Consolidation": r"consolidat",
    "Bronchiectasis": r"bronchiecta",
    "Interlobular septal thickening": r"(?<!para)(?<!intralobular )sept(a|al)\b|crazy",
}
# Words that assert a label wherever they stand, if nothing denies or hedges them. What makes an opacity, and what a
# medical material is, depends on its surroundings.
NAMES = {
    name: says for name, says in SAYS.items() if name not in ("Medical material", "Arterial wall calcification")
} | {
    "Medical material": r"sternotomy wire|pacemaker|\bPICC\b|chest tube|endotracheal tube|(breast|valve) prosthe|clips",
    "Arterial wall calcification": r"\baort(a|ic)\b(?! valv)[^,.]*(?<!non)(?<!non-)calci"
    r"|(?<!non)(?<!non-)calci[^,.]*\baort(a|ic)\b(?! valv)"
    r"|(?<!coronary )arterial calci",
    "Cardiomegaly": r"cardiomegaly|(?<!right )heart.*(size|normal in size|dimension|enlarged)",
    "Lung opacity": r"ground.glass (opaci|densit|area)|(?<!nodular )\bopacit|(?<!fatty )infiltra|crazy",
    "Lung nodule": r"(?<!thyroid )(?<!adrenal )(?<!tissue )(?<!schmorl )\bnodules?\b(?! of the (left|right) thyroid)",
    "Pericardial effusion": r"pericardial effusion",
    "Hiatal hernia": r"hiat(al|us) hernia",
    "Emphysema": r"(?<!subcutaneous )(?<!surgical )emphysem",
    "Pulmonary fibrotic sequela": r"fibrotic|(?<!cystic )fibrosis|\bscar(?!red kidney)"
    r"|(?<!, )sequelae? (changes|densit)",
    "Pleural effusion": r"pleural (effusion|fluid)|pleural or peric|pleural thickening-eff",
    "Peribronchial thickening": r"peribronchial (thick|cuff)|bronchial wall",
    "Interlobular septal thickening": r"(?<!intralobular )\bseptal (thick|lines)|interlobular septa|crazy",
}
# Training split of CT-RATE, in the order of its label files.
PREVALENCE = (
    0.102, 0.284, 0.107, 0.071, 0.248, 0.142, 0.253, 0.194, 0.256, 0.455, 0.367, 0.267, 0.119, 0.074, 0.103, 0.176,
    0.100, 0.079,
)  # fmt: skip
# "No change in the nodule" asserts a nodule.
DENIAL = re.compile(
    r"\b(no(?! change)|not(?! significantly changed)|without|absent|neither|nor|free of|excluded|ruled out"
    r"|resolved|resolves|resolution"
    r"|removed|removal|cleared|clearance|no longer)\b",
    re.IGNORECASE,
)
HEDGE = re.compile(
    r"\b(may|could|possibl[ey]|suspicio\w+|suspected|questionable|cannot|concerning|query|equivocal"
    r"|difficult to exclude|might|versus|raises?|uncertain|unclear|doubtful)\b|\?",
    re.IGNORECASE,
)


# Least number of sentences for each label: in the findings, in the impression, and to deny it.
LEAST = {"chest-ct": (25, 7, 5), "chest-ct-western": (22, 10, 5)}
RESOLVED = r"disappeared|egression of|not observed in the cur|esolution of|has resolved|no longer"
# The findings that are only suspected, and those that are no longer there, by the beginning of their names.
SUSPECTED, GONE = ("uncertain", "hedged"), ("resolved: ",)


@pytest.fixture(scope="module", params=["chest-ct", "chest-ct-western"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bank(name: str) -> Bank:
    return load_bank(name)


@pytest.fixture(scope="module")
def turkish() -> Corpus:
    return list(drafts(3000, seed=3, bank="chest-ct"))


@pytest.fixture(scope="module")
def western() -> Corpus:
    return list(drafts(3000, seed=3, sites=6, bank="chest-ct-western"))


@pytest.fixture
def corpus(name: str, turkish: Corpus, western: Corpus) -> Corpus:
    return {"chest-ct": turkish, "chest-ct-western": western}[name]


def named_in(text: str) -> set[str]:
    return {label for label, names in NAMES.items() if re.search(names, text, re.IGNORECASE)}


def test_labels_are_about_as_frequent_as_in_ct_rate(turkish: Corpus) -> None:
    found = label_matrix(turkish).mean(axis=0)
    for label, value, wanted in zip(CT_RATE, found, PREVALENCE, strict=True):
        assert 0.75 * wanted < value < 1.25 * wanted, (label, value, wanted)


def test_western_reports_have_every_label_and_none(western: Corpus) -> None:
    labels = label_matrix(western)
    for label, value in zip(CT_RATE, labels.mean(axis=0), strict=True):
        assert 0.06 < value < 0.35, (label, value)
    assert 0.08 < (labels.sum(axis=1) == 0).mean() < 0.18


def test_every_label_is_asserted_and_denied_in_many_ways(name: str, bank: Bank) -> None:
    found = bank.findings.values()
    for label in CT_RATE:
        body = {phrase.template for finding in found for phrase in finding.body if label in phrase.labels}
        impression = {phrase.template for finding in found for phrase in finding.impression if label in phrase.labels}
        assert len(body) >= LEAST[name][0], label
        assert len(impression) >= LEAST[name][1], label
        denials = {phrase.template for part in bank.anatomy for phrase in part.sentences if label in phrase.labels}
        assert len(denials) >= LEAST[name][2], label


def test_the_banks_share_no_sentence_about_a_label() -> None:
    one, other = (
        {p.template for f in load_bank(name).findings.values() for p in f.body + f.impression if p.labels}
        for name in ("chest-ct", "chest-ct-western")
    )
    assert not one & other


def test_a_phrase_says_its_labels_and_no_others(bank: Bank) -> None:
    """What comes before the first hedge or denial says every label of the phrase, and nothing says another."""
    for name, finding in bank.findings.items():
        for phrase in () if name.startswith(SUSPECTED + GONE) else finding.body + finding.impression:
            for text in said(bank, phrase.template):
                firm = DENIAL.split(HEDGE.split(text)[0])[0]
                for label in phrase.labels:
                    assert re.search(SAYS[label], firm, re.IGNORECASE), (label, text)
                assert named_in(firm) <= phrase.labels, text
                # A denial in such a sentence is of something that has no label ("without cavitation").
                assert not phrase.labels or named_in(HEDGE.split(text)[0]) <= phrase.labels, text


def test_a_normal_sentence_denies_every_label_that_it_names(bank: Bank) -> None:
    """So no report that asserts a label can hold a sentence that denies it."""
    for part in bank.anatomy:
        for phrase in part.sentences:
            for text in said(bank, phrase.template):
                assert named_in(text) <= phrase.labels, text


def test_what_is_suspected_asserts_nothing(bank: Bank) -> None:
    phrases = [p for n, f in bank.findings.items() if n.startswith(SUSPECTED) for p in f.body + f.impression]
    assert len(phrases) >= 25
    for phrase in phrases:
        assert not phrase.labels
        for text in said(bank, phrase.template):
            assert HEDGE.search(text), text


def test_what_has_resolved_asserts_nothing(bank: Bank, corpus: Corpus) -> None:
    """Nor does the report say elsewhere that it is there."""
    gone = {n: f for n, f in bank.findings.items() if n.startswith(GONE)}
    assert len(gone) >= 8
    for finding, phrases in gone.items():
        label = finding.removeprefix(GONE[0])
        assert label in CT_RATE
        assert not any(phrase.labels for phrase in phrases.body + phrases.impression)
        for other, there in bank.findings.items():
            if any(label in phrase.labels for phrase in there.body + there.impression):
                assert any({finding, other} <= group for group in bank.patients.exclusive), (finding, other)
    resolved = [s for _, draft in corpus for s in draft.sentences if re.search(RESOLVED, s.text)]
    assert len(resolved) > 60
    assert all(not sentence.asserts for sentence in resolved)


def test_findings_come_together(corpus: Corpus) -> None:
    labels = label_matrix(corpus)
    aorta, coronary = CT_RATE.index("Arterial wall calcification"), CT_RATE.index("Coronary artery wall calcification")
    together = (labels[:, aorta] & labels[:, coronary]).mean()
    assert together > 1.7 * labels[:, aorta].mean() * labels[:, coronary].mean()
    assert (labels.sum(axis=1) == 0).mean() > 0.02  # normal reports


def test_reports_are_long_and_of_one_kind_a_site(turkish: Corpus) -> None:
    words = [len(str(row["text"]).split()) for row, _ in turkish]
    assert 80 < np.mean(words) < 180
    assert min(words) > 3
    by_site = {site: [str(r["text"]) for r, _ in turkish if r["site"] == site] for site in ("site-0", "site-1")}
    assert np.mean(["IMPRESSION:" in text for text in by_site["site-1"]]) > 0.6
    assert not any("IMPRESSION:" in text for text in by_site["site-0"])


def test_western_reports_have_sections_bullets_or_prose(western: Corpus) -> None:
    rows = [row for row, _ in western[:600]]
    texts = {site: [str(row["text"]) for row in rows if row["site"] == f"site-{site}"] for site in range(6)}
    assert np.mean(["\nHEART: " in text and "\nPLEURA: " in text for text in texts[0]]) > 0.5
    for text in texts[0]:
        headers = re.findall(r"^([A-Z/ ]+):", text, re.MULTILINE)
        assert len(headers) == len(set(headers)), text
    assert not any("\n" in text for text in texts[1])
    for text in texts[2]:
        lines = text.split("\n")
        assert sum(line.startswith("- ") for line in lines) >= len(lines) - 3, text
