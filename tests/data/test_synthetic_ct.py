"""Generated chest CT reports: what they assert, what they deny, and how often."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest

from fedrad.data.labels import CT_RATE
from fedrad.data.load import load_corpus
from fedrad.data.report import label_names
from fedrad.data.synthetic import Draft, drafts
from fedrad.data.synthetic.grammar import Taste, expand
from fedrad.data.synthetic.read_bank import load_bank
from fedrad.data.synthetic.style import house_style
from fedrad.data.synthetic.write import bind

BANK = load_bank("chest-ct")
STYLE = house_style(BANK, 0, 0)

# What a sentence must contain to assert a label: written independently of the phrase bank.
SAYS = {
    "Medical material": r"wire|sutur|clip|stent|pacemaker|icd|catheter|port|picc|tube|cannula|prosthe|implant|material"
    r"|hardware|screw|lead|electrode",
    "Arterial wall calcification": r"calci.*(aort|arter|vascul|wall|plaque)|(aort|arter|vascul|wall).*calci",
    "Cardiomegaly": r"cardiomegaly|heart.*(size|dimension|enlarge|large)|dimensions of the heart|cardiac enlargement",
    "Pericardial effusion": r"pericardial",
    "Coronary artery wall calcification": r"coronar.*calci|calci.*(coronar|LAD|left anterior)",
    "Hiatal hernia": r"hernia",
    "Lymphadenopathy": r"adenopath|(enlarged|pathological).*lymph node|lymph nodes?.*(enlarged|patholog)",
    "Emphysema": r"emphysem",
    "Atelectasis": r"atelecta",
    "Lung nodule": r"\bnodules?\b",
    "Lung opacity": r"ground.glass|opaci|densit|infiltrat|crazy",
    "Pulmonary fibrotic sequela": r"sequela|fibro|scar",
    "Pleural effusion": r"pleural.*(effusion|fluid)",
    "Mosaic attenuation pattern": r"mosaic",
    "Peribronchial thickening": r"peribronch|bronchial wall",
    "Consolidation": r"consolidat",
    "Bronchiectasis": r"bronchiecta",
    "Interlobular septal thickening": r"(?<!para)septa|crazy",
}
# Words that assert a label wherever they stand, if nothing denies or hedges them. What makes an opacity, and what a
# medical material is, depends on its surroundings.
NAMES = {
    name: says for name, says in SAYS.items() if name not in ("Medical material", "Arterial wall calcification")
} | {
    "Arterial wall calcification": r"\baort(a|ic)\b[^,.]*calci|calci[^,.]*\baort(a|ic)\b|(?<!coronary )arterial calci",
    "Cardiomegaly": r"cardiomegaly|heart.*(size|normal in size|dimension|enlarged)",
    "Lung opacity": r"ground.glass (opaci|densit|area)|(?<!nodular )opacit|infiltra|crazy",
    "Pericardial effusion": r"pericardial effusion",
    "Pulmonary fibrotic sequela": r"fibrotic|fibrosis|scar|(?<!, )sequelae? (changes|densit)",
    "Pleural effusion": r"pleural (effusion|fluid)|pleural or peric|pleural thickening-eff",
    "Peribronchial thickening": r"peribronchial thick|bronchial wall",
}
# Training split of CT-RATE, in the order of its label files.
PREVALENCE = (
    0.102, 0.284, 0.107, 0.071, 0.248, 0.142, 0.253, 0.194, 0.256, 0.455, 0.367, 0.267, 0.119, 0.074, 0.103, 0.176,
    0.100, 0.079,
)  # fmt: skip
DENIAL = re.compile(r"\b(no|not|without|absent|neither|nor|free of|excluded|ruled out)\b", re.IGNORECASE)
HEDGE = re.compile(r"\b(may|could|possibl|suspicious|suspected|questionable|cannot|concerning)|\?", re.IGNORECASE)


@pytest.fixture(scope="module")
def corpus() -> list[tuple[dict[str, object], Draft]]:
    return list(drafts(3000, seed=3, bank="chest-ct"))


def said(template: str, times: int = 12) -> set[str]:
    """Several expansions of a template, all options as likely."""
    rng = random.Random(template)
    words = [{**bind(BANK, side, change, STYLE, rng)} for side in ("left", "right") for change in BANK.changes]
    return {expand(template, rng.choice(words), Taste("", 0.0), rng) for _ in range(times)}


def test_labels_are_what_the_sentences_assert(corpus: list[tuple[dict[str, object], Draft]]) -> None:
    for row, draft in corpus:
        assert tuple(row["labels"]) == CT_RATE  # type: ignore[arg-type]
        positive = {name for name, value in row["labels"].items() if value}  # type: ignore[attr-defined]
        assert positive == set().union(*(sentence.asserts for sentence in draft.sentences))
        denied = set().union(*(sentence.denies for sentence in draft.sentences))
        assert not positive & denied, "a report contradicts itself"


def test_labels_are_about_as_frequent_as_in_ct_rate(corpus: list[tuple[dict[str, object], Draft]]) -> None:
    share = np.array([list(row["labels"].values()) for row, _ in corpus]).mean(axis=0)  # type: ignore[attr-defined]
    for name, value, wanted in zip(CT_RATE, share, PREVALENCE, strict=True):
        assert 0.75 * wanted < value < 1.25 * wanted, (name, value, wanted)


def test_every_label_is_asserted_and_denied_in_several_ways() -> None:
    phrases = [phrase for finding in BANK.findings.values() for phrase in finding.body + finding.impression]
    for name in CT_RATE:
        assert len({phrase.template for phrase in phrases if name in phrase.labels}) >= 5, name
        denials = [phrase for part in BANK.anatomy for phrase in part.sentences if name in phrase.labels]
        assert len(denials) >= 2 or name == "Medical material", name


def test_a_phrase_says_its_labels_and_no_others_and_denies_nothing() -> None:
    for name, finding in BANK.findings.items():
        for phrase in finding.body + finding.impression if name != "uncertain" else ():
            for text in said(phrase.template):
                firm = HEDGE.split(text)[0]
                for label, says in SAYS.items():
                    assert label not in phrase.labels or re.search(says, firm, re.IGNORECASE), (label, text)
                for label, names in NAMES.items():
                    assert label in phrase.labels or not re.search(names, firm, re.IGNORECASE), (label, text)
                assert not phrase.labels or not DENIAL.search(firm), text


def test_a_normal_sentence_denies_every_label_that_it_names() -> None:
    """So no report that asserts a label can hold a sentence that denies it."""
    for part in BANK.anatomy:
        for phrase in part.sentences:
            for text in said(phrase.template):
                for label, names in NAMES.items():
                    assert label in phrase.labels or not re.search(names, text, re.IGNORECASE), (label, text)


def test_only_suspected_findings_assert_nothing(corpus: list[tuple[dict[str, object], Draft]]) -> None:
    for phrase in BANK.findings["uncertain"].body + BANK.findings["uncertain"].impression:
        assert not phrase.labels
        assert all(HEDGE.search(text) or "difficult" in text for text in said(phrase.template))
    resolved = [
        s
        for _, d in corpus
        for s in d.sentences
        if re.search(r"disappeared|regression of|not observed in the cur", s.text)
    ]
    assert len(resolved) > 20
    assert all(not sentence.asserts for sentence in resolved)


def test_every_phrase_expands() -> None:
    templates = [p.template for f in BANK.findings.values() for p in f.body + f.impression]
    templates += [p.template for part in BANK.anatomy for p in part.sentences]
    for template in templates:
        for text in said(template, 3):
            assert not re.search(r"[\[\]<>|]|  | [.,]", text), text


def test_findings_come_together(corpus: list[tuple[dict[str, object], Draft]]) -> None:
    labels = np.array([list(row["labels"].values()) for row, _ in corpus])  # type: ignore[attr-defined]
    aorta, coronary = CT_RATE.index("Arterial wall calcification"), CT_RATE.index("Coronary artery wall calcification")
    together = (labels[:, aorta] & labels[:, coronary]).mean()
    assert together > 1.7 * labels[:, aorta].mean() * labels[:, coronary].mean()
    assert (labels.sum(axis=1) == 0).mean() > 0.02  # normal reports


def test_reports_are_long_and_of_one_kind_a_site(corpus: list[tuple[dict[str, object], Draft]]) -> None:
    words = [len(str(row["text"]).split()) for row, _ in corpus]
    assert 80 < np.mean(words) < 180
    assert min(words) > 3
    by_site = {site: [str(r["text"]) for r, _ in corpus if r["site"] == site] for site in ("site-0", "site-1")}
    assert np.mean(["IMPRESSION:" in text for text in by_site["site-1"]]) > 0.6
    assert not any("IMPRESSION:" in text for text in by_site["site-0"])


def test_they_are_a_corpus_with_the_labels_of_ct_rate(tmp_path: Path) -> None:
    ct = load_corpus("synthetic", reports=5, bank="chest-ct", cache_dir=tmp_path)
    assert label_names(ct.features) == CT_RATE
    wanted = [row["text"] for row, _ in itertools.islice(drafts(5, 0, bank="chest-ct"), 5)]
    assert ct["text"][:] == wanted
    assert label_names(load_corpus("synthetic", reports=5, cache_dir=tmp_path).features) != CT_RATE
