"""Secure aggregation over Flower: the sum is the plain one, whoever vanishes, and no adapter arrives in clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fedrad.errors import ConfigError, QuorumLost
from fedrad.secure import hospital as protocol
from fedrad.secure.fixed_point import DEFAULT_BOUND, encode
from fedrad.simulation import centralized
from fedrad.simulation import client as simulated_client
from fedrad.simulation.one_pass import FusedGrid
from fedrad.training.site import RoundRequest
from tests.grid import simulated_nodes, small, wire_bytes
from tests.secure_run import SHARED, SITES, Watched, adapters, assert_mean, dying, five, plain, run


def test_the_sum_of_all_is_the_plain_mean(base: str, tmp_path: Path) -> None:
    clear, _, _ = run(plain(base, tmp_path / "plain", train__rounds=1))
    secure, state, result = run(five(base, tmp_path / "secure", train__rounds=1))
    sent = adapters(clear)
    assert list(sent) == SITES
    assert_mean(state, sent)
    with pytest.raises(AssertionError):  # control: one hospital less is another mean
        assert_mean(state, {site: sent[site] for site in SITES[1:]})
    assert secure.sites("unmask") == SITES
    assert secure.sites("confirm") == []  # nobody pins identities
    assert "Secure aggregation: the server learned sums over 3 hospitals or more" in result["statement"]
    assert result["bytes"]["up"][0] == 5 * 8 * sum(tensor.numel() for tensor in sent["site-000"].values())


@pytest.mark.parametrize("strategy", ["fedavg", "ffa", "rolora", "head"])
def test_whole_runs_agree(base: str, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """States and ledgers as ever; moments and averages start anew in every round. (A shuffled arrival changes
    nothing.)"""
    forgetful = {"keeps_moments": False, "keeps_average": False}
    with monkeypatch.context() as patch:
        of = RoundRequest.of
        patch.setattr(RoundRequest, "of", lambda *given, **named: replace(of(*given, **named), **forgetful))
        _, expected, first = run(plain(base, tmp_path / "plain", strategy__name=strategy))
    _, state, second = run(five(base, tmp_path / "secure", strategy__name=strategy), shuffle=3)
    assert first["epsilon"] == second["epsilon"]
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)


def test_hospitals_that_vanish_before_and_after_masking(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = dying(("train", "site-001"), ("unmask", "site-003"))
    clear, _, _ = run(plain(base, tmp_path / "plain", train__rounds=1), fails=dying(("train", "site-001")))
    _, state, result = run(five(base, tmp_path / "secure", train__rounds=1), fails=gone)
    sent = adapters(clear)
    assert list(sent) == ["site-000", "site-002", "site-003", "site-004"]
    assert_mean(state, sent)
    assert result["unconfirmed"] == ["site-001"]  # it may have been charged before it died
    assert "site-001     did not count: Flower error code" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["advertise", "share"])
def test_who_falls_out_before_training_is_not_charged(
    base: str, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secure, _, result = run(five(base, tmp_path / "run", train__rounds=1), fails=dying((stage, "site-002")))
    others = [site for site in SITES if site != "site-002"]
    assert secure.sites("train") == others
    assert list(result["epsilon"]) == others
    assert result["unconfirmed"] == []
    assert not (tmp_path / "run" / "ledger" / "site-002" / "ledger.sqlite").exists()
    assert "site-002     did not count" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["advertise", "share", "train", "unmask"])
def test_below_the_quorum_there_is_no_sum(base: str, tmp_path: Path, stage: str) -> None:
    gone = dying(*((stage, site) for site in SITES[:3]))
    with pytest.raises(QuorumLost, match="round 1") as lost:
        run(five(base, tmp_path / "run"), fails=gone)
    if stage != "unmask":
        assert "site-000: Flower error" in str(lost.value)
    assert not (tmp_path / "run" / "result.json").exists()
    with safe_open(tmp_path / "run" / "checkpoint.safetensors", framework="pt") as kept:
        assert kept.metadata()["round"] == "0"


def traces(adapter: Mapping[str, Tensor]) -> list[bytes]:
    """An adapter's longest tensor as bytes, in float32 and in fixed point."""
    longest = max(adapter.values(), key=lambda tensor: tensor.numel()).contiguous().numpy().reshape(-1)
    return [longest.tobytes(), encode(longest, DEFAULT_BOUND).tobytes()]


