"""Label names: what is the same, and what is only offered."""

from __future__ import annotations

import pytest

from fedrad.data.label_names import _SYNONYMS, nearest, plain, positions
from fedrad.data.labels import CHEXPERT


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
    assert all(plain(word) == word and label in CHEXPERT for word, label in _SYNONYMS.items())
    assert not set(_SYNONYMS) & {plain(name) for name in CHEXPERT}
