"""Generated reports of hospitals that a public model has not seen: other words and other rules than ``chest-xray``."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB

from fedrad.corpora import BANKS, CHEXPERT
from fedrad.data.synthetic import drafts, generate
from fedrad.data.synthetic.read_bank import load_bank
from fedrad.data.synthetic.style import house_style
from tests.data.phrases import Corpus, label_matrix, said, templates

NAME = "chest-xray-hospitals"
BANK = load_bank(NAME)
STYLE = house_style(BANK, 0, 0)

# What a sentence must contain to assert a label: written independently of the phrase bank.
SAYS = {
    "Atelectasis": r"atelecta|collapse",
    "Cardiomegaly": r"heart|cardi|ctr|left ventricular",
    "Consolidation": r"consolidat",
    "Edema": r"o?edema|septal lines|kerley|interstitial lines|congest|diversion|engorged",
    "Enlarged Cardiomediastinum": r"mediastin|thoracic inlet",
    "Fracture": r"fracture|#|broken",
    "Lung Lesion": r"nodul|lesion|mass|tumour|granulom",
    "Lung Opacity": r"shadow|opaci|densit|airspace|infiltrat|consolidat|pneumoni|atelecta|collapse",
    "Pleural Effusion": r"effusion|fluid|pleural collection|h(ydro|aemo)pneumothorax",
    "Pleural Other": r"pleura|pleurisy|pleuritic|plaque|fibrous thickening",
    "Pneumonia": r"pneumoni",
    "Pneumothorax": r"pneumothorax|ptx",
    "Support Devices": r"line|cvc|picc|port|dialysis catheter|shunt|tube|\bng|ett|drain|tracheostomy|pump|swan|ecmo"
    r"|leads|icd|pacing|pacemaker|defibrillator|recorder|valve|clips|wires",
}
# Words that assert a label wherever they stand, if nothing denies or hedges them.
NAMES = {
    "Atelectasis": r"atelecta|(lobar|basal) collapse|collapse of the",
    "Cardiomegaly": r"^(?!.*(upper|limit|top of|high.normal))"
    r".*(cardiomegaly|heart.*\b(size|big|large|enlarge|dilated)|cardiac (dilat|silhouette)|ctr)",
    "Consolidation": r"consolidat",
    "Edema": r"o?edema|septal lines|kerley|congest|diversion",
    "Enlarged Cardiomediastinum": r"(broad|wide|bulky|enlarge).*(mediast|inlet)|mediast.*(broad|wide|bulk)|pedicle",
    "Fracture": r"\bfracture|# |\bbroken (rib|right|left)",
    "Lung Lesion": r"\bnodule|\bmass\b|tumour|coin lesion|granulom",
    "Lung Opacity": r"shadowing|\bopaci\w+|airspace (shad|change)|infiltrat|consolidat|pneumoni|atelecta"
    r"|(lobar|basal) collapse",
    "Pleural Effusion": r"\beffusion|\bfluid (level|in|at|on|and)|hydropneumo",
    "Pleural Other": r"plaque|thicken\w+ (of the )?\w* ?pleura|pleural? (thicken|adhes|fibros|rind)",
    "Pneumonia": r"pneumoni",
    "Pneumothorax": r"pneumothorax|ptx",
    "Support Devices": r"\b(cvc|picc|ett|ngt|icd|pacemaker|tracheostomy|clips|wires)\b",
}
DENIAL = re.compile(r"\b(no|not|without|absent|neither|nor|nil|none|free of)\b", re.IGNORECASE)
HEDGE = re.compile(
    r"\b(may be|could|possib\w+|potential|suspected|suspicion|query|questionable|not excluded"
    r"|can't be (excluded|ruled out))\b|\?",
    re.IGNORECASE,
)
# The rules where reporting is ambiguous: findings, and the labels of all their phrases. These are this bank's own ...
OWN_RULES = {
    "silhouette": {"Cardiomegaly"},
    "consolidation": {"Consolidation", "Lung Opacity"},
    "collapse": {"Atelectasis", "Lung Opacity"},
    "plate atelectasis": {"Atelectasis", "Lung Opacity"},
}
# ... and these as in ``chest-xray``.
USUAL_RULES = {
    "borderline heart": set[str](),
    "unfolded aorta": set[str](),
    "wide mediastinum": {"Enlarged Cardiomediastinum"},
    "congestion": {"Edema"},
    "apical scarring": set[str](),
    "vertebral compression": set[str](),
    "suspected consolidation": set[str](),
    "suspected pneumonia": set[str](),
    "granuloma": {"Lung Lesion"},
    "nodes": set[str](),
    "wires and clips": {"Support Devices"},
    "operated": set[str](),
    "suspected": set[str](),
}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return list(drafts(4000, seed=3, bank=NAME))


def labels_of(rows: list[dict[str, object]]) -> np.ndarray:
    return np.array([list(row["labels"].values()) for row in rows])  # type: ignore[attr-defined]


@pytest.mark.parametrize("other", sorted(set(BANKS) - {NAME}))
def test_no_phrase_is_another_banks(other: str, corpus: Corpus) -> None:
    assert not templates(BANK) & templates(load_bank(other))
    mine = {sentence.text.lower() for _, draft in corpus for sentence in draft.sentences}
    theirs = {sentence.text.lower() for _, draft in drafts(1000, seed=3, bank=other) for sentence in draft.sentences}
    assert len(mine & theirs) < 0.004 * len(mine), mine & theirs  # "NAD.", "no nodule."


def test_every_label_is_asserted_and_denied_in_many_ways() -> None:
    for name in set(CHEXPERT) - {"No Finding"}:
        body, impression = (
            {p.template for finding in BANK.findings.values() for p in getattr(finding, part) if name in p.labels}
            for part in ("body", "impression")
        )
        assert len(body) >= 15, name
        assert len(impression) >= 8, name
        assert sum(name in phrase.labels for part in BANK.anatomy for phrase in part.sentences) >= 3, name


def test_a_phrase_says_its_labels_and_no_others_and_denies_nothing() -> None:
    for name, finding in BANK.findings.items():
        for phrase in finding.body + finding.impression if not name.startswith("suspected") else ():
            for text in said(BANK, phrase.template):
                firm = HEDGE.split(text)[0]
                for label, says in SAYS.items():
                    assert label not in phrase.labels or re.search(says, firm, re.IGNORECASE), (label, text)
                for label, names in NAMES.items():
                    assert label in phrase.labels or not re.search(names, firm, re.IGNORECASE), (label, text)
                assert not phrase.labels or not DENIAL.search(HEDGE.sub("", firm)), text


def test_a_normal_sentence_denies_every_label_that_it_names() -> None:
    """So no report that asserts a label can hold a sentence that denies it."""
    for part in BANK.anatomy:
        for phrase in part.sentences:
            for text in said(BANK, phrase.template):
                for label, names in NAMES.items():
                    assert label in phrase.labels or not re.search(names, text, re.IGNORECASE), (label, text)


def test_the_rules_of_its_own_and_the_usual_ones() -> None:
    for name, labels in (OWN_RULES | USUAL_RULES).items():
        for phrase in BANK.findings[name].body + BANK.findings[name].impression:
            assert phrase.labels == labels, phrase.template
    for name in ("suspected", "suspected pneumonia", "suspected consolidation"):
        for phrase in BANK.findings[name].body:
            assert all(
                HEDGE.search(text) or "of limited" in text or "could" in text for text in said(BANK, phrase.template)
            )


def test_lung_opacity_is_a_parent() -> None:
    for finding in BANK.findings.values():
        for phrase in finding.body + finding.impression:
            children = phrase.labels & {"Pneumonia", "Consolidation", "Atelectasis"}
            assert "Lung Opacity" in phrase.labels or not children, phrase


def test_resolved_findings_are_not_asserted(corpus: Corpus) -> None:
    resolved = [
        s for _, d in corpus for s in d.sentences if re.search(r"clearance|now (gone|clear)|cleared (up|com)", s.text)
    ]
    assert len(resolved) > 20
    assert all(not sentence.asserts for sentence in resolved)


def test_prevalences(corpus: Corpus) -> None:
    labels = label_matrix(corpus)
    share = dict(zip(CHEXPERT, labels.mean(axis=0), strict=True))
    assert 0.25 < share["No Finding"] < 0.35
    assert all(0.03 < value < 0.3 for name, value in share.items() if name != "No Finding"), share
    assert 0.05 < (labels.sum(axis=1) == 0).mean() < 0.15  # findings outside the fourteen


def test_hospitals_can_be_told_apart_by_their_words(corpus: Corpus) -> None:
    headers = "|".join(header for style in BANK.styles for header in style.headers if header)
    texts = [re.sub(rf"{headers}|xxxx|___|\*\*\*", "", str(row["text"]), flags=re.IGNORECASE) for row, _ in corpus]
    sites = np.array([row["site"] for row, _ in corpus])
    counts = CountVectorizer(ngram_range=(1, 2), min_df=5).fit_transform(texts)
    assert MultinomialNB().fit(counts[:3000], sites[:3000]).score(counts[3000:], sites[3000:]) > 0.5  # chance: 0.25


def test_its_rules_can_be_learnt_from_its_words_and_not_from_another_banks() -> None:
    def rows(count: int, seed: int, bank: str) -> tuple[list[str], np.ndarray]:
        made = list(generate(count, seed, bank=bank))
        return [row["text"] for row in made], labels_of(made)

    texts, truth = rows(1000, 77, NAME)

    def score(bank: str) -> float:
        learnt, labels = rows(3000, 5, bank)
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"(?u)[#\w][\w/]*")
        features = words.fit_transform(learnt)
        model = LogisticRegression(C=100, class_weight="balanced", solver="liblinear")
        guessed = OneVsRestClassifier(model).fit(features, labels).predict(words.transform(texts))
        return float(f1_score(truth, guessed, average="weighted", zero_division=0))

    assert score(NAME) > 0.9
    assert score("chest-xray") < 0.6
