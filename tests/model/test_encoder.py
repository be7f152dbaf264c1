from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from tests.model import tiny

LABELS = ("a", "b", "c", "d")
QV = LoRASpec(rank=2, alpha=4.0, targets=("query", "value"), layers=2)
HEAD = LoRASpec(rank=2, alpha=4.0, targets=())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, BaseModel]]:
    folder: Path = tmp_path_factory.mktemp("bases")
    models = {family: tiny.base_of(folder / family, family) for family in tiny.ALL}
    digests = {family: _digest(base) for family, base in models.items()}
    yield models
    assert {family: _digest(base) for family, base in models.items()} == digests  # no test has changed a base model


def _digest(base: BaseModel) -> list[object]:
    names = [name for name, _ in base.module.named_modules()]
    return [names, *(float(tensor.double().sum()) for tensor in base.module.state_dict().values())]


def spec_of(base: BaseModel, pooling: str = "mean") -> ModelSpec:
    return ModelSpec(base.name, pooling=pooling)


def classifier_of(base: BaseModel, lora: LoRASpec = QV, pooling: str = "mean", seed: int = 0) -> ReportClassifier:
    return tiny.randomise(build(base, spec_of(base, pooling), lora, len(LABELS), seed))


def merged(classifier: ReportClassifier, base: BaseModel) -> dict[str, torch.Tensor]:
    """The base model's weights with B A added where the adapter sits."""
    state, adapter = dict(base.module.state_dict()), classifier.state()
    scaling = classifier.lora.alpha / classifier.lora.rank
    for name in adapter:
        if name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            state[f"{layer}.weight"] = state[f"{layer}.weight"] + scaling * adapter[f"{layer}.lora_B"] @ adapter[name]
    return state


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("family", tiny.ALL)
def test_both_parts_together_are_the_stock_encoder(bases: dict[str, BaseModel], family: str, layers: int) -> None:
    base = bases[family]
    classifier = classifier_of(base, LoRASpec(2, 4.0, ("query", "value"), layers))
    assert classifier.prefix_layers == (0 if family == "albert" else (3 - layers) % 3)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    stock = type(base.module)(base.config).eval()
    stock.load_state_dict(merged(classifier, base))
    with torch.no_grad():
        hidden = stock(ids, attention_mask=attention).last_hidden_state
        weight = attention.unsqueeze(-1)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        expected = classifier.suffix.head(pooled)
        torch.testing.assert_close(classifier(ids, attention), expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(classifier.pooled(ids, attention), pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_cls_is_the_stock_sequence_classifier(bases: dict[str, BaseModel], family: str) -> None:
    base = bases[family]
    classifier = classifier_of(base, pooling="cls")
    stock = AutoModelForSequenceClassification.from_config(base.config, attn_implementation="sdpa").eval()
    stock.classifier = torch.nn.Linear(32, len(LABELS))
    getattr(stock, family).load_state_dict(merged(classifier, base))
    stock.classifier.load_state_dict(classifier.suffix.head.state_dict())
    ids, attention = tiny.encode(base, tiny.TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(
            classifier(ids, attention), stock(ids, attention_mask=attention).logits, atol=2e-5, rtol=1e-5
        )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_neither_padding_nor_neighbours_matter(bases: dict[str, BaseModel], family: str, pooling: str) -> None:
    base = bases[family]
    classifier = classifier_of(base, pooling=pooling)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    together = classifier(ids, attention).detach()
    wider = torch.nn.functional.pad(ids, (0, 9)), torch.nn.functional.pad(attention, (0, 9))
    torch.testing.assert_close(classifier(*wider).detach(), together, atol=1e-5, rtol=1e-5)
    for row in range(len(ids)):
        length = int(attention[row].sum())
        alone = classifier(ids[row : row + 1, :length], attention[row : row + 1, :length]).detach()
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)
    # Control: the padding would be seen if it were attended to.
    assert not torch.allclose(classifier(ids, torch.ones_like(attention)).detach(), together, atol=1e-3)


def test_what_prefix_gives_at_padded_places_does_not_matter(bases: dict[str, BaseModel]) -> None:
    """A cache of prefix outputs keeps the tokens only and pads with zeros."""
    classifier = classifier_of(bases["bert"])
    ids, attention = tiny.encode(bases["bert"], tiny.TEXTS)
    hidden = classifier.prefix(ids, attention)
    assert not hidden.requires_grad
    zeroed = hidden * attention.unsqueeze(-1)
    torch.testing.assert_close(classifier.suffix(zeroed, attention), classifier.suffix(hidden, attention))


def test_two_classifiers_share_the_frozen_tensors_and_nothing_else(bases: dict[str, BaseModel]) -> None:
    base = bases["bert"]
    one, two = classifier_of(base), classifier_of(base)
    frozen = {p.data_ptr() for p in base.module.parameters()}
    for classifier in (one, two):
        inside = {p.data_ptr() for p in classifier.parameters() if not p.requires_grad}
        assert inside <= frozen
        assert len(inside) > 20
    assert not {p.data_ptr() for p in one.adapter().values()} & {p.data_ptr() for p in two.adapter().values()}
    assert not {id(m) for m in one.modules()} & {id(m) for m in two.modules()}
    assert not {id(m) for m in one.modules()} & {id(m) for m in base.module.modules()}


def test_training_leaves_the_base_model_alone(bases: dict[str, BaseModel]) -> None:
    base = bases["albert"]
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    classifier = classifier_of(base)
    optimizer = torch.optim.SGD(classifier.adapter().values(), lr=1.0)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    start = classifier.state()
    classifier(ids, attention).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(tensor, start[name]) for name, tensor in classifier.adapter().items())
    assert all(parameter.grad is None for parameter in base.module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.module.state_dict().items())
    assert not any("lora" in name for name, _ in base.module.named_parameters())


def test_names_are_those_of_the_base_model(bases: dict[str, BaseModel]) -> None:
    layer = "encoder.layer.2.attention.self"
    one = build(bases["bert"], spec_of(bases["bert"]), LoRASpec(2, 4.0, ("query", "value"), 1), len(LABELS), 0)
    names = [f"{layer}.query.lora_A", f"{layer}.query.lora_B", f"{layer}.value.lora_A", f"{layer}.value.lora_B"]
    assert list(one.adapter()) == [*names, "head.bias", "head.weight"]
    shared = build(bases["albert"], spec_of(bases["albert"]), LoRASpec(2, 4.0, ("query",), 1), len(LABELS), 0)
    layer = "encoder.albert_layer_groups.0.albert_layers.0.attention.query"
    assert list(shared.adapter()) == [f"{layer}.lora_A", f"{layer}.lora_B", "head.bias", "head.weight"]


def test_deterministic_from_the_seed_and_no_global_generator(bases: dict[str, BaseModel]) -> None:
    base = bases["bert"]
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = build(base, spec_of(base), QV, len(LABELS), seed=5).state()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    again = build(base, spec_of(base), QV, len(LABELS), seed=5).state()
    other = build(base, spec_of(base), QV, len(LABELS), seed=6).state()
    assert first.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert all(torch.equal(tensor, other[name]) != name.endswith("lora_A") for name, tensor in first.items())


def test_a_new_classifier_says_nothing(bases: dict[str, BaseModel]) -> None:
    ids, attention = tiny.encode(bases["bert"], tiny.TEXTS)
    for lora in (QV, HEAD):
        classifier = build(bases["bert"], spec_of(bases["bert"]), lora, len(LABELS), 0)
        assert not classifier.training
        assert bool((classifier(ids, attention) == 0).all())


def test_head_only(bases: dict[str, BaseModel]) -> None:
    base = bases["bert"]
    classifier = classifier_of(base, HEAD)
    assert classifier.head_only
    assert list(classifier.adapter()) == ["head.bias", "head.weight"]
    assert (classifier.prefix_layers, classifier.hidden_size) == (3, 32)
    mean = torch.arange(32.0) / 32
    classifier.set_centring(mean, 2.0)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    features = classifier.prefix(ids, attention)
    torch.testing.assert_close(features, (classifier.pooled(ids, attention) - mean) * 2.0)
    torch.testing.assert_close(classifier.suffix(features, attention), classifier.suffix.head(features))


@pytest.mark.parametrize("lora", [QV, HEAD])
def test_centring_is_folded_exactly(bases: dict[str, BaseModel], lora: LoRASpec) -> None:
    base = bases["bert"]
    classifier = classifier_of(base, lora)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    pooled = classifier.pooled(ids, attention)
    classifier.set_centring(pooled.mean(0), torch.linspace(0.5, 8.0, 32))
    weight, bias = classifier.folded_head()
    torch.testing.assert_close(classifier(ids, attention).detach(), pooled @ weight.T + bias, atol=2e-5, rtol=1e-5)


def test_head_bias(bases: dict[str, BaseModel]) -> None:
    classifier = build(bases["bert"], spec_of(bases["bert"]), QV, len(LABELS), 0)
    log_odds = torch.tensor([-3.0, 0.0, 1.0, -1.0])
    classifier.set_head(torch.zeros(4, 32), log_odds)
    ids, attention = tiny.encode(bases["bert"], tiny.TEXTS)
    torch.testing.assert_close(classifier(ids, attention).detach(), log_odds.expand(len(ids), 4))
    assert classifier.suffix.head.bias.requires_grad


def test_state_holds_all_that_training_may_start_from(bases: dict[str, BaseModel]) -> None:
    base = bases["bert"]
    frozen = LoRASpec(2, 4.0, ("query",), 1, freeze_a=True)
    one = classifier_of(base, frozen, seed=1)
    one.set_centring(torch.ones(32), 3.0)
    layer = "encoder.layer.2.attention.self.query"
    assert f"{layer}.lora_A" not in one.adapter()
    state = one.state()
    assert set(state) == {f"{layer}.lora_A", f"{layer}.lora_B", "head.weight", "head.bias", "centre", "scale"}
    two = classifier_of(base, frozen, seed=2)
    held = two.adapter()
    two.load_state(state)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    assert torch.equal(one(ids, attention), two(ids, attention))
    assert all(two.adapter()[name] is parameter for name, parameter in held.items())  # an optimizer may hold them
    state["head.bias"].fill_(9.0)  # a copy, not a view
    assert torch.equal(one(ids, attention), two(ids, attention))


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype", "nan", "inf"])
def test_an_adapter_that_does_not_fit_is_refused_and_nothing_changed(bases: dict[str, BaseModel], fault: str) -> None:
    classifier = classifier_of(bases["bert"])
    before = classifier.state()
    given = {name: tensor + 1.0 for name, tensor in before.items()}
    match fault:
        case "missing":
            del given["head.bias"]
        case "unknown":
            given["other"] = torch.zeros(1)
        case "shape":
            given["head.bias"] = torch.zeros(1, 4)
        case "dtype":
            given["head.bias"] = given["head.bias"].double()
        case "nan" | "inf":
            given["head.bias"][1] = float(fault)
    with pytest.raises(ModelError, match="other" if fault == "unknown" else r"head\.bias"):
        classifier.load_state(given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state().items())
    with pytest.raises(ModelError, match="centre is unknown"):
        classifier.load_adapter(before)
    trainable = {name: before[name] + 1.0 for name in classifier.adapter()}
    classifier.load_adapter(trainable)
    assert all(torch.equal(tensor, trainable[name]) for name, tensor in classifier.adapter().items())


def test_senseless_constants_are_refused(bases: dict[str, BaseModel]) -> None:
    classifier = classifier_of(bases["bert"])
    for mean, scale in [
        (torch.zeros(31), 1.0),
        (torch.zeros(32), 0.0),
        (torch.zeros(32), math.nan),
        (torch.zeros(32), math.inf),
        (torch.full((32,), math.nan), 1.0),
    ]:
        with pytest.raises(ModelError):
            classifier.set_centring(mean, scale)
    with pytest.raises(ModelError):
        classifier.set_head(torch.zeros(4, 32), torch.zeros(5))


@pytest.mark.parametrize(
    ("lora", "pooling", "message"),
    [
        (LoRASpec(2, 4.0, ("query",), 4), "mean", "last 4 layers can't be adapted"),
        (LoRASpec(2, 4.0, ("query",), -1), "mean", "last -1 layers"),
        (LoRASpec(2, 4.0, ("quary",), 1), "mean", "there are: dense, key, query, value"),
        (QV, "max", "pooling is 'max'"),
    ],
)
def test_what_can_not_be_built_is_refused(
    bases: dict[str, BaseModel], lora: LoRASpec, pooling: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build(bases["bert"], spec_of(bases["bert"], pooling), lora, 1, 0)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra"])
def test_cls_needs_the_pooler_that_stock_classifiers_read(bases: dict[str, BaseModel], family: str) -> None:
    with pytest.raises(ModelError, match="use pooling 'mean'"):
        build(bases[family], spec_of(bases[family], "cls"), HEAD, len(LABELS), 0)


def test_cls_without_pooler_weights_is_refused(tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "model", "bert", pooler=False)
    with pytest.raises(ModelError, match="use pooling 'mean'"):
        build(base, spec_of(base, "cls"), QV, len(LABELS), 0)
    build(base, spec_of(base, "mean"), QV, len(LABELS), 0)


@settings(max_examples=20, deadline=None)
@given(
    layers=st.integers(0, 3),
    rank=st.integers(1, 4),
    targets=st.sampled_from([("key",), ("all-linear",), ("dense", "value")]),
)
def test_adapter_size(bases: dict[str, BaseModel], layers: int, rank: int, targets: tuple[str, ...]) -> None:
    """What travels has the size that rank and layers promise."""
    base = bases["bert"]
    classifier = build(base, spec_of(base), LoRASpec(rank, 1.0, targets, layers), len(LABELS), 0)
    sides = {"key": [64], "value": [64], "dense": [64, 72, 72], "query": [64]}
    chosen = sides if targets == ("all-linear",) else targets
    per_layer = sum(rank * side for name in chosen for side in sides[name])
    expected = (layers or 3) * per_layer + 32 * len(LABELS) + len(LABELS)
    assert sum(parameter.numel() for parameter in classifier.adapter().values()) == expected


def test_frozen_lora_works_and_only_the_head_trains(bases: dict[str, BaseModel]) -> None:
    """A and B as given belong to the part that is run once; the function is the same as with both free."""
    free = LoRASpec(2, 4.0, ("query", "value"), 1)
    base = bases["bert"]
    trained, kept = (
        build(base, ModelSpec(base.name), lora, 2, 0) for lora in (free, replace(free, freeze_a=True, freeze_b=True))
    )
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(tensor.shape, generator=generator).abs() for name, tensor in trained.state().items()}
    trained.load_state(state)
    kept.load_state(state)
    ids, attention = torch.tensor([[2, 5, 6, 3]]), torch.ones(1, 4, dtype=torch.long)
    assert kept.head_only
    assert set(kept.adapter()) == {"head.weight", "head.bias"}
    assert kept.prefix(ids, attention).shape == (1, base.hidden)
    torch.testing.assert_close(kept(ids, attention), trained(ids, attention))
