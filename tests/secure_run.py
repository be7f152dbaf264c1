"""Builders for runs with secure aggregation: five simulated hospitals, three real ones, or one that is played to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, MessageType, RecordDict
from safetensors.torch import load_file
from torch import Tensor

from fedrad.config import Experiment
from fedrad.federation import client, server
from fedrad.federation.identity import make_identity, read_identity
from fedrad.federation.messages import Failure, Opening, Reply, StageRequest, content_of, read_answer
from fedrad.federation.secure_hospital import bound_run
from fedrad.federation.secure_rounds import STAGE
from fedrad.ledger.view import read_ledger
from fedrad.secure import hospital as protocol
from fedrad.secure.fixed_point import DEFAULT_BOUND, error_bound
from fedrad.secure.keys import Identity
from fedrad.secure.messages import Inbox, KeyAdvert, SealedShares
from fedrad.secure.server import build_roster, inboxes
from fedrad.secure.setup import RoundSetup
from fedrad.secure.states import State
from fedrad.simulation import client as simulated_client
from tests.grid import InProcessGrid, Mercy, posted, simulated_nodes, small

SITES = [f"site-{i:03}" for i in range(5)]


SHARED: dict[str, object] = {
    "privacy__shared_noise": True,
    "train__local_steps": 1,
    "train__momentum": 0.0,
    "train__average": 0.0,
    "train__learning_rate": 0.5,
}


STAGES = {"Opening": "advertise", "Roster": "share", "Survivors": "confirm", "UnmaskRequest": "unmask"}


_runs = count(1)


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
    record = message.content.config_records.get("stage-request")
    return STAGES[str(record["body.kind"])] if record is not None else str(message.metadata.message_type)


def site_of(message: Message) -> str:
    records = message.content.config_records
    record = records.get("stage-request", records.get("request"))
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
    replies = [read_answer(message.content, Reply) for message in grid.trained if not message.has_error()]
    return {reply.site: reply.adapter for reply in replies if isinstance(reply, Reply)}


def assert_mean(state: Mapping[str, Tensor], sent: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Within the bound of the fixed point, and the rounding of the mean to float32."""
    count = len(sent)
    for name in next(iter(sent.values())):
        mean = torch.stack([adapter[name].double() for adapter in sent.values()]).mean(0)
        bound = error_bound(count, DEFAULT_BOUND) / count + mean.abs() * 2.0**-23
        assert bool(((state[name].double() - mean).abs() <= bound).all()), name


class Sisters:
    """Three real hospitals, and the run that a server proposes to them."""

    def __init__(self, folder: Path, **node: object) -> None:
        self.folder = folder
        self.hospitals = [Mercy(folder / name, epsilon_cap=20.0) for name in ("ava", "bea", "cleo")]
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


def pin(sisters: Sisters) -> None:
    keys = {}
    for hospital in sisters.hospitals:
        file = hospital.folder / "identity.key"
        keys[hospital.node["site"]] = make_identity(file)
        hospital.node |= {"identity-key": str(file), "peers": str(hospital.folder / "peers")}
    for hospital in sisters.hospitals:
        lines = ["# exchanged by telephone", *(f"{site} {key}" for site, key in keys.items())]
        (hospital.folder / "peers").write_text("\n".join(lines) + "\n")


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
        self.others: dict[str, State] = {}
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
        return self.ask(content_of(replace(request, **changes)))

    def open(self) -> RecordDict:
        return self.stage(Opening(self.setup, self.noise_multiplier, self.digest))

    def share(self) -> Inbox:
        """Both stages before training; what the others sealed for the hospital."""
        advert = read_answer(self.open(), KeyAdvert)
        assert isinstance(advert, KeyAdvert)
        adverts = [advert]
        for name, identity in self.identities.items():
            self.others[name], other = protocol.advertise(self.setup, name, (), identity)
            adverts.append(other)
        roster = build_roster(self.setup, adverts)
        sealed = read_answer(self.stage(roster), SealedShares)
        assert isinstance(sealed, SealedShares)
        all_sealed = [sealed]
        for name in self.identities:
            self.others[name], other_sealed = protocol.share_keys(self.others[name], roster)
            all_sealed.append(other_sealed)
        self.roster = roster
        return inboxes(self.setup, roster, all_sealed)["ava"]

    def train(self, inbox: Inbox, **run_config: Any) -> RecordDict:
        return self.ask(self.request(inbox=inbox), MessageType.TRAIN, **run_config)

    def request(self, **changes: Any) -> RecordDict:
        of_the_run = {"site": "ava", "round": self.round, "rounds": self.experiment.train.rounds}
        return content_of(self.mercy.request(**of_the_run | changes))

    @property
    def charges(self) -> int:
        return len(read_ledger(Path(self.mercy.node["state-dir"])).rows)


def code(content: RecordDict) -> str:
    answer = read_answer(content, Reply)
    assert isinstance(answer, Failure), answer
    return answer.code
