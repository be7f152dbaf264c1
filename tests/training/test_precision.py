"""bfloat16 for the frozen base model: what is private stays float32 or wider, and clipping bounds what is summed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.data.batches import collate
from fedrad.errors import ConfigError
from fedrad.model.base import BaseModel
from fedrad.model.buckets import micro_batches
from fedrad.model.build import build
from fedrad.model.kernels import Kernels
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.tasks import classifier as classifier_module
from fedrad.tasks.classifier import Classifier
from fedrad.training.local import run_steps
from fedrad.training.preflight import check_before_first_step
from fedrad.training.recipe import learning_rate, torch_optimizer
from fedrad.training.setup import set_up
from tests import small
from tests.processors import CoupledRows


def ready(precision: str, **changes: object) -> small.Ready:
    return small.ready(small.experiment(train__precision=precision, **changes))


def gradients(here: small.Ready) -> dict[str, Tensor]:
    """Of all reports at once."""
    batch = here.inputs.batch(np.arange(len(here.inputs)))
    classifier = here.setup.classifier
    return leaf_gradients(
        classifier.suffix,
        classifier.adapter(),
        (batch.hidden, batch.attention),
        batch.losses,
    )[1]


def _optimizer(here: small.Ready) -> PrivateOptimizer:
    parameters = here.setup.classifier.adapter()
    rate = learning_rate(here.recipe, here.plan)
    return PrivateOptimizer(torch_optimizer(parameters, here.recipe, rate), here.plan)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_only_the_frozen_weights_are_rounded(pooling: str) -> None:
    here = ready("bfloat16", model__pooling=pooling)
    adapter = {id(p) for p in here.setup.classifier.adapter().values()}
    for name, parameter in here.setup.classifier.named_parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in adapter else torch.bfloat16), name
    assert {tensor.dtype for tensor in here.setup.classifier.state().values()} == {torch.float32}
    assert {gradient.dtype for gradient in gradients(here).values()} == {torch.float32}
    # The float32 model beside it is untouched.
    assert {p.dtype for p in here.setup.base.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_gradients_are_those_of_float32_to_its_precision(pooling: str) -> None:
    exact, rounded = (gradients(ready(p, model__pooling=pooling)) for p in ("float32", "bfloat16"))

    def flat(of: dict[str, Tensor]) -> Tensor:
        return torch.cat([of[name].flatten(1) for name in sorted(of)], dim=1)

    error = float((flat(rounded) - flat(exact)).norm() / flat(exact).norm())
    print(f"{pooling}: relative difference of all gradients {error:.1e}")
    assert 1e-5 < error < 0.05  # 2^-8 a rounding; zero would mean that nothing was rounded


def test_a_report_moves_the_sum_by_at_most_the_clip_norm_exactly() -> None:
    here = ready("bfloat16", privacy__clip=0.01)
    optimizer = _optimizer(here)
    found = gradients(here)
    for row in range(8):
        optimizer.accumulate({name: gradient[row : row + 1] for name, gradient in found.items()})
        total = torch.cat([p.summed_grad.flatten() for p in optimizer.params])
        assert total.dtype == torch.float64
        assert 0.0099 < float(total.norm()) <= 0.01
        for p in optimizer.params:
            p.summed_grad = None


def test_training_arrives_near_where_float32_does() -> None:
    ends = []
    for precision in ("float32", "bfloat16"):
        here = ready(precision, train__learning_rate=0.02)
        check_before_first_step(here.setup, here.recipe, here.plan)
        ends.append(run_steps(here.inputs, here.plan, here.recipe, here.state, 4, site="site-000"))
    assert 1e-7 < small.distance(ends[0].adapter, ends[1].adapter) < 0.02
    assert {tensor.dtype for tensor in ends[1].moments.values()} == {torch.float32}


def test_predictions_are_made_in_the_precision_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernels of training: which ones prediction would choose, and their last bits, are the machine's matter."""
    here = ready("bfloat16")
    asked: list[str] = []

    def kernels_of_training(base: BaseModel, precision: str, device: str) -> Kernels:
        asked.append(precision)
        return here.setup.classifier.kernels

    monkeypatch.setattr(classifier_module, "kernels_for", kernels_of_training)
    small.TASK.export(
        here.setup.classifier, here.setup.base, tmp_path / "adapter", max_length=40, privacy_statement="none"
    )
    loaded = Classifier.load(tmp_path)
    assert asked == ["bfloat16"]
    assert loaded.model.spec.backbone == "bfloat16"
    batch = collate(here.inputs.tokens, np.arange(8), here.setup.pad_id)
    exact = build(
        here.setup.base, replace(loaded.model.spec, backbone="float32"), here.setup.lora, len(small.LABELS), 0
    )
    exact.load_state(here.setup.classifier.state())
    with torch.no_grad():
        trained = here.setup.classifier(batch.ids, batch.attention)
        assert torch.equal(loaded.model(batch.ids, batch.attention), trained)
        # Control: the same adapter on the base model in float32 gives other numbers.
        assert float((exact(batch.ids, batch.attention) - trained).abs().max()) > 1e-4


def test_opacus_hooks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.precision"):
        set_up(small.experiment(train__precision="bfloat16", privacy__gradients="opacus"), small.TASK)


def test_how_reports_share_a_pass_changes_the_sum_by_rounding_only() -> None:
    """In float32 by a millionth of the clip norm; in bfloat16 by enough that hospitals refuse it.

    On a processor whose rows touch each other, which is the case that matters; here that is brought along.
    """
    found = {}
    for precision in ("float32", "bfloat16"):
        with CoupledRows():
            alone, together = (clipped_sum(ready(precision, train__micro_tokens=limit)) for limit in (1, 400))
        found[precision] = float((alone - together).norm())
    print(f"in clip norms: {found}")
    assert found["float32"] < 1e-4
    assert found["bfloat16"] > 10 * found["float32"]
    # By the kernels at hand, whatever they do to rows.
    assert float((clipped_sum(ready("float32", train__micro_tokens=1)) - clipped_sum(ready("float32"))).norm()) < 1e-4


def clipped_sum(here: small.Ready) -> Tensor:
    """Of all reports, in clip norms, cut into micro-batches as its kernels say."""
    optimizer, kernels = _optimizer(here), here.setup.classifier.kernels
    for rows in micro_batches(here.inputs.lengths, np.arange(len(here.inputs)), kernels.micro_tokens):
        batch = here.inputs.batch(rows)
        optimizer.accumulate(
            leaf_gradients(
                here.setup.classifier.suffix,
                here.setup.classifier.adapter(),
                (batch.hidden, batch.attention),
                batch.losses,
            )[1]
        )
    return torch.cat([p.summed_grad.flatten() for p in optimizer.params]) / here.plan.clip
