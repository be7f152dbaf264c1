"""Label names that mean the same, and the known one that an unknown one may mean.

Names are compared without case and punctuation. Synonyms are never applied, only offered: "effusion" may be pleural or
pericardial, and whoever made the column knows which.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Final

_SYNONYMS: Final = {
    "airspace disease": "Lung Opacity",
    "bone fracture": "Fracture",
    "cardiac enlargement": "Cardiomegaly",
    "collapse": "Atelectasis",
    "congestion": "Edema",
    "device": "Support Devices",
    "devices": "Support Devices",
    "effusion": "Pleural Effusion",
    "effusions": "Pleural Effusion",
    "enlarged heart": "Cardiomegaly",
    "enlarged mediastinum": "Enlarged Cardiomediastinum",
    "infiltrate": "Lung Opacity",
    "lines and tubes": "Support Devices",
    "lung mass": "Lung Lesion",
    "lung nodule": "Lung Lesion",
    "mass": "Lung Lesion",
    "nodule": "Lung Lesion",
    "normal": "No Finding",
    "oedema": "Edema",
    "opacity": "Lung Opacity",
    "pleural fluid": "Pleural Effusion",
    "pleural thickening": "Pleural Other",
    "pulmonary edema": "Edema",
    "pulmonary oedema": "Edema",
    "ptx": "Pneumothorax",
    "rib fracture": "Fracture",
    "widened mediastinum": "Enlarged Cardiomediastinum",
}
"""Words of radiologists, as ``plain`` writes them -> the label of CheXpert. No abbreviation with two meanings: PE is
more often the pulmonary embolism than the pleural effusion."""

_SIMILAR = 0.8
"""Of difflib's ratio: finds "atelectesis" and "Consolidations", not "Pericardial effusion" for "Pleural Effusion"."""


def plain(name: str) -> str:
    """The name in lower case, with everything but letters and digits as single blanks: ``Pleural_Effusion`` and
    ``pleural effusion`` are the same."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in name.casefold()).split())


def positions(names: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """For each name the position of the same one in ``known``, or -1."""
    place = {plain(name): position for position, name in enumerate(known)}
    return tuple(place.get(plain(name), -1) for name in names)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that an unknown one may mean, by synonym or spelling; None if there is none."""
    by_plain = {plain(candidate): candidate for candidate in known}
    if (synonym := _SYNONYMS.get(plain(name), "")) in known:
        return synonym
    close = get_close_matches(plain(name), list(by_plain), n=1, cutoff=_SIMILAR)
    return by_plain[close[0]] if close else None
