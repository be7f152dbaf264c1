from __future__ import annotations

import pytest

from fedrad.data.labels import CHEXPERT, CT_RATE, OPENI_PROBLEMS, chexpert_values, openi_labels
from fedrad.errors import ConfigError


def positive(*problems: str) -> set[str]:
    return {label for label, value in openi_labels(problems).items() if value}


def test_names() -> None:
    assert len(CHEXPERT) == 14
    assert list(CHEXPERT) == sorted(CHEXPERT)
    assert len(set(CT_RATE)) == 18


def test_openi_table_is_in_lower_case_and_uses_our_labels() -> None:
    assert all(problem == problem.lower().strip() for problem in OPENI_PROBLEMS)
    assert {label for labels in OPENI_PROBLEMS.values() for label in labels} == set(CHEXPERT)


def test_openi_labels() -> None:
    assert positive("normal") == {"No Finding"}
    assert positive("no indexing") == {"No Finding"}
    assert positive("Pulmonary Atelectasis", " Opacity ") == {"Atelectasis", "Lung Opacity"}
    assert positive("Hydropneumothorax") == {"Pleural Effusion", "Pneumothorax"}
    assert positive("Consolidation") == {"Consolidation", "Lung Opacity"}
    assert positive("Catheters, Indwelling") == {"Support Devices"}
    assert positive("Hernia, Hiatal") == set()
    assert positive("normal", "Nodule") == {"Lung Lesion"}
    assert tuple(openi_labels(["normal"])) == CHEXPERT


@pytest.mark.parametrize(("policy", "value"), [("negative", 0), ("positive", 1), ("ignore", -1)])
def test_uncertain(policy: str, value: int) -> None:
    meaning = chexpert_values(policy)
    assert (meaning["-1.0"], meaning["1.0"], meaning["0.0"], meaning[""]) == (value, 1, 0, 0)


def test_unknown_policy() -> None:
    with pytest.raises(ConfigError, match=r"data\.uncertain"):
        chexpert_values("maybe")
