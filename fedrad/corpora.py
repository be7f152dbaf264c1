"""The registry of corpora: what each is called, which labels it has, what it needs, and which module reads it.

Facts only. Configuration, planning and a hospital's policy ask here, without reading a report or importing a reader.
A new corpus is an entry here, a module in ``fedrad/data`` (``load.py`` says what it holds), a test, and a section of
docs/data-formats.md.
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

COLLECTIONS: Final[Mapping[str, tuple[str, ...]]] = {"chexpert": CHEXPERT, "ct-rate": CT_RATE}
"""The collections of labels that generated reports have. A warm start teaches the labels that one of them names."""

NO_OTHER_LABEL: Final = "No Finding (no other label)"
"""CheXpert's No Finding: no label but Support Devices is positive (Irvin et al. 2019). Open-i, and the generator, mean
that nothing abnormal is mentioned at all."""

UNSEEN: Final = "chest-xray-hospitals"
"""The bank that no public base is trained on."""
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
        labels: those of every report, in order; or what decides them, the bank or the columns that the user names.
        options: the arguments of ``load_corpus``, beside the path, that change what is read.
        generated: its reports are of no patient, need no path, and can't be a hospital's.
        patients: whether it says which reports are of one patient.
        own_split: it comes divided into train and test.
        no_finding: what its label No Finding means (``data.no-finding``).
    """

    title: str
    reader: str
    labels: tuple[str, ...] | Literal["by bank", "by column"]
    options: tuple[str, ...] = ()
    generated: bool = False
    patients: bool = True
    own_split: bool = False
    no_finding: str = "nothing-abnormal"

    @property
    def columns(self) -> bool:
        """Whether the user names the columns that are read."""
        return self.labels == "by column"

    def labels_of(self, bank: str, columns: tuple[str, ...]) -> tuple[str, ...]:
        """The labels, where these are the settings; for a bank that there is not, none."""
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
    "table": Corpus("a table", "table", "by column", options=("columns", "uncertain")),
}
"""By ``data.name``. ``data.name = "none"``, a server without a test set, is not among them."""


def names_in(text: str) -> tuple[str, ...]:
    """Names with commas between, as ``data.classes`` has them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def label_columns(text: str) -> tuple[str, ...]:
    """The columns that ``data.label-columns`` names; the name of a collection stands for its labels."""
    return COLLECTIONS.get(text.strip()) or names_in(text)


def corpus_named(name: str) -> tuple[str, Corpus]:
    """The name as the registry spells it, and the entry; dashes and underscores are one.

    Raises:
        ConfigError: there is none.
    """
    spelt = name.replace("_", "-")
    if spelt in CORPORA:
        return spelt, CORPORA[spelt]
    close = get_close_matches(spelt, CORPORA, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"data.name is {name!r}{hint}: must be one of {', '.join(CORPORA)}")
