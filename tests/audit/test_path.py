"""Canaries in the real training path: the claims hold, and a path that is broken on purpose is caught."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from fedrad.audit import controls
from fedrad.audit.battery import outcome_of
from fedrad.audit.canaries import CANARIES, with_canaries
from fedrad.audit.outcome import Outcome
from fedrad.audit.stage import Seen, Stage, centralized_view, gradient_stage, server_view
from fedrad.errors import ConfigError
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.settings import TEXT
from fedrad.tasks.causal_lm import CausalLM
from tests import small
from tests.audit.stages import experiment, stage
from tests.test_layout import house

Broken = Callable[[], AbstractContextManager[Any]]
CONTROLS: list[tuple[str, Broken]] = [
    ("report", controls.noise_off),
    ("report", controls.noise_quartered),
    ("report", controls.no_subsampling),
    ("report", controls.clip_ignored),
    ("patient", controls.patients_clipped_by_report),
    ("decoder", controls.noise_quartered),
    ("decoder", controls.no_subsampling),
    ("decoder", controls.clip_ignored),
]


def audited(on: Stage, opened: Broken = controls.intact, view: Callable[[Stage], Seen] = centralized_view) -> Outcome:
    broken = "" if opened is controls.intact else opened.__name__
    with opened():
        seen = view(on)
    return outcome_of("gradient", "final head", broken, on.experiment, seen, on.inside, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["report", "patient", "decoder"])
def test_of_the_path_as_it_is_the_bounds_are_below_what_the_ledger_charged(kind: str) -> None:
    outcome = audited(stage(kind))
    assert outcome.epsilon == pytest.approx(1.5, abs=0.01)
    assert outcome.passed
    # Control: the canaries are seen at all. (Of a patient's, fewer.)
    assert outcome.guesses.correct > 0.5 * outcome.guesses.made


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "opened"), CONTROLS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_path_is_caught(kind: str, opened: Broken) -> None:
    outcome = audited(stage(kind), opened)
    assert outcome.refuted
    assert outcome.passed  # as a control


@pytest.mark.slow
def test_half_of_the_noise_is_caught_and_all_of_it_is_not() -> None:
    many = gradient_stage(experiment(train__batch=200), 3000)
    right, halved = audited(many), audited(many, controls.noise_halved)
    assert right.passed
    assert halved.refuted
    assert halved.bound < halved.epsilon  # control: it is the pairs that show it


@pytest.mark.slow
def test_a_server_refutes_no_claim_and_sees_a_hospital_that_is_broken() -> None:
    federated = gradient_stage(experiment(sites__count=2, train__rounds=3, train__local_steps=20), 800)
    assert audited(federated, view=server_view).passed
    assert audited(federated, controls.noise_quartered, server_view).refuted


@pytest.mark.parametrize("kind", ["report", "decoder"])
def test_a_canary_has_its_own_coordinate_and_nothing_else(kind: str) -> None:
    on = stage(kind)
    last = np.arange(len(on.inputs) - 3, len(on.inputs))
    batch, classifier = on.inputs.batch(np.append(0, last)), on.setup.classifier
    _, grads = leaf_gradients(classifier.suffix, classifier.adapter(), batch.read, batch.losses)
    own = grads.pop(CANARIES)
    assert own[0].abs().sum() == 0  # an ordinary report
    assert (own[1:] != 0).sum(dim=1).tolist() == [1, 1, 1]
    assert own[1:].argmax(dim=1).tolist() == np.flatnonzero(on.inside)[-3:].tolist()
    assert all(not grad[1:].any() for grad in grads.values())
    assert any(bool(grad[0].any()) for grad in grads.values())
    if kind == "decoder":  # no head, and nothing of the vocabulary, is trained
        assert all(".lora_" in name for name in grads)


def test_the_steps_are_the_training_loops_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of an audit is a step of the private optimizer, and is in the ledger."""
    taken, before = [], PrivateOptimizer.step_noisy

    def counted(optimizer: PrivateOptimizer, *streams: Any) -> None:
        taken.append(optimizer.plans[0].noise_multiplier)
        before(optimizer, *streams)

    monkeypatch.setattr(PrivateOptimizer, "step_noisy", counted)
    few = gradient_stage(experiment(train__rounds=2, train__local_steps=3), 20)
    seen = centralized_view(few)
    assert [noise for noise in taken if noise] == [few.plan.noise_multiplier] * 6  # the pre-flight's has none
    assert seen.epsilon == pytest.approx(few.plan.epsilon, abs=0.01)


def test_controls_are_over_when_they_are_closed_and_nothing_else_leads_to_them() -> None:
    few = gradient_stage(experiment(train__rounds=1, train__local_steps=2), 20)
    intact: dict[str, Tensor] = {"scores": _scores(few)}
    for opened in {control for _, control in CONTROLS}:
        with opened():
            pass
        assert small.same({"scores": _scores(few)}, intact)
    with controls.noise_off():
        assert not small.same({"scores": _scores(few)}, intact)  # control: it was open
    importing = {
        module
        for module, statements in house().items()
        for statement in statements
        if any(target.startswith("fedrad.audit.controls") for target in statement.targets)
    }
    assert importing == {"fedrad.audit.battery"}


def _scores(on: Stage) -> Tensor:
    import torch

    return torch.from_numpy(centralized_view(on).scores)


def test_canaries_of_a_loss_that_they_do_not_know_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.loss"):
        with_canaries(CausalLM(("edema", "effusion"), "Which?", TEXT), 1.0, 3)
