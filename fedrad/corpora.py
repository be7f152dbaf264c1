"""The registry of corpora: name, labels, settings and reader of each.

Configuration, planning and a hospital's policy read it without importing a reader. A new corpus needs an entry here, a
module in ``fedrad/data`` (see ``load.py``), a test, and a section of docs/data-formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

from fedrad.errors import ConfigError

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

PROTOCOLS: Final = (
    "Pulmonary Embolus",
    "CT Urography",
    "Maxillofacial",
    "L-Spine",
    "CTA Brain",
    "Temporal Bones",
    "T-Spine",
    "Chest",
    "CT Abdomen",
    "CTA Aortic Dissection",
    "CT Dedicated Kidney",
    "CT Dedicated Liver",
    "C-Spine(Bone)",
    "C-Spine",
    "Renal Stone Protocol",
    "Brain Perfusion",
    "CT Pancreas",
    "CT Adrenal",
    "CT Colonography",
    "Soft Tissue Neck",
    "Use puffed cheek technique",
    "Routine Sinus",
    "Craniofacial",
    "CTA Brain/Neck",
    "CTA Neck",
    "Pelvis",
    "CT Brain",
    "Standard Contrast Enhanced Chest",
    "Standard Non-Enhanced Chest",
    "SVC Protocol",
    "Interstitial Lung Disease (Non-Enhanced)",
    "CT Enterography",
    "CTA Lower Extremity Runoff",
    "CT Cystogram",
)
"""The imaging protocols of the generated order notes. Most names are those of the Databricks radiology accelerator."""

COLLECTIONS: Final[Mapping[str, tuple[str, ...]]] = {"chexpert": CHEXPERT, "ct-rate": CT_RATE}
"""The collections of labels that generated reports have, and that a warm start can teach."""

NO_OTHER_LABEL: Final = "No Finding (no other label)"
"""CheXpert's No Finding: no label except Support Devices is positive (Irvin et al. 2019). In Open-i and the generator
it means that the report mentions nothing abnormal."""

UNSEEN: Final = "chest-xray-hospitals"
"""The bank that public bases are not trained on."""
BANKS: Final[Mapping[str, tuple[str, ...]]] = {
    "chest-xray": CHEXPERT,
    "chest-xray-icu": CHEXPERT,
    "chest-xray-british": CHEXPERT,
    "chest-xray-indian": CHEXPERT,
    UNSEEN: CHEXPERT,
    "chest-ct": CT_RATE,
    "chest-ct-western": CT_RATE,
}
"""Phrase bank of the generator -> the labels of its reports."""


@dataclass(frozen=True)
class Corpus:
    """A kind of corpus: one value of ``data.name``.

    Attributes:
        title: its name in a sentence.
        reader: the module of ``fedrad.data`` that reads it.
        labels: the labels in order, or where they come from: the phrase bank or the columns that the user names.
        options: the arguments of ``load_corpus``, besides the path, that change what is read.
        generated: its reports are made up: they need no path and can't be a hospital's.
        patients: whether it identifies patients.
        own_split: whether it comes with train and test splits.
        no_finding: the meaning of its label No Finding (``data.no-finding``).
        single: a report has exactly one of the labels, its class.
    """

    title: str
    reader: str
    labels: tuple[str, ...] | Literal["by bank", "by column"]
    options: tuple[str, ...] = ()
    generated: bool = False
    patients: bool = True
    own_split: bool = False
    no_finding: str = "nothing-abnormal"
    single: bool = False

    @property
    def columns(self) -> bool:
        """Whether the user names the columns to read."""
        return self.labels == "by column"

    def labels_of(self, bank: str, columns: tuple[str, ...]) -> tuple[str, ...]:
        """The labels with these settings; none for an unknown bank."""
        if self.labels == "by column":
            return columns
        return BANKS.get(bank, ()) if self.labels == "by bank" else self.labels


CORPORA: Final[dict[str, Corpus]] = {
    "synthetic": Corpus(
        "generated reports", "synthetic", "by bank", options=("reports", "seed", "bank", "uncertain"), generated=True
    ),
    "mimic-cxr": Corpus(
        "MIMIC-CXR", "mimic_cxr", CHEXPERT, options=("uncertain",), own_split=True, no_finding="no-other-label"
    ),
    "ct-rate": Corpus("CT-RATE", "ct_rate", CT_RATE, own_split=True),
    "openi": Corpus("Open-i", "openi", CHEXPERT, patients=False),
    "protocol": Corpus(
        "generated order notes", "protocol", PROTOCOLS, options=("reports", "seed"), generated=True, single=True
    ),
    "table": Corpus("a table", "table", "by column", options=("columns", "uncertain")),
}
"""By ``data.name``. ``"none"``, for a server without a test set, is not included."""


def names_in(text: str) -> tuple[str, ...]:
    """Splits comma-separated names, as in ``data.classes``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def label_columns(text: str) -> tuple[str, ...]:
    """The columns in ``data.label-columns``. The name of a collection means its labels."""
    return COLLECTIONS.get(text.strip()) or names_in(text)


def corpus_named(name: str) -> tuple[str, Corpus]:
    """The registry's spelling of the name, and its entry. Underscores count as dashes.

    Raises:
        ConfigError: the name is unknown.
    """
    spelt = name.replace("_", "-")
    if spelt in CORPORA:
        return spelt, CORPORA[spelt]
    close = get_close_matches(spelt, CORPORA, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"data.name is {name!r}{hint}: must be one of {', '.join(CORPORA)}")
