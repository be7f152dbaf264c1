"""A server that sends hospitals different states, or numbers in which noise is lost, learns no more than a sum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import QuorumLost, SecureAggregationRefusal
from fedrad.federation import secure_hospital, secure_rounds, server
from fedrad.federation.messages import Opening
from fedrad.federation.participants import Participant
from fedrad.federation.secure_hospital import bound_run
from fedrad.federation.secure_rounds import SecureRounds
from fedrad.ledger.view import read_ledger
from fedrad.secure.messages import KeyAdvert
from fedrad.training import site as site_module
from fedrad.training.recipe import Recipe, step_scales, torch_optimizer
from fedrad.training.setup import shared_noise_terms
from fedrad.training.site_state import adapter_digest
from tests.grid import simulated_nodes
from tests.secure_run import SHARED, SITES, five, run

LIED_TO = {"site-001", "site-002"}


TINY_STEP = SHARED | {"train__learning_rate": 3e-6}


class Liar(SecureRounds):
    """Sends the head of one hospital as zeros and fills that of the others with ``number``, but for the first row, by
    which the pre-flight check sees it move; and opens the round for each with the state that it will get."""

    number = 200.0

    def _check_state(self, state: Mapping[str, Tensor], server_round: int) -> None:
        self.truth = state

    def _question(self, hospital: Participant, server_round: int, state: Mapping[str, Tensor]) -> Message:
        return super()._question(hospital, server_round, self.told(hospital.site))

    def _stage(self, kind: Any, bodies: Mapping[str, Any], failed: dict[str, str]) -> list[Any]:
        if kind is KeyAdvert:
            bodies = {site: self.opening(body, adapter_digest(self.told(site))) for site, body in bodies.items()}
        return super()._stage(kind, bodies, failed)

    def opening(self, body: Opening, digest: str) -> Opening:
        # Through the module, so that a control can switch the binding off.
        run = secure_hospital.bound_run(self.federation.run, self.experiment, body.noise_multiplier, digest)
        return replace(body, setup=replace(body.setup, run=run), digest=digest)

    def told(self, site: str) -> dict[str, Tensor]:
        return {name: self.lie(tensor, site) if "head." in name else tensor for name, tensor in self.truth.items()}

    def lie(self, tensor: Tensor, site: str) -> Tensor:
        lie = torch.full_like(tensor, self.number if site in LIED_TO else 0.0)
        lie[0] = 0.0
        return lie


def three(base: str, out: Path, **changes: object) -> Experiment:
    one_round = {"train__rounds": 1, "sites__count": 3, "strategy__name": "head", "privacy__epsilon": 1.0}
    return five(base, out, **one_round, **changes)


def lied_to(experiment: Experiment, monkeypatch: pytest.MonkeyPatch, number: float) -> tuple[float, float]:
    """Lets the liar run, and returns the noise in what it learned, in clip norms, and that which was charged."""
    learned: list[NDArray[np.float64]] = []
    original = secure_rounds.decode

    def decode(total: NDArray[np.uint64]) -> NDArray[np.float64]:
        learned.append(original(total))
        return learned[-1]

    monkeypatch.setattr(Liar, "number", number)
    monkeypatch.setattr(secure_rounds, "decode", decode)
    monkeypatch.setattr(server, "SecureRounds", Liar)
    run(experiment, simulated_nodes(3))
    moved = learned[0] - len(LIED_TO) * number
    moved = moved[np.abs(moved) < number / 2]  # not the first rows, in which it did not lie
    row = read_ledger(Path(experiment.run.out) / "ledger" / "site-000").rows[0]
    step = experiment.train.learning_rate * experiment.privacy.clip / experiment.train.batch
    return float(moved.std() / step), row.event.noise_multiplier


def unbound(run: str, experiment: Experiment, noise_multiplier: float, digest: str) -> str:
    return bound_run(run, experiment, noise_multiplier, "")


def test_a_server_can_not_have_the_noise_of_others_swallowed(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By numbers so large that float32 has no place for a step beside them."""
    monkeypatch.setattr(secure_hospital, "bound_run", unbound)
    monkeypatch.setattr(secure_rounds, "bound_run", unbound)
    experiment = three(base, tmp_path / "run", sites__quorum=3, **TINY_STEP)
    with pytest.raises(QuorumLost):
        lied_to(experiment, monkeypatch, 200.0)
    log = capfd.readouterr().err
    for site in LIED_TO:
        assert f"{site} round 1: SecureAggregationRefusal: head.bias: this hospital's noise in it" in log
        assert not read_ledger(tmp_path / "run" / "ledger" / site).rows  # refused before it was charged
    # Control: without the check the sum holds the share of one hospital, and the charge is for three.
    monkeypatch.setattr(site_module, "check_covered", lambda *given: None)
    seen, charged = lied_to(three(base, tmp_path / "broken", sites__quorum=3, **TINY_STEP), monkeypatch, 200.0)
    assert seen == pytest.approx(charged / math.sqrt(3), rel=0.25)
    assert seen < 0.75 * charged
    # Another control: with small numbers in the place of large ones all noise is there, so it is what is measured.
    seen, charged = lied_to(three(base, tmp_path / "small", sites__quorum=3, **TINY_STEP), monkeypatch, 2.0**-12)
    assert seen == pytest.approx(charged, rel=0.25)


