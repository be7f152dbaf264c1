"""Secure aggregation over Flower: the sum is the plain one, nothing else arrives, and no stage is answered twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import (
    ConfigError,
    FederationError,
    FedradError,
    PlanError,
    PrivacyError,
    QuorumLost,
    RefusedReply,
    SecureAggregationRefusal,
    SitesMissing,
)
from fedrad.federation import client, secure_hospital, secure_rounds, server
from fedrad.federation import hospital as hospital_module
from fedrad.federation.hospital import reply_of
from fedrad.federation.identity import make_identity, read_identity
from fedrad.federation.messages import (
    Failure,
    Opening,
    Reply,
    StageRequest,
    read_reply,
    read_stage,
    read_stage_answer,
    reply_content,
    request_content,
    stage_answer_content,
    stage_content,
)
from fedrad.federation.rounds import Hospital
from fedrad.federation.secure_hospital import Masking, bound_run
from fedrad.federation.secure_rounds import STAGE, SecureRounds
from fedrad.ledger.view import read_ledger
from fedrad.secure import hospital as protocol
from fedrad.secure.fixed_point import DEFAULT_BOUND, encode, error_bound
from fedrad.secure.keys import Identity
from fedrad.secure.messages import Inbox, KeyAdvert, Roster, SealedShares, Unmasking, UnmaskRequest
from fedrad.secure.server import build_roster, inboxes
from fedrad.secure.setup import RoundSetup
from fedrad.simulation import centralized
from fedrad.simulation import client as simulated_client
from fedrad.simulation.one_pass import FusedGrid
from fedrad.training import site as site_module
from fedrad.training.local import Recipe, torch_optimizer
from fedrad.training.setup import plan_for, shared_noise_terms, shared_plan, shared_plans
from fedrad.training.site import RoundRequest, adapter_digest, open_round, step_scales, train_round
from tests.grid import InProcessGrid, Mercy, forget, posted, simulated_nodes, small, wire_bytes
from tests.model import tiny

SITES = [f"site-{i:03}" for i in range(5)]
SHARED: dict[str, object] = {
    "privacy__shared_noise": True,
    "train__local_steps": 1,
    "train__momentum": 0.0,
    "train__average": 0.0,
    "train__learning_rate": 0.5,
}


_runs = count(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("base"), "bert")


class Watched(InProcessGrid):
    """Remembers all that hospitals answered, and the stages that they were asked."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.left: list[RecordDict] = []
        self.asked: list[tuple[str, str]] = []

    def answer(self, message: Message) -> Message:
        self.asked.append((stage_of(message), site_of(message)))
        reply = super().answer(message)
        if not reply.has_error():
            self.left.append(reply.content)
        return reply

    def sites(self, stage: str) -> list[str]:
        return sorted(site for asked, site in self.asked if asked == stage)


def stage_of(message: Message) -> str:
    record = message.content.config_records.get("stage")
    return str(record["stage"]) if record is not None else str(message.metadata.message_type)


def site_of(message: Message) -> str:
    records = message.content.config_records
    record = records.get("stage", records.get("request"))
    return "" if record is None else str(record["site"])


def dying(*when: tuple[str, str]) -> Callable[[int, Message], bool]:
    """Nodes that die at these (stage, site)."""
    return lambda node, message: (stage_of(message), site_of(message)) in when


def run(
    experiment: Experiment, nodes: list[dict[str, Any]] | None = None, **options: Any
) -> tuple[Watched, dict[str, Tensor], dict[str, Any]]:
    """The whole ServerApp: what passed, the final state, and ``result.json``."""
    config = experiment.flat()
    nodes = nodes or simulated_nodes(5)
    app = client.app if "site" in nodes[0] else simulated_client.app
    grid = Watched(app, nodes, config, **options)
    server.app(
        grid, Context(run_id=next(_runs), node_id=0, node_config={}, state=RecordDict(), run_config=dict(config))
    )
    out = Path(experiment.run.out)
    return grid, load_file(out / "checkpoint.safetensors"), json.loads((out / "result.json").read_text())


