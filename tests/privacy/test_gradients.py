"""Per-sample gradients against the definition: one report at a time, ordinary backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.checkpoint import checkpoint

from fedrad.errors import PreflightError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel, load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.layers import Suffix
from fedrad.privacy.gradients import leaf_gradients, opacus_gradients
from tests.model import tiny

LABELS = ("a", "b", "c", "d")
ENGINES = (leaf_gradients, opacus_gradients)
Gradients = dict[str, Tensor]


@cache
def base_model(family: str) -> BaseModel:
    return load_base("all-MiniLM-L6-v2") if family == "minilm" else tiny.base_of(Path(mkdtemp()), family)


def classifier_of(
    family: str,
    targets: tuple[str, ...] = ("query", "key", "value"),
    layers: int = 2,
    pooling: str = "mean",
    freeze_a: bool = False,
    core: bool = False,
) -> ReportClassifier:
    base = base_model(family)
    init = "base" if core else "kaiming"
    lora = LoRASpec(rank=3, alpha=6.0, targets=targets, layers=layers, freeze_a=freeze_a, core=core, init=init)
    scale = 0.05 if family == "minilm" else 0.3
    return tiny.randomise(build(base, ModelSpec(base.name, pooling=pooling), lora, len(LABELS), seed=0), scale=scale)


def batch_of(family: str, lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random tokens of ragged lengths, padded, and random labels."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths, default=1)
    ids = torch.randint(5, len(tiny.VOCABULARY), (len(lengths), width), generator=generator)
    attention = (torch.arange(width) < torch.tensor(lengths).reshape(-1, 1)).long()
    labels = torch.randint(0, 2, (len(lengths), len(LABELS)), generator=generator).float()
    return ids * attention, attention, labels


def losses_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1)


def one_at_a_time(classifier: ReportClassifier, ids: Tensor, attention: Tensor, labels: Tensor) -> Gradients:
    """The definition: a forward and a backward for each report alone, without padding."""
    trainable = classifier.adapter()
    rows = []
    for row in range(len(ids)):
        length = int(attention[row].sum())
        logits = classifier(ids[row : row + 1, :length], attention[row : row + 1, :length])
        loss = losses_of(labels[row : row + 1])(logits).sum()
        rows.append(torch.autograd.grad(loss, list(trainable.values())))
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(trainable)}


def relative_error(found: Gradients, expected: Gradients) -> float:
    """Largest relative L2 error, over the samples' whole gradients (what is clipped) and over the tensors."""
    assert {n: g.shape for n, g in found.items()} == {n: g.shape for n, g in expected.items()}
    difference = {name: found[name] - right for name, right in expected.items()}
    of_samples = _per_sample(difference).norm(dim=0) / _per_sample(expected).norm(dim=0)
    of_tensors = [float(d.norm() / expected[name].norm()) for name, d in difference.items()]
    return max(float(of_samples.max()), *of_tensors)


def strict_error(found: Gradients, expected: Gradients) -> float:
    """Largest relative L2 error of any tensor of any sample; for float64, where zero is not rounding noise."""
    difference = {name: found[name] - right for name, right in expected.items()}
    floor = 1e-4 * _per_sample(expected).norm(dim=0)
    return float((_per_sample(difference) / _per_sample(expected).maximum(floor)).max())


def _per_sample(gradients: Gradients) -> Tensor:
    """Norms [tensors, B]."""
    return torch.stack([tensor.flatten(1).norm(dim=1) for tensor in gradients.values()])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_equal_to_one_report_at_a_time(
    family: str,
    pooling: str,
    core: bool,
    engine: Callable[..., tuple[Tensor, Gradients]],
    record_property: Callable[[str, object], None],
) -> None:
    classifier = classifier_of(family, pooling=pooling, core=core)
    ids, attention, labels = batch_of(family, [7, 30, 12, 2, 18, 25, 5, 1])
    expected = one_at_a_time(classifier, ids, attention, labels)
    hidden = classifier.prefix(ids, attention)
    losses, found = engine(classifier.suffix, classifier.adapter(), (hidden, attention), losses_of(labels))
    error = relative_error(found, expected)
    record_property("relative_error", error)
    print(f"{family} {pooling} core={core} {engine.__name__}: largest relative error {error:.2e}")
    assert error < 1e-5, error
    torch.testing.assert_close(losses, losses_of(labels)(classifier(ids, attention)).detach())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_exact_in_double_precision(family: str, engine: Callable[..., tuple[Tensor, Gradients]]) -> None:
    """Without rounding in the way, every tensor of every sample must agree by itself."""
    classifier = copy.deepcopy(classifier_of(family)).double()
    ids, attention, labels = batch_of(family, [7, 30, 12, 2, 18, 25, 5, 1])
    inputs, labels = (classifier.prefix(ids, attention), attention), labels.double()
    _, found = engine(classifier.suffix, classifier.adapter(), inputs, losses_of(labels))
    error = strict_error(found, one_at_a_time(classifier, ids, attention, labels))
    print(f"{family} {engine.__name__} float64: largest relative error {error:.2e}")
    assert error < 1e-9, error