def seen(grid: Watched, sent: Mapping[str, Mapping[str, Tensor]]) -> int:
    """How many of the adapters the server could read in what left the hospitals."""
    passed = [wire_bytes(content) for content in grid.left]
    return sum(any(trace in raw for trace in traces(adapter) for raw in passed) for adapter in sent.values())


def test_no_adapter_arrives_in_clear(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear, _, _ = run(plain(base, tmp_path / "plain", train__rounds=1))
    sent = adapters(clear)
    assert seen(clear, sent) == 5  # control: the scan finds them where they are
    secure, _, _ = run(five(base, tmp_path / "secure", train__rounds=1))
    assert seen(secure, sent) == 0
    # Control: hospitals that forget their masks.
    monkeypatch.setattr(protocol, "self_mask", lambda seed, setup, site: np.zeros(setup.entries, np.uint64))
    monkeypatch.setattr(protocol, "pair_masks", lambda key, setup, site, peers: np.zeros(setup.entries, np.uint64))
    broken, _, _ = run(five(base, tmp_path / "broken", train__rounds=1))
    assert seen(broken, sent) == 5


def test_no_site_keeps_anything_of_a_round_that_left_masked(base: str, tmp_path: Path) -> None:
    """A later request, whatever it claims to be, finds nothing to send: no answer, no moments, no averages."""
    for name, build in (("plain", plain), ("secure", five)):
        run(build(base, tmp_path / name, train__rounds=1))
        kept = load_file(tmp_path / name / "ledger" / "site-000" / "round.safetensors")
        assert {key.partition("/")[0] for key in kept} == (
            {"moments", "average", "reply"} if name == "plain" else set()
        )


def test_strategies_that_need_each_adapter_are_refused(base: str, tmp_path: Path) -> None:
    for name in ("fedex", "flora", "flexlora"):
        with pytest.raises(ConfigError, match=r"with secure aggregation only the mean is known, and \w+ needs every"):
            run(five(base, tmp_path / name, strategy__name=name))


def contradictions(**changes: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        small("unused", **changes)
    return [problem.partition(":")[0] for problem in caught.value.problems]


def test_contradictions_are_named_all_at_once() -> None:
    wrong = contradictions(
        privacy__secure_aggregation=True,
        privacy__unit="hospital",
        privacy__delta=1e-4,
        strategy__weights="declared",
        sites__count=2,
    )
    assert {"strategy.weights", "privacy.unit", "sites.count", "sites.quorum"} <= set(wrong)
    secure: dict[str, object] = {"privacy__secure_aggregation": True, "sites__count": 5}
    small("unused", **secure, sites__quorum=3)  # control
    assert contradictions(**secure) == ["sites.quorum"]
    assert contradictions(**secure, sites__quorum=2) == ["sites.quorum"]
    assert contradictions(**secure, sites__quorum=3, privacy__colluders=1) == ["sites.quorum"]
    small("unused", **secure, sites__quorum=4, privacy__colluders=1)
    assert contradictions(**secure, sites__quorum=5, privacy__colluders=5) == ["privacy.colluders"]
    assert set(contradictions(privacy__shared_noise=True, privacy__colluders=1, train__local_steps=2)) >= {
        "privacy.shared-noise",
        "privacy.colluders",
        "train.local-steps",
        "train.momentum",
        "train.average",
        "train.learning-rate",
    }
    assert set(contradictions(**secure, sites__quorum=3, **SHARED | {"privacy__epsilon": 0.0})) == {"privacy.epsilon"}
    batches = {"sites__batches": "8,8,8,8,8", "sites__epsilons": "1,1,1,1,1"}
    assert set(contradictions(**secure, sites__quorum=3, **SHARED, **batches)) == {"sites.batches", "sites.epsilons"}


def test_where_there_is_nobody_to_sum_with(base: str, tmp_path: Path) -> None:
    experiment = five(base, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"privacy\.secure-aggregation"):
        centralized.train(experiment)
    with pytest.raises(ConfigError, match="--grid inprocess"):
        FusedGrid(simulated_client.app, simulated_nodes(5), experiment.flat())