def five(base: str, out: Path, **changes: object) -> Experiment:
    # A rate of its own, since the automatic one makes up for momentum that restarts.
    given: dict[str, object] = {
        "sites__count": 5,
        "sites__quorum": 3,
        "privacy__secure_aggregation": True,
        "train__learning_rate": 0.5,
    }
    return small(base, run__out=str(out), **(given | changes))


def plain(base: str, out: Path, **changes: object) -> Experiment:
    return five(base, out, privacy__secure_aggregation=False, **changes)


def adapters(grid: Watched) -> dict[str, dict[str, Tensor]]:
    """What each hospital sent in clear in its last answer."""
    replies = [read_reply(message.content) for message in grid.trained if not message.has_error()]
    return {reply.site: reply.adapter for reply in replies if isinstance(reply, Reply)}


def assert_mean(state: Mapping[str, Tensor], sent: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Within the bound of the fixed point, and the rounding of the mean to float32."""
    count = len(sent)
    for name in next(iter(sent.values())):
        mean = torch.stack([adapter[name].double() for adapter in sent.values()]).mean(0)
        bound = error_bound(count, DEFAULT_BOUND) / count + mean.abs() * 2.0**-23
        assert bool(((state[name].double() - mean).abs() <= bound).all()), name


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
    """Deliveries and ledgers as ever; moments and averages start anew in every round. (A shuffled arrival changes
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
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


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
        with pytest.raises(ConfigError, match=r"needs every hospital's update, and with privacy\.secure-aggregation"):
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


# Shared noise


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
    with pytest.raises(PlanError, match="share their noise"):
        replace(shared, epsilon=0.0, noise_multiplier=0.0)
    ledger: Any = None  # never reached
    for wrong in (RoundRequest("run", 1, 1, last=False), RoundRequest("run", 1, 2, last=False, masked=True)):
        with pytest.raises(PrivacyError, match="leaves masked"):
            open_round(tmp_path, ledger, wrong, shared, {})
    request: Any = None
    with pytest.raises(PrivacyError, match="must leave masked"):
        reply_of(request, shared, 1e-5, {}, ledger)


# A server that sends different states


LIED_TO = {"site-001", "site-002"}
TINY_STEP = SHARED | {"train__learning_rate": 3e-6}


class Liar(SecureRounds):
    """Sends the head of one hospital as zeros and fills that of the others with ``number``, but for the first row, by
    which the pre-flight check sees it move; and opens the round for each with the state that it will get."""

    number = 200.0

    def _check_state(self, state: Mapping[str, Tensor], server_round: int) -> None:
        self.truth = state

    def _question(self, hospital: Hospital, server_round: int, state: Mapping[str, Tensor]) -> Message:
        return super()._question(hospital, server_round, self.told(hospital.site))

    def _stage(self, kind: Any, bodies: Mapping[str, Any], failed: dict[str, str]) -> list[Any]:
        if kind is KeyAdvert:
            bodies = {site: self.opening(body, adapter_digest(self.told(site))) for site, body in bodies.items()}
        return super()._stage(kind, bodies, failed)

    def opening(self, body: Opening, digest: str) -> Opening:
        # Through the module, so that a control can switch the binding off.
        run = secure_hospital.bound_run(self.federation.run, self._experiment, body.noise_multiplier, digest)
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
        assert f"{site} round 1: SecureAggregationRefusal: head.bias: the share of noise in it" in log
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
    assert "were changed on their way, or made for another round or other terms" in capfd.readouterr().err
    # Control: keys that are bound to the configuration alone.
    monkeypatch.setattr(secure_hospital, "bound_run", unbound)
    monkeypatch.setattr(secure_rounds, "bound_run", unbound)
    grid, _, _ = run(three(base, tmp_path / "broken", sites__quorum=3, **SHARED), simulated_nodes(3))
    assert grid.sites("unmask") == SITES[:3]


def test_a_state_that_every_hospital_would_refuse_is_named_at_the_server(base: str, tmp_path: Path) -> None:
    with pytest.raises(SecureAggregationRefusal, match=r"head\.bias: the share of noise.*Raise train\.learning-rate"):
        run(three(base, tmp_path / "run", sites__quorum=3, **TINY_STEP), simulated_nodes(3))
    assert not list((tmp_path / "run" / "ledger").glob("site-*"))  # nobody was asked


def test_the_scales_are_those_of_the_optimizer(base: str, tmp_path: Path) -> None:
    experiment = five(base, tmp_path / "run", **SHARED)
    recipe = Recipe.of(experiment)
    parameters = {name: torch.nn.Parameter(torch.zeros(1)) for name in ("head.weight", "a.lora_A", "a.lora_B")}
    optimizer = torch_optimizer(parameters, recipe, recipe.learning_rate)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    step = experiment.privacy.clip / experiment.train.batch
    scales = step_scales(shared_noise_terms(experiment), parameters)
    assert scales == pytest.approx({name: rates[id(p)] * step for name, p in parameters.items()})


# Real hospitals


class Sisters:
    """Three real hospitals, and the run that a server proposes to them."""

    def __init__(self, folder: Path, **node: object) -> None:
        self.folder = folder
        base = tiny.save(folder / "base", "bert")
        self.hospitals = [Mercy(folder / name, epsilon_cap=20.0, base=base) for name in ("ava", "bea", "cleo")]
        for name, hospital in zip(("ava", "bea", "cleo"), self.hospitals, strict=True):
            hospital.node |= {"site": name, **node}
        self.config = self.hospitals[0].experiment.flat() | {
            "data.path": str(self.hospitals[0].table),
            "sites.count": 3,
            "sites.quorum": 2,
            "privacy.secure-aggregation": True,
            "run.out": str(folder / "run"),
        }

    def experiment(self, **changes: object) -> Experiment:
        return Experiment.from_flat(
            self.config | {key.replace("__", ".").replace("_", "-"): v for key, v in changes.items()}
        )

    def run(self, **changes: object) -> tuple[Watched, dict[str, Tensor], dict[str, Any]]:
        return run(self.experiment(**changes), [hospital.node for hospital in self.hospitals])


@pytest.fixture
def sisters(tmp_path: Path) -> Sisters:
    forget()
    return Sisters(tmp_path)


def test_real_hospitals(sisters: Sisters) -> None:
    grid, _, result = sisters.run()
    assert grid.sites("unmask") == ["ava", "ava", "bea", "bea", "cleo", "cleo"]
    assert list(result["epsilon"]) == ["ava", "bea", "cleo"]
    state = sisters.folder / "ava" / "state"
    assert {path.name for path in state.iterdir()} >= {"secure-aggregation.json", "secure-aggregation.rounds"}
    for name in ("secure-aggregation.json", "secure-aggregation.rounds"):
        assert (state / name).stat().st_mode & 0o777 == 0o600
    assert b"Answered" in bytes.fromhex(
        json.loads((state / "secure-aggregation.json").read_text())["fields"]["state"]["hex"]
    )


def test_a_real_hospital_refuses_shared_noise_by_default(sisters: Sisters) -> None:
    with pytest.raises(QuorumLost, match="ava: policy"):
        sisters.run(**SHARED)
    for hospital in sisters.hospitals:
        hospital.node["allow-shared-noise"] = True
    with pytest.raises(SitesMissing, match="0 of 3"):  # nor without pinned peers and a smallest sum of its own
        sisters.run(run__out=str(sisters.folder / "unpinned"), sites__connect_timeout=0.1, **SHARED)
    pin(sisters)
    for hospital in sisters.hospitals:
        hospital.node["min-quorum"] = 2
    _, _, result = sisters.run(**SHARED, run__out=str(sisters.folder / "allowed"))
    assert "falls with secure aggregation" in result["statement"]


def test_a_real_hospital_has_a_smallest_sum_of_its_own(sisters: Sisters) -> None:
    sisters.hospitals[0].node["min-quorum"] = 3
    proposals: list[dict[str, object]] = [{}, {"privacy__secure_aggregation": False}]
    for changes in proposals:
        out = str(sisters.folder / f"run-{len(changes)}")
        _, _, result = sisters.run(run__out=out, **changes)
        assert list(result["epsilon"]) == ["bea", "cleo"]
        assert not (sisters.folder / "ava" / "state" / "ledger.sqlite").exists()
    _, _, result = sisters.run(run__out=str(sisters.folder / "three"), sites__quorum=3)
    assert list(result["epsilon"]) == ["ava", "bea", "cleo"]


def pin(sisters: Sisters) -> None:
    keys = {}
    for hospital in sisters.hospitals:
        file = hospital.folder / "identity.key"
        keys[hospital.node["site"]] = make_identity(file)
        hospital.node |= {"identity-key": str(file), "peers": str(hospital.folder / "peers")}
    for hospital in sisters.hospitals:
        lines = ["# exchanged by telephone", *(f"{site} {key}" for site, key in keys.items())]
        (hospital.folder / "peers").write_text("\n".join(lines) + "\n")


def test_pinned_identities(sisters: Sisters) -> None:
    pin(sisters)
    grid, _, _ = sisters.run(train__rounds=1)
    assert grid.sites("confirm") == ["ava", "bea", "cleo"]
    # A hospital to which somebody gave a wrong key for another one takes no part, and so does not train.
    peers = sisters.hospitals[2].folder / "peers"
    wrong = make_identity(sisters.folder / "other.key")
    peers.write_text("\n".join(f"ava {wrong}" if x.startswith("ava") else x for x in peers.read_text().splitlines()))
    grid, _, result = sisters.run(run__out=str(sisters.folder / "second"), train__rounds=1)
    assert grid.sites("train") == ["ava", "bea"]
    assert list(result["epsilon"]) == ["ava", "bea"]


def test_identity_files(tmp_path: Path) -> None:
    key, peers = tmp_path / "key", tmp_path / "peers"
    public = make_identity(key)
    peers.write_text(f"ava {public}\n")
    assert read_identity(key, peers).pinned == {"ava": bytes.fromhex(public)}
    with pytest.raises(ConfigError, match="made once"):
        make_identity(key)
    for content, says in ((f"ava {public}\nava {public}\n", "twice"), ("ava 00ff\n", "no key"), ("ava\n", "no key")):
        peers.write_text(content)
        with pytest.raises(ConfigError, match=says):
            read_identity(key, peers)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_identity(key, peers)


class One:
    """One real hospital, and the rest of a run played by the test: the server, and its sisters in a sum."""

    def __init__(self, folder: Path, *, noise_multiplier: float = 0.0, pinned: bool = False, **changes: object) -> None:
        self.sisters = Sisters(folder)
        self.mercy = self.sisters.hospitals[0]
        self.experiment = self.sisters.experiment(**changes)
        self.noise_multiplier = noise_multiplier
        self.identities: dict[str, Identity | None] = {"bea": None, "cleo": None}
        if pinned:
            pin(self.sisters)
            for sister in self.sisters.hospitals[1:]:
                files = (Path(sister.node["identity-key"]), Path(sister.node["peers"]))
                self.identities[sister.node["site"]] = read_identity(*files)
        self.others: dict[str, protocol.State] = {}
        self.turn_to(1)

    def turn_to(self, round: int) -> None:
        """The next stages are those of this round, for the state that the test's server has by now."""
        self.round, self.digest = round, self.mercy.request().state.digest
        entries = sum(tensor.numel() for name, tensor in self.mercy.state.items() if name not in ("centre", "scale"))
        bound = bound_run("7", self.experiment, self.noise_multiplier, self.digest)
        self.setup = RoundSetup(bound, round, ("ava", "bea", "cleo"), self.experiment.sites.quorum, entries)

    def ask(self, content: RecordDict, kind: str = STAGE, **run_config: Any) -> RecordDict:
        message = posted(Message(content=content, message_type=kind, dst_node_id=10))
        node = InProcessGrid(client.app, [self.mercy.node], {**self.experiment.flat(), **run_config})
        (reply,) = node.send_and_receive([message])
        return reply.content

    def stage(self, body: Any, **changes: Any) -> RecordDict:
        request = StageRequest(run="7", site="ava", index=-1, round=self.round, directory="", body=body)
        return self.ask(stage_content(replace(request, **changes)))

    def open(self) -> RecordDict:
        return self.stage(Opening(self.setup, self.noise_multiplier, self.digest))

    def share(self) -> Inbox:
        """Both stages before training; what the others sealed for the hospital."""
        advert = read_stage_answer(self.open(), KeyAdvert)
        assert isinstance(advert, KeyAdvert)
        adverts = [advert]
        for name, identity in self.identities.items():
            self.others[name], other = protocol.advertise(self.setup, name, (), identity)
            adverts.append(other)
        roster = build_roster(self.setup, adverts)
        sealed = read_stage_answer(self.stage(roster), SealedShares)
        assert isinstance(sealed, SealedShares)
        all_sealed = [sealed]
        for name in self.identities:
            self.others[name], other_sealed = protocol.share_keys(self.others[name], roster)
            all_sealed.append(other_sealed)
        self.roster = roster
        return inboxes(self.setup, roster, all_sealed)["ava"]

    def train(self, inbox: Inbox | None, **run_config: Any) -> RecordDict:
        return self.ask(self.request(inbox=inbox), MessageType.TRAIN, **run_config)

    def request(self, **changes: Any) -> RecordDict:
        of_the_run = {"site": "ava", "round": self.round, "rounds": self.experiment.train.rounds}
        return request_content(self.mercy.request(**of_the_run | changes))

    @property
    def charges(self) -> int:
        return len(read_ledger(Path(self.mercy.node["state-dir"])).rows)


@pytest.fixture
def one(tmp_path: Path) -> One:
    forget()
    return One(tmp_path)


def code(content: RecordDict) -> str:
    answer = read_reply(content)
    assert isinstance(answer, Failure), answer
    return answer.code


def test_no_stage_is_answered_twice(one: One) -> None:
    inbox = one.share()
    assert code(one.open()) == "secure-aggregation"
    assert code(one.stage(one.roster)) == "secure-aggregation"
    first = read_reply(one.train(inbox))
    assert isinstance(first, Reply)
    assert not first.adapter
    assert len(first.masked) == 8 * one.setup.entries
    assert one.charges == 1
    assert code(one.train(inbox)) == "secure-aggregation"
    assert one.charges == 1  # refused before it was charged
    revealed = read_stage_answer(one.stage(UnmaskRequest(("ava", "bea", "cleo"), {})), Unmasking)
    assert isinstance(revealed, Unmasking)
    assert set(revealed.seed_shares) == {"ava", "bea", "cleo"}
    assert code(one.stage(UnmaskRequest(("ava", "bea"), {}))) == "secure-aggregation"
    # Whatever happens to the state, the round stays answered.
    (Path(one.mercy.node["state-dir"]) / "secure-aggregation.json").unlink()
    assert code(one.open()) == "secure-aggregation"


def test_a_hospital_reveals_no_share_for_a_sum_of_too_few(one: One) -> None:
    """Whatever the server names as survivors. The quorum is two here; a sum of one is the hospital's own adapter."""
    inbox = one.share()
    assert isinstance(read_reply(one.train(inbox)), Reply)
    assert code(one.stage(UnmaskRequest(("ava",), {}))) == "secure-aggregation"
    revealed = read_stage_answer(one.stage(UnmaskRequest(("ava", "bea"), {})), Unmasking)  # control
    assert isinstance(revealed, Unmasking)


def test_a_masked_round_is_not_answered_in_clear_afterwards(one: One) -> None:
    """The server says that there is no secure aggregation any more and asks for the round again."""
    inbox = one.share()
    off = {"privacy.secure-aggregation": False}
    assert isinstance(read_reply(one.train(inbox)), Reply)
    assert code(one.train(None, **off)) == "federation"
    assert code(one.train(None)) == "secure-aggregation"
    # Control: in a run that never was masked, the same request is answered, and again.
    (Path(one.mercy.node["state-dir"]) / "round.safetensors").unlink()
    clear = [read_reply(one.train(None, **off)) for _ in range(2)]
    assert all(isinstance(reply, Reply) and reply.adapter for reply in clear)


def test_terms_that_are_not_those_of_the_configuration_are_refused(one: One) -> None:
    setup = one.setup
    other = one.sisters.experiment(train__learning_rate=3.0)
    wrong = [
        replace(setup, run=bound_run("7", other, 0.0, one.digest)),  # another hospital might have been given these
        replace(setup, run="7"),
        replace(setup, round=2),
        replace(setup, threshold=3),
        replace(setup, threshold=3, colluders=1),
        replace(setup, bound=0.37),  # a threshold of the server's choice
        replace(setup, bound=2 * DEFAULT_BOUND),
        replace(setup, run=bound_run("7", one.experiment, 0.0, "0" * 64)),  # another state than is named beside it
        replace(setup, sites=("bea", "cleo", "dora")),
    ]
    for terms in wrong:
        assert code(one.stage(Opening(terms, 0.0, one.digest))) == "secure-aggregation"
    shares_noise = replace(setup, run=bound_run("7", one.experiment, 1.0, one.digest))
    assert code(one.stage(Opening(shares_noise, 1.0, one.digest))) == "secure-aggregation"
    assert code(one.stage(Opening(setup, 0.0, one.digest), site="bea")) == "config"
    assert code(one.stage(UnmaskRequest(("ava", "bea"), {}))) == "secure-aggregation"  # of a round that wasn't opened
    assert isinstance(read_stage_answer(one.open(), KeyAdvert), KeyAdvert)  # control: none of these spent the round


def test_a_state_for_which_the_round_was_not_opened_is_refused(one: One) -> None:
    inbox = one.share()
    first = one.mercy.state
    one.mercy.state = first | {"head.bias": first["head.bias"] + 1}
    assert code(one.train(inbox)) == "secure-aggregation"
    assert one.charges == 0
    one.mercy.state = first
    assert isinstance(read_reply(one.train(inbox)), Reply)  # control


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9, 0.0])
def test_no_answer_depends_on_what_was_trained(
    one: One, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], value: float
) -> None:
    """Training that diverged leaves masked as any other does; the hospital's own log tells of it."""

    def diverged(*given: Any) -> dict[str, Tensor]:
        return {name: torch.full_like(tensor, value) for name, tensor in train_round(*given).items()}

    inbox = one.share()
    monkeypatch.setattr(hospital_module, "train_round", diverged)
    answer = read_reply(one.train(inbox))
    assert isinstance(answer, Reply)
    assert len(answer.masked) == 8 * one.setup.entries
    assert ("clamped to 1024" in capfd.readouterr().err) == (value != 0.0)