def test_the_embedded_model() -> None:
    classifier = classifier_of("minilm")
    base = base_model("minilm")
    ids, attention = tiny.encode(base, tiny.TEXTS)
    labels = batch_of("bert", [1] * len(ids))[2]
    hidden = classifier.prefix(ids, attention)
    inputs = (hidden, attention)
    _, found = leaf_gradients(classifier.suffix, classifier.adapter(), inputs, losses_of(labels))
    _, oracle = opacus_gradients(classifier.suffix, classifier.adapter(), inputs, losses_of(labels))
    expected = one_at_a_time(classifier, ids, attention, labels)
    errors = relative_error(found, expected), relative_error(oracle, expected), relative_error(found, oracle)
    print(f"MiniLM: leaf {errors[0]:.2e}, Opacus {errors[1]:.2e}, leaf against Opacus {errors[2]:.2e}")
    assert max(errors) < 1e-5, errors


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    family=st.sampled_from(["bert", "albert"]),
    targets=st.sampled_from([(), ("query",), ("value", "dense"), ("all-linear",)]),
    layers=st.integers(0, 3),
    freeze_a=st.booleans(),
    core=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_shape(
    lengths: list[int], family: str, targets: tuple[str, ...], layers: int, freeze_a: bool, core: bool, seed: int
) -> None:
    classifier = copy.deepcopy(classifier_of(family, targets, layers, freeze_a=freeze_a, core=core)).double()
    ids, attention, labels = batch_of(family, lengths, seed)
    inputs, labels = (classifier.prefix(ids, attention), attention), labels.double()
    _, found = leaf_gradients(classifier.suffix, classifier.adapter(), inputs, losses_of(labels))
    assert strict_error(found, one_at_a_time(classifier, ids, attention, labels)) < 1e-9


# Negative controls: the comparison above must catch the ways in which per-sample gradients go wrong.


def test_control_mean_over_the_batch_is_caught() -> None:
    classifier = classifier_of("bert")
    ids, attention, labels = batch_of("bert", [7, 12, 5])
    expected = one_at_a_time(classifier, ids, attention, labels)
    inputs = (classifier.prefix(ids, attention), attention)

    def mean_in_disguise(logits: Tensor) -> Tensor:
        return losses_of(labels)(logits).mean().expand(len(logits))  # right shape, wrong scale

    _, found = leaf_gradients(classifier.suffix, classifier.adapter(), inputs, lambda z: losses_of(labels)(z) / len(z))
    assert relative_error(found, expected) > 0.1
    _, found = leaf_gradients(classifier.suffix, classifier.adapter(), inputs, lambda z: 2 * mean_in_disguise(z))
    assert relative_error(found, expected) > 0.1
    for engine in ENGINES:
        with pytest.raises(PreflightError, match="one number per report"):
            engine(classifier.suffix, classifier.adapter(), inputs, lambda z: losses_of(labels)(z).mean())


def test_control_the_summed_gradient_is_caught() -> None:
    classifier = classifier_of("bert")
    ids, attention, labels = batch_of("bert", [7, 12, 5])
    expected = one_at_a_time(classifier, ids, attention, labels)
    summed = {name: tensor.sum(0, keepdim=True).expand_as(tensor) for name, tensor in expected.items()}
    assert relative_error(summed, expected) > 0.1


def test_control_a_layer_that_mixes_samples_is_caught() -> None:
    class Mixing(nn.Module):
        def __init__(self, suffix: nn.Module) -> None:
            super().__init__()
            self.suffix = suffix

        def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
            logits: Tensor = self.suffix(hidden - hidden.mean(0), attention)
            return logits

    classifier = classifier_of("bert")
    ids, attention, labels = batch_of("bert", [9, 9, 9])
    inputs = (classifier.prefix(ids, attention), attention)
    _, found = leaf_gradients(Mixing(classifier.suffix), classifier.adapter(), inputs, losses_of(labels))
    assert relative_error(found, one_at_a_time(classifier, ids, attention, labels)) > 1e-2


def test_control_padding_that_is_attended_to_is_caught() -> None:
    classifier = classifier_of("bert")
    ids, attention, labels = batch_of("bert", [3, 12, 5])
    blind = torch.ones_like(attention)
    inputs = (classifier.prefix(ids, blind), blind)
    _, found = leaf_gradients(classifier.suffix, classifier.adapter(), inputs, losses_of(labels))
    assert relative_error(found, one_at_a_time(classifier, ids, attention, labels)) > 1e-2


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_sample_runs_nothing(engine: Callable[..., tuple[Tensor, Gradients]]) -> None:
    classifier = classifier_of("bert")

    def never(logits: Tensor) -> Tensor:
        raise AssertionError("the loss was computed")

    inputs = (torch.zeros(0, 5, 32), torch.zeros(0, 5, dtype=torch.long))
    losses, found = engine(classifier.suffix, classifier.adapter(), inputs, never)
    assert losses.shape == (0,)
    assert {n: g.shape for n, g in found.items()} == {n: (0, *p.shape) for n, p in classifier.adapter().items()}


