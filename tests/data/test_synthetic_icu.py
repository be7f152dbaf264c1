"""Generated portable chest x-ray reports: what they assert, deny and suspect, how often, and how they are typed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from fedrad.corpora import CHEXPERT
from fedrad.data.synthetic import drafts
from fedrad.data.synthetic.bank import Phrase
from fedrad.data.synthetic.read_bank import load_bank
from fedrad.data.synthetic.style import house_style, say
from tests.data.phrases import Corpus, label_matrix, said

BANK = load_bank("chest-xray-icu")
STYLE = house_style(BANK, 0, 0)
ABNORMAL = tuple(name for name in CHEXPERT if name != "No Finding")

# What a sentence must contain to assert a label, written independently of the phrases.
SAYS = {
    "Atelectasis": r"atelecta|volume loss|collapse",
    "Cardiomegaly": r"cardiomegaly|(heart|cardi)[^.;]*(enlarge|larger|increase)|(enlarge|increase)[^.;]*(heart|cardi)",
    "Consolidation": r"consolidat",
    "Edema": r"edema|congest",
    "Enlarged Cardiomediastinum": r"(mediastin(um|al)|silhouette)[^.;]*(wid|enlarge|larger|prominen|full)"
    r"|(wid|enlarge|prominen|increase)[^.;]*(mediastin(um|al)|silhouette)",
    "Fracture": r"fractur",
    "Lung Lesion": r"nodul|\bmass(es)?\b|granuloma|metastases",
    "Lung Opacity": r"opaci|\bdensity|infiltrate|airspace disease|consolidat",
    "Pleural Effusion": r"effusion|pleural fluid|hydropneumo",
    "Pleural Other": r"pleura[^.;]*(thick|scar|plaque|calcif|tent)|(thick|plaque)[^.;]*pleura"
    r"|apical (pleural )?caps?"
    r"|thickening of the [a-z ]*fissure",
    "Pneumonia": r"pneumonia",
    "Pneumothorax": r"pneumothora",
    "Support Devices": r"\btubes?\b|\bett\b|wires?\b|catheter|\blines?\b|picc|\bdrains?\b|pace[mr]|pacing|\ba?icd\b"
    r"|defibrillat|generator|leads?\b|valve|prosthe|stent|clips|suture|hardware|devices?\b|iabp|balloon|ecmo|lvad"
    r"|tips\b|impella|\bport\b|pigtail|port-a|mediport|sheath|tracheostomy|intubat|swan|recorder|stimulator"
    r"|central venous access",
}
# Words that name a label wherever they stand. What makes a heart large, and what a device is, depends on its
# surroundings.
NAMES = {
    "Atelectasis": r"atelecta|lobe (collapse|volume loss)",
    "Cardiomegaly": r"cardiomegaly|enlarge(d|ment of the) (heart|cardiac)|heart size[^.;]*normal"
    r"|heart [^.;,]*not enlarged"
    r"|(heart|cardiac size|cardiac silhouette)( size)? (is|remains|appears) (\w+ )*(normal|enlarged)",
    "Consolidation": r"consolidat",
    "Edema": r"\bedema|\bcongestion",
    "Enlarged Cardiomediastinum": r"mediastinum is (\w+ )*wid|widen(ed|ing of the) (\w+ )*mediastinum"
    r"|mediastinal widening|enlarge\w* (of the )?(cardiac|cardiomediastinal) silhouette"
    r"|silhouette (is|remains) (\w+ )*enlarged",
    "Fracture": r"\bfractur",
    "Lung Lesion": r"\bnodules?\b|\bnodular opac|\bmass(es)?\b(?!-like| effect)|granuloma\b",
    "Lung Opacity": r"\bopaci|\bdensity|infiltrate|airspace disease",
    "Pleural Effusion": r"(?<!pericardial )effusion|pleural fluid|hydropneumo",
    "Pleural Other": r"pleural (thick|scar|plaque|calcif|cap)|pleural-parenchymal",
    "Pneumonia": r"pneumonia",
    "Pneumothorax": r"pneumothora",
    "Support Devices": r"(endotracheal|chest|nasogastric|enteric|feeding|ng|tracheostomy) tube|\bett?\b|\bpicc|catheter"
    r"|swan|(ij|jugular|subclavian|central|venous) (venous )?line|pacemaker|\ba?icd\b|pigtail|surgical clips"
    r"|support devices|sternotomy wires|intubated",
}
HEDGE = re.compile(
    r"\b(may|might|could|possibl[ey]|possibility|suspicious|suspected|question(able)?|equivocal|worrisome"
    r"|concern(ing)?|versus)\b|\?",
    re.IGNORECASE,
)
# Hedges that come behind what they hedge, and what is only advised or no longer there.
OPEN = re.compile(
    r"cannot be|not (entirely )?excluded|consideration|is (also )?possible|difficult to|would be|exclude"
    r"|be considered|cannot assess|differential|less likely|have been removed|has been removed|discontinued|no longer"
    r"|^(interval|status post|following) .*removal|explantation|withdrawn completely",
    re.IGNORECASE,
)
DENIES = re.compile(
    r"\b(no|not|without|neither|nor|absent|absence|rather than|than of|negative for|normal|intact|unlikely|free of"
    r"|clear"
    r"|sharp(ly)?|unremarkable|within normal|aerated)\b",
    re.IGNORECASE,
)


def named_in(text: str) -> set[str]:
    return {label for label, names in NAMES.items() if re.search(names, text, re.IGNORECASE)}


def phrases(*, suspected: bool) -> Iterable[Phrase]:
    for name, finding in BANK.findings.items():
        if name.startswith("uncertain") == suspected:
            yield from finding.body + finding.impression


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return list(drafts(4000, seed=3, sites=6, bank="chest-xray-icu"))


def firm(text: str) -> str:
    """What a sentence says without a hedge."""
    text = text.replace("after chest tube removal", "")
    clauses = re.split(r"[;,.:]|\balthough\b|\bbut\b", text)
    return "; ".join(HEDGE.split(clause)[0] for clause in clauses if not OPEN.search(clause))


def test_a_phrase_says_its_labels_and_names_no_others() -> None:
    wrong = []
    for phrase in phrases(suspected=False):
        for text in said(BANK, phrase.template):
            wrong += [(label, text) for label in phrase.labels if not re.search(SAYS[label], firm(text), re.IGNORECASE)]
            assert "Consolidation" not in phrase.labels or "Lung Opacity" in phrase.labels, text
            wrong += [(f"also {label}", text) for label in named_in(firm(text)) - phrase.labels - phrase.denies]
    assert not wrong, "\n".join(map(str, wrong))


def test_a_phrase_that_denies_says_so_and_can_be_said() -> None:
    """It names what it denies, behind a word for that; no other phrase of its finding asserts it (``read_bank``)."""
    denying = [phrase for phrase in phrases(suspected=False) if phrase.denies]
    assert len(denying) >= 40
    for phrase in denying:
        for text in said(BANK, phrase.template):
            assert DENIES.search(text), text
            assert phrase.denies <= named_in(text), text
    rest = [phrase for phrase in phrases(suspected=False) if not phrase.denies]
    negated = re.compile(r"\b(no|without) (evidence of |new |focal |pleural |acute )*(\w+)", re.IGNORECASE)
    for phrase in rest:
        for text in said(BANK, phrase.template):
            assert not any(named_in(match.group()) for match in negated.finditer(text)), text


def test_a_normal_sentence_denies_every_label_that_it_names() -> None:
    """So no report that asserts a label can hold a sentence that denies it."""
    for part in BANK.anatomy:
        for phrase in part.sentences:
            for text in said(BANK, phrase.template):
                assert named_in(text) <= phrase.labels, text
                assert not phrase.labels or DENIES.search(text), text


def test_what_is_suspected_asserts_nothing() -> None:
    hedged = list(phrases(suspected=True))
    assert len(hedged) >= 40
    for phrase in hedged:
        assert not phrase.labels
        for text in said(BANK, phrase.template):
            assert HEDGE.search(text) or OPEN.search(text) or "top" in text or "upper limits" in text, text
    about = {label for phrase in hedged for text in said(BANK, phrase.template) for label in named_in(text)}
    assert about >= set(ABNORMAL) - {"Support Devices", "Enlarged Cardiomediastinum"}


def test_many_sentences_assert_and_deny_in_one_breath(corpus: Corpus) -> None:
    assert sum(any(s.asserts and s.denies for s in draft.sentences) for _, draft in corpus) > 200


@pytest.mark.parametrize("label", ABNORMAL)
def test_every_label_is_asserted_and_denied_in_many_ways(label: str, corpus: Corpus) -> None:
    findings = BANK.findings.values()
    assert len({phrase.template for f in findings for phrase in f.body if label in phrase.labels}) >= 25
    assert len({phrase.template for f in findings for phrase in f.impression if label in phrase.labels}) >= 12
    assert len({phrase.template for part in BANK.anatomy for phrase in part.sentences if label in phrase.labels}) >= 6
    share = np.mean([row["labels"][label] for row, _ in corpus])  # type: ignore[index]
    assert 0.05 < share < 0.36


def test_one_report_in_six_is_normal(corpus: Corpus) -> None:
    labels = label_matrix(corpus)
    assert 0.12 < labels[:, CHEXPERT.index("No Finding")].mean() < 0.2
    edema, effusion = (labels[:, CHEXPERT.index(name)] for name in ("Edema", "Pleural Effusion"))
    assert (edema & effusion).mean() > 1.3 * edema.mean() * effusion.mean()  # the sick have several things


def test_what_has_resolved_asserts_nothing(corpus: Corpus) -> None:
    gone = re.compile(
        r"has (completely )?(resolved|cleared|disappeared)(?! only)|resolution of|no longer (apparent|visible|seen)"
    )
    resolved = [s for _, draft in corpus for s in draft.sentences if gone.search(s.text)]
    assert len(resolved) > 100
    assert all(not sentence.asserts and not sentence.denies for sentence in resolved)


def test_no_phrase_is_one_of_the_other_chest_x_rays() -> None:
    other = load_bank("chest-xray")
    mine, theirs = (
        {phrase.template for finding in bank.findings.values() for phrase in finding.body + finding.impression}
        | {phrase.template for part in bank.anatomy for phrase in part.sentences}
        | {template for group in bank.sentences.values() for template in group}
        for bank in (BANK, other)
    )
    assert not mine & theirs


def test_reports_have_the_sections_of_their_house(corpus: Corpus) -> None:
    of = {
        site: [str(row["text"]) for row, _ in corpus if row["site"] == site] for site in ("site-0", "site-1", "site-4")
    }
    assert np.mean([{"FINDINGS:", "IMPRESSION:"} <= set(text.split()) for text in of["site-0"]]) > 0.6
    assert np.mean(["FINDINGS:" in text and "IMPRESSION:" in text for text in of["site-1"]]) < 0.3
    assert not any("FINDINGS:" in text for text in of["site-4"])
    since = [re.search(r"As compared to|In comparison with|Compared (to|with)", text) for text in of["site-1"]]
    assert np.mean([match is not None for match in since]) > 0.12
    assert 45 < np.mean([len(str(row["text"]).split()) for row, _ in corpus]) < 90


def test_typing_errors_are_usual_misspellings_where_a_bank_asks_for_them() -> None:
    rng, hasty = random.Random(0), replace(STYLE, typo=1.0, telegraphic=0.0)
    sentence = "There is no pneumothorax, effusion or focal consolidation in the left lung."
    typed = [say(sentence, hasty, rng) for _ in range(500)]
    wrong = {wrong for spellings in BANK.styles[0].release.misspellings.values() for wrong in spellings}
    misspelt = [text for text in typed if {word.strip(".,") for word in text.split()} & wrong]
    assert 0.4 < len(misspelt) / len(typed) < 0.75
    # "no" is neither lost nor doubled nor written together with its neighbour.
    assert all(len(re.findall(r"\bno\b", text)) == 1 for text in typed)
    assert not load_bank("chest-xray").styles[0].release.misspellings


def test_a_misspelling_is_no_other_word_of_the_list_and_names_no_other_label() -> None:
    spellings = BANK.styles[0].release.misspellings
    assert len(spellings) >= 60
    for word, wrongs in spellings.items():
        assert word == word.lower()
        assert len(set(wrongs)) == len(wrongs)
        for wrong in wrongs:
            assert wrong not in spellings
            assert named_in(wrong) <= named_in(word), wrong
