"""The hospital as the unit, through the whole server: its own ledger, its noise, and what one hospital can change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedrad.errors import ConfigError, QuorumLost
from fedrad.federation import hospital, server
from fedrad.federation import hospital_unit as central
from fedrad.federation.hospital_unit import CentralRounds, central_plan
from fedrad.federation.messages import Reply
from fedrad.federation.participants import Federation, Participant
from fedrad.ledger.view import read_ledger
from fedrad.model.adapter import LoRASpec
from fedrad.privacy.accounting import epsilon
from fedrad.settings import Strategy as Settings
from fedrad.training.strategy import Contribution
from strategies.fedavg import FedAvg
from tests.grid import federate, small

DELTA = 1e-3


def hospital_run(base: str, folder: Path, **changes: object) -> dict[str, object]:
    experiment = small(base, run__out=str(folder), privacy__unit="hospital", privacy__delta=DELTA, **changes)
    federate(experiment)
    figures: dict[str, object] = json.loads((folder / "result.json").read_text())
    return figures


def test_a_run_states_the_servers_ledger_and_whom_it_trusts(base: str, tmp_path: Path) -> None:
    result = hospital_run(base, tmp_path / "run", privacy__epsilon=4.0)
    ledger = read_ledger(tmp_path / "run" / "ledger" / "server")
    assert [(row.round, row.steps, row.done) for row in ledger.rows] == [(1, 1, True), (2, 1, True)]
    assert json.loads(ledger.rows[0].plan)["unit"] == "hospital"
    assert ledger.rows[0].event.sampling_rate == 1.0  # no amplification
    assert result["epsilon"] == {"server": ledger.epsilon}
    assert 3.9 < ledger.epsilon <= 4.0
    statement = str(result["statement"])
    assert "hospital-level (3.999" in statement
    assert "BUT THE SERVER" in statement
    assert "report-level" not in statement


def test_the_charge_is_written_before_the_noise_is_drawn(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*given: object) -> None:
        raise RuntimeError("cut off")

    monkeypatch.setattr(central, "noised_mean", dies)
    with pytest.raises(RuntimeError, match="cut off"):
        hospital_run(base, tmp_path / "run")
    (row,) = read_ledger(tmp_path / "run" / "ledger" / "server").rows
    assert (row.round, row.done) == (1, False)


STATE = {"head.bias": torch.zeros(40), "head.weight": torch.zeros(40, 30)}


def rounds(folder: Path, hospitals: int = 4, epsilon: float = 2.0, seed: int = 0) -> CentralRounds:
    sites = tuple(Participant(f"site-{i:03}", i, i, 10, rank=2, delta=DELTA) for i in range(hospitals))
    lora = LoRASpec(rank=2, alpha=4.0, targets=("query",))
    budget = {"privacy__unit": "hospital", "privacy__delta": DELTA, "privacy__epsilon": epsilon}
    experiment = small("unused", sites__count=hospitals, train__seed=seed, **budget)
    federation = Federation("1", experiment, ("a",), sites, str(folder), frozenset(STATE), lora)
    made = CentralRounds(FedAvg(Settings()), federation, STATE, central_plan(experiment), folder / "server")
    made._expected = {2: dict(STATE)}
    return made


def reply(site: int, values: float | dict[str, Tensor]) -> Reply:
    adapter = {n: torch.full_like(t, values) for n, t in STATE.items()} if isinstance(values, float) else values
    return Reply(f"site-{site:03}", 1, adapter, 10, "0123456789abcdef", 0.0, float("inf"), ())


def moved(folder: Path, replies: Sequence[Reply], **changes: float) -> Tensor:
    (mean,) = rounds(folder, **changes).contributions(replies, 1)  # type: ignore[arg-type]
    return torch.cat([tensor.flatten().double() for _, tensor in sorted(mean.adapter.items())])


@pytest.mark.parametrize("value", [0.01, 3.0, 1e30, float("nan"), float("inf")])
def test_one_hospital_moves_the_released_state_by_no_more_than_the_clip_norm_over_n(
    tmp_path: Path, value: float
) -> None:
    """Same noise on both sides, since it is seeded: the difference is what the noise has to hide."""
    others = [reply(i, 0.001 * i) for i in range(3)]
    without = moved(tmp_path / "without", others)
    present = moved(tmp_path / "with", [*others, reply(3, value)])
    assert float((present - without).norm()) <= 1.0 / 4 * (1 + 1e-5)
    assert bool(torch.isfinite(present).all())


def test_without_clipping_it_would_move_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrad.privacy.hospital_unit.clip_update", lambda update, largest: update)
    others = [reply(i, 0.001 * i) for i in range(3)]
    difference = moved(tmp_path / "a", [*others, reply(3, 3.0)]) - moved(tmp_path / "b", others)
    assert float(difference.norm()) > 10


def test_the_noise_is_that_of_the_plan(tmp_path: Path) -> None:
    plan = rounds(tmp_path)._plan
    drawn = [moved(tmp_path / str(seed), [], seed=seed) for seed in range(8)]
    measured = float(torch.cat(drawn).std())
    expected = plan.noise_multiplier * plan.clip / 4
    assert measured == pytest.approx(expected, rel=4 / (2 * 8 * len(drawn[0])) ** 0.5)
    assert epsilon([(1.0, plan.noise_multiplier, plan.steps)], DELTA) <= 2.0


def test_hospitals_that_do_not_answer_are_zeros_and_do_not_change_the_divisor(base: str, tmp_path: Path) -> None:
    everybody = moved(tmp_path / "all", [reply(i, 0.01) for i in range(4)])
    half = moved(tmp_path / "half", [reply(i, 0.01) for i in range(2)])
    nobody = moved(tmp_path / "none", [])
    torch.testing.assert_close(everybody - nobody, 2 * (half - nobody), rtol=1e-4, atol=1e-6)


def test_a_run_whose_budget_can_not_be_met_and_other_contradictions(base: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small(
            base,
            privacy__unit="hospital",
            sites__count=1,
            strategy__weights="declared",
            sites__epsilons="1",
        )
    said = str(caught.value)
    assert all(key in said for key in ("strategy.weights", "sites.epsilons", "sites.count"))


def test_the_server_uses_it(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with the ordinary rounds in its place the run states no server and nothing hospital-level is true."""
    seen: list[str] = []
    original = server.CentralRounds

    class Watched(original):  # type: ignore[misc, valid-type]
        def contributions(self, replies: Sequence[Reply], server_round: int) -> list[Contribution]:
            seen.extend(r.site for r in replies)
            return super().contributions([replace(r, epsilon=0.0) for r in replies], server_round)

    monkeypatch.setattr(server, "CentralRounds", Watched)
    hospital_run(base, tmp_path / "run", train__rounds=1, sites__quorum=2)
    assert seen == ["site-000", "site-001", "site-002"]
    with pytest.raises(QuorumLost):
        federate(
            small(base, run__out=str(tmp_path / "fails"), privacy__unit="hospital", privacy__delta=DELTA),
            fails=lambda node, message: message.metadata.message_type == "train",
        )


