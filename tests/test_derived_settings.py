"""Settings that follow from others where they are left to fedrad."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedrad.config import Experiment
from tests.settings_given import problems

LAST, ALL_LINEAR, HEAD = (("query", "value"), 1), (("all-linear",), 0), ((), 1)
REAL = {"data.name": "mimic-cxr", "data.path": "/x"}


@pytest.mark.parametrize(
    ("changes", "warm", "base"),
    [
        ({}, "none", "all-MiniLM-L6-v2"),
        (REAL, "synthetic", "chest-minilm"),
        ({"data.name": "none", "data.label-columns": "chexpert"}, "synthetic", "chest-minilm"),
        ({"train.warm-start": "synthetic"}, "synthetic", "chest-minilm"),
        (REAL | {"train.warm-start": "none"}, "none", "all-MiniLM-L6-v2"),
        (REAL | {"model.name": "prajjwal1/bert-small"}, "synthetic", "prajjwal1/bert-small"),
        (REAL | {"model.name": "./mine"}, "synthetic", "./mine"),
        ({"model.name": "chest-minilm"}, "none", "chest-minilm"),
        (REAL | {"model.pooling": "cls"}, "none", "all-MiniLM-L6-v2"),  # the public head reads the mean
    ],
)
def test_the_base_that_a_run_trains_on(changes: dict[str, object], warm: str, base: str) -> None:
    exp = Experiment.from_flat(changes)
    assert (exp.warm_start, exp.base_name) == (warm, base)


def test_a_warm_start_with_another_pooling_is_refused() -> None:
    (found,) = problems("model.pooling=cls", "train.warm-start=synthetic")
    assert found.startswith("model.pooling: ")
    assert Experiment.load(None, ["model.pooling=cls", "train.warm-start=none"]).model.pooling == "cls"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, LAST),
        ({"privacy.epsilon": 0.0}, LAST),
        (REAL, HEAD),
        (REAL | {"privacy.epsilon": 0.0}, ALL_LINEAR),
        (REAL | {"strategy.name": "head"}, HEAD),
        (REAL | {"strategy.name": "head", "privacy.epsilon": 0.0}, HEAD),
        (REAL | {"strategy.name": "fedsb"}, LAST),
        (REAL | {"lora.freeze-a": True}, LAST),
        (REAL | {"train.warm-start": "none"}, LAST),
        (REAL | {"train.warm-start": "none", "privacy.epsilon": 0.0}, LAST),
        ({"train.warm-start": "synthetic"}, HEAD),
        (REAL | {"lora.targets": "key", "lora.layers": 2}, (("key",), 2)),
        (REAL | {"lora.targets": "key", "privacy.epsilon": 0.0}, (("key",), 1)),
        ({"lora.targets": ""}, HEAD),
    ],
)
def test_what_is_adapted(changes: dict[str, object], expected: tuple[tuple[str, ...], int]) -> None:
    exp = Experiment.from_flat(changes)
    assert (exp.adapted.targets, exp.adapted.layers) == expected
    assert replace(exp.adapted, targets=exp.lora.targets, layers=exp.lora.layers) == exp.lora  # and nothing else


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 6),
        (REAL, 6),
        (REAL | {"privacy.epsilon": 0.0}, 12),
        (REAL | {"privacy.epsilon": 0.0, "train.warm-start": "none"}, 6),
        (REAL | {"lora.targets": "all-linear"}, 12),
        (REAL | {"data.declared-size": 1000}, 12),
        (REAL | {"data.declared-size": 999}, 6),
        (REAL | {"privacy.epsilon": 0.0, "train.local-steps": 3}, 3),
        ({"train.local-steps": 3}, 3),
    ],
)
def test_how_many_steps_a_round_takes(changes: dict[str, object], steps: int) -> None:
    assert Experiment.from_flat(changes).local_steps == steps


@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        # declared: 1, 100, 128, 511, 512, 513, 10_000
        (REAL, (1, 100, 128, 128, 128, 128, 2500)),
        ({"lora.targets": ""}, (1, 100, 128, 128, 128, 128, 2500)),
        ({}, (1, 100, 128, 128, 128, 128, 128)),
        (REAL | {"privacy.epsilon": 0.0}, (1, 100, 128, 128, 128, 128, 128)),
        (REAL | {"lora.targets": "key"}, (1, 100, 128, 128, 128, 128, 128)),
        (REAL | {"train.batch": 300}, (1, 100, 128, 300, 300, 300, 300)),
        (REAL | {"train.batch": 16}, (1, 16, 16, 16, 16, 16, 16)),
    ],
)
def test_the_expected_batch_of_a_declared_size(changes: dict[str, object], batches: tuple[int, ...]) -> None:
    exp = Experiment.from_flat(changes)
    assert tuple(exp.expected_batch(size) for size in (1, 100, 128, 511, 512, 513, 10_000)) == batches


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic", "nothing-abnormal"),
        ("openi", "nothing-abnormal"),
        ("ct-rate", "nothing-abnormal"),
        ("table", "nothing-abnormal"),
        ("none", "nothing-abnormal"),
        ("mimic-cxr", "no-other-label"),
    ],
)
def test_what_no_finding_means(name: str, expected: str) -> None:
    flat: dict[str, object] = {"data.name": name, "data.label-columns": "Edema"}
    flat |= {"data.path": "/x"} if name not in ("synthetic", "none") else {}
    assert Experiment.from_flat(flat).no_finding == expected
    for stated in ("nothing-abnormal", "no-other-label"):
        assert Experiment.from_flat({**flat, "data.no-finding": stated}).no_finding == stated
        assert Experiment.from_flat({**flat, "data.no-finding": stated.replace("-", "_")}).no_finding == stated