class Headless(nn.Module):
    """Its output does not depend on the head, as when a head was exchanged after the optimizer had been built."""

    def __init__(self, suffix: Suffix) -> None:
        super().__init__()
        self.suffix = suffix

    def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
        assert self.suffix.readout is not None
        features: Tensor = self.suffix.readout(self.suffix.layers(hidden, attention), attention)
        return features[:, : len(LABELS)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tensor_that_is_not_trained_is_an_error(engine: Callable[..., tuple[Tensor, Gradients]]) -> None:
    classifier = classifier_of("bert")
    ids, attention, labels = batch_of("bert", [4, 6])
    inputs, loss = (classifier.prefix(ids, attention), attention), losses_of(labels)
    stranger = {**classifier.adapter(), "copy": nn.Parameter(classifier.suffix.head.weight.detach().clone())}
    with pytest.raises(PreflightError, match="copy: not a parameter"):
        engine(classifier.suffix, stranger, inputs, loss)
    with pytest.raises(PreflightError, match=r"head\.bias, head\.weight: got no gradient"):
        engine(Headless(classifier.suffix), classifier.adapter(), inputs, loss)
    with pytest.raises(PreflightError, match=r"lora_A, .*head\.weight: got no gradient"):
        engine(classifier.suffix, classifier.adapter(), inputs, lambda logits: loss(logits.detach()))
    frozen = {**classifier.adapter(), "base": next(classifier.suffix.layers.parameters())}
    with pytest.raises(PreflightError, match="base: frozen"):
        engine(classifier.suffix, frozen, inputs, loss)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_left_behind(engine: Callable[..., tuple[Tensor, Gradients]]) -> None:
    classifier = classifier_of("bert")
    ids, attention, labels = batch_of("bert", [4, 6])
    inputs = (classifier.prefix(ids, attention), attention)
    trainable = classifier.adapter()
    mark = torch.ones(())
    for parameter in trainable.values():
        parameter.grad = torch.full_like(parameter, 2.0)
        parameter.grad_sample = mark  # what an optimizer has gathered from the micro-batches before
    modules = {name: set(vars(module)) for name, module in classifier.named_modules()}
    state = classifier.state()

    def fails(logits: Tensor) -> Tensor:
        raise RuntimeError("in the middle")

    engine(classifier.suffix, trainable, inputs, losses_of(labels))
    with pytest.raises(RuntimeError, match="in the middle"):
        engine(classifier.suffix, trainable, inputs, fails)
    assert classifier.adapter().keys() == trainable.keys()
    assert all(classifier.adapter()[name] is parameter for name, parameter in trainable.items())
    for parameter in trainable.values():
        assert parameter.grad is not None
        assert bool((parameter.grad == 2.0).all())
        assert vars(parameter) == {"grad_sample": mark}
    for name, module in classifier.named_modules():
        assert set(vars(module)) == modules[name], name
        assert not module.training
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert all(torch.equal(tensor, state[name]) for name, tensor in classifier.state().items())


class Checkpointed(nn.Module):
    def __init__(self, suffix: nn.Module) -> None:
        super().__init__()
        self.suffix = suffix

    def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
        logits: Tensor = checkpoint(self.suffix, hidden, attention, use_reentrant=False)
        return logits


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_under_checkpointing(family: str) -> None:
    classifier = classifier_of(family)
    ids, attention, labels = batch_of(family, [7, 12, 5])
    inputs = (classifier.prefix(ids, attention), attention)
    _, plain = leaf_gradients(classifier.suffix, classifier.adapter(), inputs, losses_of(labels))
    _, again = leaf_gradients(Checkpointed(classifier.suffix), classifier.adapter(), inputs, losses_of(labels))
    assert all(torch.equal(again[name], tensor) for name, tensor in plain.items())


def test_under_autocast_gradients_are_float32() -> None:
    classifier = classifier_of("bert")
    ids, attention, labels = batch_of("bert", [7, 12, 5])
    hidden = classifier.prefix(ids, attention)
    with torch.autocast("cpu", torch.bfloat16):
        losses, found = leaf_gradients(classifier.suffix, classifier.adapter(), (hidden, attention), losses_of(labels))
    assert losses.dtype == torch.float32
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    expected = one_at_a_time(classifier, ids, attention, labels)
    assert relative_error(found, expected) > 1e-5  # else bfloat16 was not in use
    # Of a report's whole gradient, which is what is clipped: a tensor that is nearly zero can be off by any share.
    difference = _per_sample({name: found[name] - right for name, right in expected.items()}).norm(dim=0)
    assert float((difference / _per_sample(expected).norm(dim=0)).max()) < 0.1
