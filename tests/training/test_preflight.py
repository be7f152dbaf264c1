"""The check before the first noisy step: what it must see, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedrad.data import load
from fedrad.data.synthetic import generate
from fedrad.errors import PreflightError
from fedrad.model.adapter import LoRALinear
from fedrad.tasks.single_label import SingleLabel
from fedrad.training import preflight
from fedrad.training.corpus import read_corpus
from fedrad.training.preflight import check_before_first_step
from fedrad.training.recipe import Recipe, torch_optimizer
from fedrad.training.setup import Setup, plan_for, set_up
from tests import small


def check(setup: Setup, **changes: object) -> None:
    exp = small.experiment(**changes)
    check_before_first_step(setup, Recipe.of(exp), plan_for(exp, 40))


def fresh(**changes: object) -> Setup:
    return set_up(small.experiment(**changes), small.TASK)


def loras(setup: Setup) -> list[LoRALinear]:
    return [module for module in setup.classifier.modules() if isinstance(module, LoRALinear)]


@pytest.mark.parametrize("gradients", ["leaf", "opacus"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("targets", ["", "query,value"])
def test_a_good_model_passes(gradients: str, optimizer: str, targets: str) -> None:
    changes = {"privacy__gradients": gradients, "train__optimizer": optimizer, "lora__targets": targets}
    check(fresh(**changes), **changes)


@pytest.mark.parametrize("changes", [{"lora__freeze_a": True}, {"privacy__epsilon": 0.0}, {"train__momentum": 0.0}])
def test_other_good_settings_pass(changes: dict[str, object]) -> None:
    check(fresh(**changes), **changes)


def test_a_single_label_model_passes() -> None:
    check(set_up(small.experiment(), SingleLabel(tuple(f"class {k}" for k in range(11)))))


def test_it_leaves_no_trace() -> None:
    setup = fresh()
    before = {name: tensor.detach().clone() for name, tensor in setup.classifier.state_dict().items()}
    check(setup)

    assert small.same(setup.classifier.state_dict(), before)
    for name, parameter in setup.classifier.named_parameters():
        assert parameter.grad is None, name
        assert parameter.__dict__.get("grad_sample") is None, name
        assert parameter.__dict__.get("summed_grad") is None, name


def test_it_leaves_no_trace_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = fresh()
    before = {name: tensor.detach().clone() for name, tensor in setup.classifier.state_dict().items()}
    loras(setup)[0].scaling = 0.0
    with pytest.raises(PreflightError):
        check(setup)

    assert small.same(setup.classifier.state_dict(), before)


def test_it_reads_generated_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = fresh()
    seen: list[Tensor] = []
    setup.classifier.prefix.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    # Under whatever name a module has imported load_corpus, this is the first thing that it asks for.
    monkeypatch.setattr(load, "corpus_named", lambda *args: pytest.fail("a corpus was read"))
    with pytest.raises(pytest.fail.Exception, match="a corpus was read"):
        read_corpus(small.experiment())  # control
    check(setup)
    texts = [row["text"] for row in islice(generate(8, seed=0), 8)]
    expected = setup.base.tokenizer(texts, truncation=True, max_length=40, padding=True, return_tensors="pt")

    assert len(seen) == 1
    assert torch.equal(seen[0], expected["input_ids"])


# What it must see


def test_an_optimizer_over_copies_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The symptom of meta-pytorch/opacus#820: everything runs, epsilon is spent, and the model never moves."""

    def over_copies(parameters: Mapping[str, nn.Parameter], *rest: Any) -> torch.optim.Optimizer:
        return torch_optimizer({name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}, *rest)

    monkeypatch.setattr(preflight, "torch_optimizer", over_copies)
    with pytest.raises(PreflightError, match="optimizer's parameters"):
        check(fresh())


def test_an_optimizer_that_lacks_a_tensor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_head(parameters: Mapping[str, nn.Parameter], *rest: Any) -> torch.optim.Optimizer:
        return torch_optimizer({name: p for name, p in parameters.items() if name != "head.bias"}, *rest)

    monkeypatch.setattr(preflight, "torch_optimizer", without_head)
    with pytest.raises(PreflightError, match="optimizer's parameters"):
        check(fresh())


def test_a_trainable_tensor_outside_the_adapter_is_seen() -> None:
    setup = fresh()
    setup.classifier.suffix.register_parameter("extra", nn.Parameter(torch.zeros(3)))
    with pytest.raises(PreflightError, match="clipped"):
        check(setup)


@pytest.mark.parametrize("gradients", ["leaf", "opacus"])
def test_a_tensor_that_takes_no_part_is_seen(gradients: str) -> None:
    setup = fresh()
    first = loras(setup)[0]
    first.forward = first.base.forward  # type: ignore[method-assign]
    with pytest.raises(PreflightError):
        check(setup, privacy__gradients=gradients)


@pytest.mark.parametrize("gradients", ["leaf", "opacus"])
def test_a_tensor_whose_gradient_is_zero_is_seen(gradients: str) -> None:
    """Noise would move it all the same, which is why the check takes its step without."""
    setup = fresh()
    loras(setup)[0].scaling = 0.0
    with pytest.raises(PreflightError, match="moves nothing in"):
        check(setup, privacy__gradients=gradients)


def test_a_learning_rate_that_moves_nothing_is_seen() -> None:
    with pytest.raises(PreflightError, match="moves nothing in"):
        check(fresh(), train__learning_rate=1e-30)
