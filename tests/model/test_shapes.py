"""Shapes from a configuration agree with what is really built, family by family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec
from fedrad.model.shapes import shapes_of
from fedrad.settings import EMBEDDED
from tests.model import tiny

LABELS = ("a", "b", "c")


def counted(folder: str, lora: LoRASpec) -> int:
    """Trainable numbers of the adapter and head that are really built."""
    classifier = build(load_base(folder), ModelSpec(folder, "", "mean"), lora, len(LABELS), 0)
    return sum(tensor.numel() for tensor in classifier.adapter().values())


@pytest.mark.parametrize("family", tiny.ALL)
@pytest.mark.parametrize(("targets", "layers"), [("all-linear", 0), ("all-linear", 1), ("", 1)])
def test_shapes_are_those_of_the_model_that_is_built(family: str, targets: str, layers: int, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / family, family)
    lora = LoRASpec(rank=2, alpha=4.0, targets=(targets,) if targets else (), layers=layers)

    shapes = shapes_of(folder, "", lora)

    numbers = 2 * sum(i + o for i, o in shapes.adapted) + len(LABELS) * (shapes.hidden + 1)
    assert numbers == counted(folder, lora)
    assert bool(shapes.adapted) is bool(targets)


def test_the_embedded_model_is_known_and_no_generator_is_moved() -> None:
    before = torch.random.get_rng_state()
    shapes = shapes_of(EMBEDDED, "", LoRASpec(rank=4, alpha=8.0, targets=("query", "value"), layers=2))

    assert shapes.hidden == 384
    assert shapes.adapted == ((384, 384),) * 4
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_downloaded_and_what_is_wrong_is_said(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "bert", "bert")
    with pytest.raises(ModelError, match="downloads nothing"):
        shapes_of("somebody/some-model", "", LoRASpec(4, 8.0, ("query",)))
    with pytest.raises(ModelError, match="no such folder"):
        shapes_of("./nowhere", "", LoRASpec(4, 8.0, ("query",)))
    with pytest.raises(ModelError, match="no linear layer is called quary"):
        shapes_of(folder, "", LoRASpec(4, 8.0, ("quary",)))
    with pytest.raises(ModelError, match="last 99 layers"):
        shapes_of(folder, "", LoRASpec(4, 8.0, ("query",), layers=99))
