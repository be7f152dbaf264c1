from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRALinear, LoRASpec, SampleLinear, add_lora


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 6)
        self.output = nn.ModuleDict({"dense": nn.Linear(6, 8), "query_norm": nn.LayerNorm(8)})


def layers(count: int = 2) -> dict[str, nn.Module]:
    return {f"layer.{i}": Layer().requires_grad_(False) for i in range(count)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 5),
    middle=st.lists(st.integers(1, 4), max_size=2),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_weight_for_each_sample(batch: int, middle: list[int], sizes: tuple[int, int], bias: bool, seed: int) -> None:
    """With one weight per sample, sample b goes through weight b; with the same for all, nothing changes."""
    into, out = sizes
    source = generator(seed)
    linear = SampleLinear(into, out, bias=bias)
    x = torch.randn(batch, *middle, into, generator=source)
    weights = torch.randn(batch, out, into, generator=source)
    biases = torch.randn(batch, out, generator=source)
    names = {"weight": weights} | ({"bias": biases} if bias else {})
    found = torch.func.functional_call(linear, names, (x,))
    for b in range(batch):
        alone = {name: tensor[b] for name, tensor in names.items()}
        torch.testing.assert_close(found[b : b + 1], torch.func.functional_call(linear, alone, (x[b : b + 1],)))
    same = {name: tensor.detach().expand(batch, *tensor.shape) for name, tensor in linear.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(linear, same, (x,)), linear(x))


def test_a_new_adapter_changes_nothing_and_trains_a_and_b_only() -> None:
    base = nn.Linear(8, 6).requires_grad_(False)
    module = LoRALinear(base, rank=2, alpha=4.0)
    nn.init.zeros_(module.lora_B.weight)
    x = torch.randn(3, 5, 8, generator=generator())
    assert torch.equal(module(x), base(x))
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {"lora_A.weight", "lora_B.weight"}
    nn.init.ones_(module.lora_B.weight)
    update = 2.0 * torch.ones(6, 2) @ module.lora_A.weight
    torch.testing.assert_close(module(x), base(x) + x @ update.T)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (("query",), ["layer.0.query", "layer.1.query"]),
        (("dense",), ["layer.0.output.dense", "layer.1.output.dense"]),
        (("output.dense", "query"), ["layer.0.output.dense", "layer.0.query", "layer.1.output.dense", "layer.1.query"]),
        (("all-linear",), ["layer.0.output.dense", "layer.0.query", "layer.1.output.dense", "layer.1.query"]),
        ((), []),
    ],
)
def test_targets(targets: tuple[str, ...], names: list[str]) -> None:
    inside = layers()
    adapted = add_lora(inside, LoRASpec(2, 4.0, targets), generator())
    assert list(adapted) == names
    for name, module in adapted.items():
        prefix, child = name[:7], name[8:]
        assert inside[prefix].get_submodule(child) is module


def test_an_unknown_target_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"no linear layer is called uery, q_proj; there are: dense, query\."):
        add_lora(layers(), LoRASpec(2, 4.0, ("uery", "q_proj", "query")), generator())


@pytest.mark.parametrize(
    "spec",
    [
        LoRASpec(0, 4.0, ("query",)),
        LoRASpec(2, 0.0, ("query",)),
        LoRASpec(2, float("nan"), ("query",)),
        LoRASpec(2, 4.0, ("query",), init="zeros"),
        LoRASpec(7, 4.0, ("query",)),
    ],
)
def test_senseless_settings_are_refused(spec: LoRASpec) -> None:
    with pytest.raises(ModelError):
        add_lora(layers(), spec, generator())


def test_a_depends_on_the_generator_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 17)
        return add_lora(layers(), LoRASpec(3, 4.0, ("query",)), generator(seed))["layer.1.query"].lora_A.weight

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_kaiming_is_the_range_that_peft_draws_from() -> None:
    inside = {"layer": nn.ModuleDict({"query": nn.Linear(400, 64)})}
    a = add_lora(inside, LoRASpec(64, 1.0, ("query",)), generator())["layer.query"].lora_A.weight.detach()
    assert float(a.abs().max()) <= 1 / math.sqrt(400)
    assert float(a.std()) == pytest.approx(1 / math.sqrt(3 * 400), rel=0.02)


@given(rank=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_orthonormal_rows(rank: int, seed: int) -> None:
    adapted = add_lora(layers(1), LoRASpec(rank, 1.0, ("query",), init="orthonormal"), generator(seed))
    a = adapted["layer.0.query"].lora_A.weight.detach()
    torch.testing.assert_close(a @ a.T, torch.eye(rank) / 3, atol=1e-6, rtol=0)


def test_frozen_a_does_not_train() -> None:
    adapted = add_lora(layers(1), LoRASpec(2, 4.0, ("query",), freeze_a=True), generator())
    module = adapted["layer.0.query"]
    assert not module.lora_A.weight.requires_grad
    assert module.lora_B.weight.requires_grad