def test_numbers_from_which_a_step_could_leave_the_range_are_refused(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = three(base, tmp_path / "run", sites__quorum=3, **SHARED)
    with pytest.raises(QuorumLost):
        lied_to(experiment, monkeypatch, 300.0)
    log = capfd.readouterr().err
    for site in LIED_TO:
        assert f"{site} round 1: SecureAggregationRefusal: head.bias starts with a number beyond 256" in log
        assert not read_ledger(tmp_path / "run" / "ledger" / site).rows


def test_hospitals_with_different_states_do_not_unmask_together(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even where nothing is wrong with the numbers."""
    with pytest.raises(QuorumLost):
        lied_to(three(base, tmp_path / "run", sites__quorum=3, **SHARED), monkeypatch, 2.0)
    assert "were changed in transit, or made for another round or other terms" in capfd.readouterr().err
    # Control: keys that are bound to the configuration alone.
    monkeypatch.setattr(secure_hospital, "bound_run", unbound)
    monkeypatch.setattr(secure_rounds, "bound_run", unbound)
    grid, _, _ = run(three(base, tmp_path / "broken", sites__quorum=3, **SHARED), simulated_nodes(3))
    assert grid.sites("unmask") == SITES[:3]


def test_a_state_that_every_hospital_would_refuse_is_named_at_the_server(base: str, tmp_path: Path) -> None:
    with pytest.raises(
        SecureAggregationRefusal, match=r"head\.bias: this hospital's noise.*Raise train\.learning-rate"
    ):
        run(three(base, tmp_path / "run", sites__quorum=3, **TINY_STEP), simulated_nodes(3))
    assert not list((tmp_path / "run" / "ledger").glob("site-*"))  # nobody was asked


def test_the_scales_are_those_of_the_optimizer(base: str, tmp_path: Path) -> None:
    experiment = five(base, tmp_path / "run", **SHARED)
    recipe = Recipe.of(experiment)
    parameters = {name: torch.nn.Parameter(torch.zeros(1)) for name in ("head.weight", "a.lora_A", "a.lora_B")}
    optimizer = torch_optimizer(parameters, recipe, recipe.learning_rate)
    # The noised sum of a group is divided by its scale in the joint clipping.
    rates = {id(p): group["lr"] / group.get("scale", 1.0) for group in optimizer.param_groups for p in group["params"]}
    step = experiment.privacy.clip / experiment.train.batch
    scales = step_scales(shared_noise_terms(experiment), parameters)
    assert scales == pytest.approx({name: rates[id(p)] * step for name, p in parameters.items()})
