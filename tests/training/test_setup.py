"""Which kernels a run gets: measured ones where speed counts, fixed ones where it is to be repeated to the bit."""

from __future__ import annotations

import pytest

from fedrad.model.encoder import ReportClassifier
from fedrad.model.kernels import Kernels
from fedrad.training import setup
from fedrad.training.setup import set_up
from tests import small


@pytest.mark.parametrize(
    ("noise", "asked", "probed"),
    [
        ("seeded", "auto", False),
        ("system", "auto", True),
        ("seeded", "probe", True),
        ("system", "probe", True),
        ("seeded", "default", False),
        ("system", "default", False),
    ],
)
def test_a_run_that_is_to_be_repeated_is_not_left_to_a_measurement(
    noise: str, asked: str, probed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []

    def kernels_for(base: object, precision: str, device: str, *, probed: bool) -> Kernels:
        found.append(probed)
        return Kernels(eager_up_to=7)

    monkeypatch.setattr(setup, "kernels_for", kernels_for)
    classifier = classifier_of(privacy__noise=noise, train__kernels=asked)
    assert found == [probed]
    assert (classifier.kernels.eager_up_to, classifier.suffix.layers.eager_up_to) == (7, 7)


def classifier_of(**changes: object) -> ReportClassifier:
    return set_up(small.experiment(**changes), small.TASK).classifier


def test_checkpointing_is_as_it_is_set() -> None:
    for value in (False, True):
        classifier = classifier_of(train__checkpointing=value)
        assert (classifier.kernels.checkpointing, classifier.suffix.layers.checkpointing) == (value, value)


def test_the_micro_batch_may_be_set_by_hand() -> None:
    assert classifier_of(train__micro_tokens=300).kernels.micro_tokens == 300
    assert classifier_of(train__micro_tokens=0).kernels.micro_tokens == Kernels().micro_tokens