def test_an_update_that_is_not_finite_can_not_be_told_from_one_of_zeros(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would name the hospital without noise, and end the run where all are needed."""
    real = hospital.close_round

    def answers(value: float) -> dict[str, object]:
        def close_round(directory: Path, ledger: Any, asked: Any, opened: Any, after: Any) -> dict[str, Tensor]:
            trained = real(directory, ledger, asked, opened, after)
            if directory.name != "site-001":
                return trained
            sent = opened.before.adapter
            return {name: sent[name] + value * torch.ones_like(sent[name]) for name in trained}

        monkeypatch.setattr(hospital, "close_round", close_round)
        return hospital_run(base, tmp_path / f"run-{value}")

    zeros, broken = answers(0.0), answers(float("nan"))
    told = ("epsilon", "unconfirmed", "statement", "bytes")
    assert [zeros[key] for key in told] == [broken[key] for key in told]
    assert broken["unconfirmed"] == []
    files = [load_file(tmp_path / f"run-{v}" / "adapter" / "adapter_model.safetensors") for v in (0.0, float("nan"))]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_a_lost_answer_leaves_nothing_unconfirmed(base: str, tmp_path: Path) -> None:
    """The only ledger that counts is the server's own."""
    experiment = small(base, run__out=str(tmp_path), privacy__unit="hospital", privacy__delta=DELTA, sites__quorum=2)
    federate(experiment, nodes=3, fails=lambda node, message: message.metadata.message_type == "train" and node == 12)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["unconfirmed"] == []
    assert "NOT CONFIRMED" not in result["statement"]
