"""Label names of the corpora, and what a cell of a label file means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

from fedrad.errors import ConfigError

Uncertain = Literal["negative", "positive", "ignore"]

CHEXPERT: Final = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
"""MIMIC-CXR's 14 labels in the order of its label files (Irvin et al. 2019, arXiv:1901.07031)."""

CT_RATE: Final = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
"""CT-RATE's 18 labels in the order of its label files (Hamamci et al. 2024, arXiv:2403.17834)."""

COLLECTIONS: Final[Mapping[str, tuple[str, ...]]] = {"chexpert": CHEXPERT, "ct-rate": CT_RATE}
"""The collections of labels that generated reports have."""

NO_OTHER_LABEL: Final = "No Finding (no other label)"
"""CheXpert's No Finding: no label but Support Devices is positive (Irvin et al. 2019). Open-i, and the generator, mean
that nothing abnormal is mentioned at all."""

# Rows follow CHEXPERT's order. Printed in docs/data-formats.md; a test compares the two.
_OPENI_BY_LABEL: Final[Mapping[str, tuple[str, ...]]] = {
    "Atelectasis": ("pulmonary atelectasis",),
    "Cardiomegaly": ("cardiac shadow", "cardiomegaly"),
    "Consolidation": ("consolidation",),
    "Edema": ("pulmonary congestion", "pulmonary edema"),
    "Enlarged Cardiomediastinum": ("cardiac shadow", "mediastinum"),
    "Fracture": ("fractures, bone",),
    "Lung Lesion": ("calcified granuloma", "granuloma", "mass", "nodule"),
    "Lung Opacity": ("airspace disease", "consolidation", "density", "infiltrate", "opacity"),
    "No Finding": ("no indexing", "normal"),
    "Pleural Effusion": ("hemopneumothorax", "hydropneumothorax", "pleural effusion"),
    "Pleural Other": ("pleura", "thickening"),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("hemopneumothorax", "hydropneumothorax", "pneumothorax"),
    "Support Devices": (
        "catheters, indwelling",
        "implanted medical device",
        "medical device",
        "stents",
        "surgical instruments",
        "tube, inserted",
    ),
}

OPENI_PROBLEMS: Final[Mapping[str, tuple[str, ...]]] = {
    problem: tuple(label for label, problems in _OPENI_BY_LABEL.items() if problem in problems)
    for problem in sorted({problem for problems in _OPENI_BY_LABEL.values() for problem in problems})
}
"""Open-i problem (lower case) -> the labels that it makes positive. Problems that are not here make none."""


def openi_labels(problems: Iterable[str]) -> dict[str, int]:
    """The 14 labels of an Open-i report.

    "No Finding" is what the annotators called normal, or found nothing to index in. A report of nothing but a hiatal
    hernia has no positive label at all. (CheXpert, which made MIMIC-CXR's labels, would call that "No Finding".)

    Args:
        problems: the terms of the column ``Problems``, in any case.
    """
    positive = {label for problem in problems for label in OPENI_PROBLEMS.get(" ".join(problem.lower().split()), ())}
    if len(positive) > 1:
        positive.discard("No Finding")
    return {label: int(label in positive) for label in CHEXPERT}


def value_of_doubt(uncertain: str) -> int:
    """What an uncertain label counts as: 0 negative, 1 positive, -1 masked out of loss and score.

    Args:
        uncertain: "negative" (the default everywhere: a model that must act on "possible" reports should be told so),
            "positive" or "ignore".
    Raises:
        ConfigError: another word.
    """
    if uncertain not in get_args(Uncertain):
        raise ConfigError(f"data.uncertain must be one of {', '.join(get_args(Uncertain))}")
    return {"negative": 0, "positive": 1, "ignore": -1}[uncertain]


def chexpert_values(uncertain: str) -> dict[str, int]:
    """What the cells of a CheXpert-style label file mean: {cell: 1 positive, 0 negative, -1 masked}.

    A blank cell means that the report does not mention it: negative.

    Args:
        uncertain: what -1.0 becomes, as for `value_of_doubt`.
    Raises:
        ConfigError: another word.
    """
    doubt = value_of_doubt(uncertain)
    return {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": doubt, "-1.0": doubt}


BINARY: Final[Mapping[str, int]] = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
"""What the cells of a 0/1 label file mean."""

BINARY_OR_BLANK: Final[Mapping[str, int]] = {**BINARY, "": 0, "false": 0, "true": 1}
"""The same where people fill in tables by hand; compare in lower case."""
