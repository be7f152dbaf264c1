"""Noise that hospitals share: the sum has all of it, no single adapter has, and ledgers are charged for the sum."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedrad.errors import PlanError, PrivacyError
from fedrad.federation.hospital import reply_of
from fedrad.federation.secure_hospital import Masking
from fedrad.ledger.view import read_ledger
from fedrad.training.setup import plan_for, shared_plan, shared_plans
from fedrad.training.site import RoundRequest, open_round
from tests.secure_run import SHARED, SITES, five, run


@pytest.mark.parametrize(("quorum", "colluders"), [(3, 0), (4, 1)])
def test_the_noise_of_the_sum_is_the_central_one_and_no_share_is(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quorum: int, colluders: int
) -> None:
    """Also of the smallest sum, less the colluders in it. At this epsilon the noise is so large that all that moved the
    head is noise."""
    left: dict[str, Tensor] = {}
    original = Masking.mask

    def watched(self: Masking, adapter: Mapping[str, Tensor]) -> bytes:
        left[self.state.site] = adapter["head.weight"].double()
        return original(self, adapter)

    monkeypatch.setattr(Masking, "mask", watched)
    small_budget = SHARED | {"privacy__epsilon": 0.1, "privacy__delta": 1e-4, "train__rounds": 1}
    experiment = five(base, tmp_path / "run", **small_budget, sites__quorum=quorum, privacy__colluders=colluders)
    certain = quorum - colluders
    _, state, result = run(experiment)
    row = read_ledger(tmp_path / "run" / "ledger" / "site-000").rows[0]
    central = row.event.noise_multiplier
    step = experiment.train.learning_rate * experiment.privacy.clip / experiment.train.batch
    entries = state["head.weight"].numel()  # it starts at zero
    close = 4 / math.sqrt(2 * entries)
    summed = float((5 * state["head.weight"].double() / step).std())
    assert summed == pytest.approx(central * math.sqrt(5 / certain), rel=close)
    smallest = torch.stack([left[site] for site in SITES[:certain]]).sum(0)
    assert float((smallest / step).std()) == pytest.approx(central, rel=close)
    for site in SITES:
        share = float((left[site] / step).std())
        assert share == pytest.approx(central / math.sqrt(certain), rel=close)
        assert share != pytest.approx(central, rel=close)
    assert "a single adapter had less noise" in result["statement"]
    assert "against everyone who sees every message" not in result["statement"]
    assert "two hospitals" not in result["statement"]  # figures that compose independent noise would be wrong


def test_all_ledgers_are_charged_with_the_largest_noise_that_one_needs(base: str, tmp_path: Path) -> None:
    experiment = five(base, tmp_path / "run", **SHARED)
    _, _, result = run(experiment)
    declared = result["reports"]["declared"]
    alone = {site: plan_for(experiment, size).noise_multiplier for site, size in declared.items()}
    assert len(set(alone.values())) > 1  # hospitals of different sizes need different noise
    for site in SITES:
        rows = read_ledger(tmp_path / "run" / "ledger" / site).rows
        assert {row.event.noise_multiplier for row in rows} == {max(alone.values())}
        assert json.loads(rows[0].plan)["shared"]["quorum"] == 3
        assert result["epsilon"][site] <= 8.0


def test_a_share_of_noise_can_not_be_had_by_itself(base: str, tmp_path: Path) -> None:
    experiment = five(base, tmp_path / "run", **SHARED)
    plan = plan_for(experiment, 20)
    shared = shared_plan(experiment, plan, plan.noise_multiplier)
    assert shared.own_noise_multiplier == pytest.approx(plan.noise_multiplier / math.sqrt(3))
    assert shared.event(2) == plan.event(2)
    assert shared.id != plan.id
    colluding = five(base, tmp_path / "run", **SHARED, sites__quorum=4, privacy__colluders=1)
    own = shared_plan(colluding, plan, plan.noise_multiplier).own_noise_multiplier
    assert own == pytest.approx(plan.noise_multiplier / math.sqrt(3))  # what colluders add is known to the attacker
    with pytest.raises(PlanError, match="more than the target"):
        shared_plan(experiment, plan, plan.noise_multiplier / math.sqrt(3))
    with pytest.raises(PlanError, match=r"below train\.batch"):
        shared_plans(experiment, {"a": plan, "b": plan_for(experiment, 7)})
    with pytest.raises(PlanError, match="noise can be shared only"):
        replace(shared, epsilon=0.0, noise_multiplier=0.0)
    ledger: Any = None  # never reached
    for wrong in (RoundRequest("run", 1, 1, last=False), RoundRequest("run", 1, 2, last=False, masked=True)):
        with pytest.raises(PrivacyError, match="leaves masked"):
            open_round(tmp_path, ledger, wrong, shared, {})
    request: Any = None
    with pytest.raises(PrivacyError, match="must leave masked"):
        reply_of(request, shared, 1e-5, {}, ledger)
