"""Label names: what is the same, and what is only offered."""

from __future__ import annotations

import pytest

from fedrad.corpora import CHEXPERT, CT_RATE
from fedrad.data.label_names import nearest, plain, positions, synonyms


@pytest.mark.parametrize("name", ["Pleural Effusion", "pleural_effusion", "PLEURAL-EFFUSION", " pleural  effusion."])
def test_case_and_punctuation_do_not_matter(name: str) -> None:
    assert positions([name], CHEXPERT) == (CHEXPERT.index("Pleural Effusion"),)


def test_a_name_that_only_resembles_one_is_not_the_same() -> None:
    assert positions(["effusion", "Cardiomegaly", "Edemas"], CHEXPERT) == (-1, 1, -1)


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("effusion", "Pleural Effusion"),
        ("Enlarged_Heart", "Cardiomegaly"),
        ("ptx", "Pneumothorax"),
        ("consolidations", "Consolidation"),
        ("atelectesis", "Atelectasis"),
        ("PE", None),
        ("Pericardial effusion", None),
        ("hip fracture date", None),
    ],
)
def test_the_nearest_known_name_is_offered(name: str, offer: str | None) -> None:
    assert nearest(name, CHEXPERT) == offer


def test_nothing_is_offered_that_is_taken() -> None:
    assert nearest("effusion", [name for name in CHEXPERT if name != "Pleural Effusion"]) is None


def test_synonyms_are_written_as_they_are_looked_up_and_mean_known_labels() -> None:
    assert list(synonyms()) == ["chexpert", "ct-rate"]
    for words_of, labels in zip(synonyms().values(), (CHEXPERT, CT_RATE), strict=True):
        words = [word for words in words_of.values() for word in words]
        assert set(words_of) <= set(labels)
        assert len(set(words)) == len(words)
        assert all(plain(word) == word for word in words)
        assert not set(words) & {plain(name) for name in labels}


def test_a_word_may_mean_another_label_in_another_collection() -> None:
    assert nearest("nodule", CHEXPERT) == "Lung Lesion"
    assert nearest("nodule", CT_RATE) == "Lung nodule"
    assert nearest("lines and tubes", CT_RATE) == "Medical material"
