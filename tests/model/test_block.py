"""The block's two short cuts against the plain walk: eager attention, and the first token alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fedrad.model.adapter import LoRASpec
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.layers import Layers
from tests.model import tiny

TARGETS = {"query": ("query",), "key": ("key",), "value": ("value",), "all": ("all-linear",), "qv": ("query", "value")}
LENGTHS = (9, 4, 1, 7)
FIRST = torch.zeros(len(LENGTHS), 1, dtype=torch.int64)


@pytest.fixture(scope="module", params=["bert", "albert"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def classifier_of(folder: Path, family: str, targets: tuple[str, ...]) -> ReportClassifier:
    base = tiny.base_of(folder / "base", family)
    lora = LoRASpec(rank=3, alpha=6.0, targets=targets, layers=1)
    return tiny.randomise(build(base, ModelSpec(base.name, pooling="cls"), lora, 2, 0))


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(len(LENGTHS), 9, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)
    attention = (torch.arange(9) < torch.tensor(LENGTHS).reshape(-1, 1)).long()
    mask = (1 - attention[:, None, None, :].to(dtype)) * torch.finfo(dtype).min
    return hidden, attention, mask


@pytest.mark.parametrize("targets", list(TARGETS))
def test_the_first_token_alone_is_the_first_token(tmp_path: Path, family: str, targets: str) -> None:
    layers = classifier_of(tmp_path, family, TARGETS[targets]).double().suffix.layers
    hidden, _, mask = inputs()
    (block,) = layers.blocks_of(layers.layers[-1])
    whole = block.run(hidden, mask, eager=False)[:, :1]
    torch.testing.assert_close(block.run(hidden, mask, eager=False, places=FIRST), whole)
    with torch.no_grad():  # now with the products taken once per report
        torch.testing.assert_close(block.run(hidden, mask, eager=False, places=FIRST), whole)


def gradients(layers: Layers, hidden: Tensor, attention: Tensor, *, first_token_only: bool) -> dict[str, Tensor]:
    """Of every sample's own matrices, and of the input."""
    layers.first_token_only = first_token_only
    hidden = hidden.clone().requires_grad_()
    names = [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
    leaves = {n: layers.get_parameter(n).detach().expand(len(hidden), -1, -1).requires_grad_() for n in names}
    out = functional_call(layers, leaves, (hidden, attention))[:, 0]
    found = torch.autograd.grad((out * torch.linspace(-1, 2, 32)).sum(), [hidden, *leaves.values()])
    return dict(zip(["hidden", *names], found, strict=True))


@pytest.mark.parametrize("targets", list(TARGETS))
def test_its_gradients_are_the_same_too(tmp_path: Path, family: str, targets: str) -> None:
    layers = classifier_of(tmp_path, family, TARGETS[targets]).double().suffix.layers
    hidden, attention, _ = inputs()
    whole = gradients(layers, hidden, attention, first_token_only=False)
    for name, gradient in gradients(layers, hidden, attention, first_token_only=True).items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-10, rtol=1e-7)
        assert gradient.abs().max() > 1e-6


def test_eager_attention_is_the_fused_kernel(tmp_path: Path, family: str) -> None:
    layers = classifier_of(tmp_path, family, TARGETS["qv"]).double().suffix.layers
    hidden, _, mask = inputs()
    (block,) = layers.blocks_of(layers.layers[-1])
    torch.testing.assert_close(block.run(hidden, mask, eager=True), block.run(hidden, mask, eager=False))


def test_a_cls_classifier_leaves_out_what_its_head_does_not_read(tmp_path: Path, family: str) -> None:
    """And a classifier that reads the mean leaves out nothing."""
    classifier = classifier_of(tmp_path, family, TARGETS["qv"])
    hidden, attention, _ = inputs(torch.float32)
    assert classifier.suffix.layers(hidden, attention).shape == (4, 1, 32)
    base = tiny.base_of(tmp_path / "again", family)
    mean = build(base, ModelSpec(base.name), classifier.lora, 2, 0)
    assert mean.suffix.layers(hidden, attention).shape == (4, 9, 32)
    head_only = build(base, ModelSpec(base.name, pooling="cls"), LoRASpec(1, 1.0, ()), 2, 0)
    assert head_only.prefix.layers.first_token_only
    assert not head_only.suffix.layers.first_token_only
