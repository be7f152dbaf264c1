"""The base residual, and adapters with a core."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from tests.model import tiny

LABELS = ("a", "b")
QV = LoRASpec(rank=2, alpha=4.0, targets=("query", "value"), layers=2)
LAYER = "encoder.layer.2.attention.self.value"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny.base_of(Path(tmp_path_factory.mktemp("model")), "bert")


def classifier_of(base: BaseModel, lora: LoRASpec = QV) -> ReportClassifier:
    spec = ModelSpec(base.name)
    return tiny.randomise(build(base, spec, lora, len(LABELS), seed=0))


def factors(seed: int, rank: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(32, rank, generator=generator), torch.randn(rank, 32, generator=generator)


def state_with(classifier: ReportClassifier, *pairs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    residual = {f"{LAYER}.base_{side}.{k}": pair["BA".index(side)] for k, pair in enumerate(pairs) for side in "BA"}
    return classifier.state() | residual


PATH = "suffix.layers.layers.1.attention.self.value.base.weight"


def test_a_residual_is_added_to_the_frozen_weight_and_to_no_other_model(base: BaseModel) -> None:
    classifier, other = classifier_of(base), classifier_of(base)
    original = dict(classifier.named_parameters())[PATH].clone()
    (u, v), (p, q) = factors(0), factors(1, rank=5)
    classifier.load_state(state_with(classifier, (u, v), (p, q)))
    changed = dict(classifier.named_parameters())[PATH]
    torch.testing.assert_close(changed, original + u @ v + p @ q)
    assert not changed.requires_grad
    assert torch.equal(dict(other.named_parameters())[PATH], original)
    assert torch.equal(base.module.encoder.layer[2].attention.self.value.weight, original)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    assert not torch.allclose(classifier(ids, attention), other(ids, attention), atol=1e-3)
    classifier.load_state(classifier.state())  # a state without a residual takes it away, to the bit
    assert torch.equal(dict(classifier.named_parameters())[PATH], original)
    assert torch.equal(classifier(ids, attention), other(ids, attention))


def test_a_residual_is_the_same_function_as_a_larger_adapter(base: BaseModel) -> None:
    classifier = classifier_of(base)
    u, v = factors(2)
    classifier.load_state(state_with(classifier, (u, v)))
    scaling = QV.alpha / QV.rank
    wider = classifier_of(base, LoRASpec(rank=5, alpha=5 * scaling, targets=QV.targets, layers=2))
    state = classifier.state()
    for name in [name for name in state if name.endswith(".lora_A")]:
        layer = name.removesuffix(".lora_A")
        left, right = (u / scaling, v) if layer == LAYER else (torch.zeros(32, 3), torch.zeros(3, 32))
        state[name] = torch.cat([state[name], right])
        state[f"{layer}.lora_B"] = torch.cat([state[f"{layer}.lora_B"], left], dim=1)
    wider.load_state(state)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    torch.testing.assert_close(classifier(ids, attention), wider(ids, attention), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", ["no partner", "another layer", "shape", "nan"])
def test_a_residual_that_does_not_fit_changes_nothing(base: BaseModel, wrong: str) -> None:
    classifier = classifier_of(base)
    before = classifier.state()
    u, v = factors(3)
    state = {name: torch.zeros_like(t) for name, t in before.items()}
    state |= {f"{LAYER}.base_B.1": u, f"{LAYER}.base_A.1": v}
    if wrong == "no partner":
        del state[f"{LAYER}.base_A.1"]
    elif wrong == "another layer":
        state |= {
            "encoder.layer.0.attention.self.value.base_B.1": u,
            "encoder.layer.0.attention.self.value.base_A.1": v,
        }
    elif wrong == "shape":
        state[f"{LAYER}.base_A.1"] = v[:, :-1]
    else:
        state[f"{LAYER}.base_A.1"] = v * float("nan")
    with pytest.raises(ModelError, match="residual"):
        classifier.load_state(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state().items())


@pytest.mark.parametrize("init", ["base", "orthonormal"])
def test_a_core_between_frozen_orthonormal_factors(base: BaseModel, init: str) -> None:
    lora = LoRASpec(rank=3, alpha=6.0, targets=("value",), layers=1, core=True, init=init)
    classifier = build(base, ModelSpec(base.name), lora, len(LABELS), seed=0)
    state = classifier.state()
    assert sorted(classifier.adapter()) == [f"{LAYER}.lora_R", "head.bias", "head.weight"]
    assert state[f"{LAYER}.lora_R"].shape == (3, 3)
    assert not bool(state[f"{LAYER}.lora_R"].any())
    A, B = state[f"{LAYER}.lora_A"], state[f"{LAYER}.lora_B"]
    torch.testing.assert_close(A @ A.T, torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(B.T @ B, torch.eye(3), atol=1e-6, rtol=0)
    if init == "base":
        W = base.module.encoder.layer[2].attention.self.value.weight
        best = torch.linalg.svdvals(W)[:3]
        torch.testing.assert_close((B.T @ W @ A.T).diagonal(), best, atol=1e-5, rtol=1e-5)
    tiny.randomise(classifier)
    # The same function as plain LoRA with B R in the place of B.
    plain = build(base, ModelSpec(base.name), LoRASpec(3, 6.0, ("value",), 1), len(LABELS), seed=0)
    state = classifier.state()
    core = state.pop(f"{LAYER}.lora_R")
    plain.load_state(state | {f"{LAYER}.lora_B": B @ core})
    ids, attention = tiny.encode(base, tiny.TEXTS)
    torch.testing.assert_close(classifier(ids, attention), plain(ids, attention), rtol=1e-4, atol=1e-5)