def test_control_a_refusal_by_value_would_be_seen(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(values: NDArray[np.float32], bound: float) -> NDArray[np.uint64]:
        raise SecureAggregationRefusal("as encode once did")

    inbox = one.share()
    monkeypatch.setattr(secure_hospital, "encode", refuses)
    assert code(one.train(inbox)) == "secure-aggregation"


def test_terms_that_protect_nobody_leave_as_a_code(one: One) -> None:
    content = stage_content(StageRequest("7", "ava", -1, 1, "", Opening(one.setup, 0.0, one.digest)))
    content.config_records["body"]["setup.threshold"] = 1
    assert code(one.ask(content)) == "secure-aggregation"


def test_a_real_hospital_waits_for_the_disk(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    original = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(True)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    one.open()
    assert len(synced) == 4  # the rounds and the state: file and folder each


def test_a_simulated_one_does_not(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[bool] = []
    monkeypatch.setattr(secure_hospital, "sync_folder", lambda folder: waits.append(True))
    run(five(base, tmp_path / "run", train__rounds=1))
    assert not waits


# The closed list


def reply() -> Reply:
    return Reply("ava", 1, {}, 40, "0123456789abcdef", 0.1, 1.0, (), masked=bytes(16))


def test_a_masked_reply_travels_and_nothing_beside_it() -> None:
    content = reply_content(reply())
    assert set(content) == {"masked", "reply"}
    assert read_reply(content) == reply()
    with pytest.raises(SecureAggregationRefusal, match="both"):
        reply_content(replace(reply(), adapter={"head.bias": torch.zeros(2)}))
    both = RecordDict({**content, "adapter": ArrayRecord()})
    with pytest.raises(RefusedReply, match="only adapter"):
        read_reply(both)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(3), np.zeros(3, np.int64), np.zeros((1, 3), np.uint64), np.zeros(0, np.uint64)],
    ids=["floats", "signed", "matrix", "nothing"],
)
def test_what_is_no_masked_vector_is_refused(vector: NDArray[Any]) -> None:
    content = RecordDict({**reply_content(reply()), "masked": ArrayRecord({"vector": Array(vector)})})
    with pytest.raises(RefusedReply, match="64 bits"):
        read_reply(content)


def test_other_masked_records_are_refused() -> None:
    content = reply_content(reply())
    vector = content.array_records["masked"]["vector"]
    for record in (ArrayRecord({"vector": vector, "more": vector}), ConfigRecord({"vector": b"12345678"})):
        with pytest.raises(RefusedReply, match="one vector"):
            read_reply(RecordDict({**content, "masked": record}))
    torn = replace(vector, data=vector.data[:-3])
    with pytest.raises(RefusedReply, match="no array"):
        read_reply(RecordDict({**content, "masked": ArrayRecord({"vector": torn})}))


def test_stages_have_exactly_their_fields() -> None:
    roster = Roster({"ava": b"1"}, {"ava": b"2"}, {"ava": b""})
    request = StageRequest("7", "ava", -1, 1, "", roster)

    def message(content: RecordDict) -> Message:
        return Message(content=content, message_type=STAGE, dst_node_id=10)

    assert read_stage(message(stage_content(request))) == request
    advert = stage_answer_content(KeyAdvert("ava", b"1", b"2"))
    assert read_stage_answer(advert, KeyAdvert) == KeyAdvert("ava", b"1", b"2")
    for record, key, value in (
        ("stage", "more", 1),
        ("stage", "stage", "clear"),
        ("stage", "index", "0"),
        ("body", "more", b"1"),
        ("body", "mask-keys", [1]),
    ):
        content = stage_content(request)
        content.config_records[record][key] = value
        with pytest.raises(FederationError, match="no stage"):
            read_stage(message(content))
    with pytest.raises(FederationError, match="no stage"):
        read_stage(message(RecordDict({**stage_content(request), "adapter": ArrayRecord()})))
    advert.config_records["advertise"]["loss"] = 0.5
    with pytest.raises(FedradError, match="no field loss"):
        read_stage_answer(advert, KeyAdvert)
    with pytest.raises(RefusedReply, match="only share was asked for"):
        read_stage_answer(stage_answer_content(KeyAdvert("ava", b"1", b"2")), SealedShares)


def test_a_masked_reply_is_refused_without_secure_aggregation_and_the_reverse(base: str, tmp_path: Path) -> None:
    """A hospital that answers in the other way than it was asked does not count."""

    class Stubborn(Watched):
        def answer(self, message: Message) -> Message:
            answer = super().answer(message)
            if message.metadata.message_type == MessageType.TRAIN and site_of(message) == "site-000":
                read = read_reply(answer.content)
                assert isinstance(read, Reply)
                other = (
                    {"masked": b"", "adapter": {"head.bias": torch.zeros(3)}}
                    if read.masked
                    else {
                        "masked": bytes(16),
                        "adapter": {},
                    }
                )
                return Message(content=reply_content(replace(read, **other)), reply_to=message)
            return answer

    for build, says in ((plain, "is masked"), (five, "masked numbers")):
        experiment = build(base, tmp_path / says.replace(" ", "-"), sites__quorum=5)
        grid = Stubborn(simulated_client.app, simulated_nodes(5), experiment.flat())
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=experiment.flat())
        with pytest.raises(QuorumLost, match=says):
            server.app(grid, context)
