"""A federation in one process: the real ServerApp and ClientApp, every message made bytes and back on its way."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from fedrad.config import Experiment
from fedrad.federation import client, server
from fedrad.federation.flower_internals import give_id, speak_as_server
from fedrad.federation.messages import Request, content_of
from fedrad.federation.state_delta import delta_of
from fedrad.model.base import load_base
from fedrad.simulation import client as simulated_client
from fedrad.simulation import grid
from fedrad.tasks.multi_label import MultiLabel
from fedrad.training.setup import set_up
from tests.model import tiny
from tests.small import model_folder

speak_as_server(1)  # some tests make messages without a grid

CANARY = "zyzzyva"
LABELS = ("edema", "effusion")
_ids = count(1)


def posted(message: Message) -> Message:
    """Gives a message its id, as Flower's grids do when they send it."""
    return give_id(message, f"message-{next(_ids)}")


def over_the_wire(message: Message) -> Message:
    """The message as it arrives."""
    return message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))


def wire_bytes(content: RecordDict) -> bytes:
    """The records as bytes, without the metadata that Flower adds."""
    return recorddict_to_proto(content).SerializeToString(deterministic=True)


class InProcessGrid(grid.InProcessGrid):
    """fedrad's grid with a rougher way: real bytes, shuffled arrival, nodes that die.

    Args:
        app: the ClientApp.
        nodes: the node configuration of each.
        run_config: the run's configuration.
        shuffle: a seed; replies arrive in an order drawn from it.
        fails: (node id, message) -> whether this node's process dies on this message.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: Sequence[Mapping[str, Any]],
        run_config: Mapping[str, Any],
        *,
        shuffle: int | None = None,
        fails: Callable[[int, Message], bool] = lambda node, message: False,
    ) -> None:
        super().__init__(app, nodes, run_config)
        self.fails = fails
        self.random = None if shuffle is None else random.Random(shuffle)
        self.trained: list[Message] = []  # replies to training requests, in order of arrival

    def carried(self, message: Message) -> Message:
        return over_the_wire(message)

    def answer(self, message: Message) -> Message:
        if self.fails(message.metadata.dst_node_id, message):
            # As the SuperLink words it: the error comes from itself, not from the node.
            reply = Message(Error(code=3, reason="node is gone"), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = 1
            return reply
        return super().answer(message)

    def context(self, node: int) -> Context:
        context = super().context(node)
        assert not context.state  # a hospital keeps nothing where Flower might lose it
        return context

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().pull_messages(message_ids)
        if self.random is not None:
            self.random.shuffle(replies)
        self.trained += [reply for reply in replies if reply.metadata.message_type == MessageType.TRAIN]
        return replies


def simulated_nodes(number: int) -> list[dict[str, int]]:
    """Node configurations as Flower's simulation gives them."""
    return [{"partition-id": index, "num-partitions": number} for index in range(number)]


def federate(
    experiment: Experiment, nodes: int = 2, grid: type[InProcessGrid] = InProcessGrid, **options: Any
) -> InProcessGrid:
    """Runs the whole ServerApp on ``nodes`` simulated nodes; the grid remembers what passed."""
    config = experiment.flat()
    federation = grid(simulated_client.app, simulated_nodes(nodes), config, **options)
    server.app(federation, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(config)))
    return federation


def forget() -> None:
    """Empties everything that this process keeps between messages, as its end would."""
    simulated_client.forget()


def small(base: str, **changes: object) -> Experiment:
    """Two rounds of two steps with a tiny model; ``changes`` have ``__`` for the dot and ``_`` for the dash."""
    flat: dict[str, object] = {
        "data.reports": 90,
        "data.max-length": 40,
        "model.name": base,
        "lora.rank": 2,
        "lora.layers": 1,
        "privacy.noise": "seeded",
        "train.rounds": 2,
        "train.local-steps": 2,
        "train.batch": 8,
        "train.warm-start": "none",
        "train.warm-reports": 40,
        "train.threads": 1,
        "sites.count": 3,
    }
    flat |= {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return Experiment.from_flat(flat)


class Mercy:
    """A real hospital with a table of made-up reports, each with the canary in it, and its own policy."""

    def __init__(
        self, folder: Path, reports: int = 37, *, epsilon_cap: float = 4.0, base: str = "", **experiment: object
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.table = folder / "reports.csv"
        self.texts = [f"{CANARY} {tiny.TEXTS[i % 3]} {CANARY}{i}" for i in range(reports)]
        with self.table.open("w", newline="") as file:
            rows = [[text, f"quux-{i}", i % 2, i % 3 // 2] for i, text in enumerate(self.texts)]
            csv.writer(file).writerows([["text", "patient", *LABELS], *rows])
        self.experiment = small(
            base or model_folder(),
            data__name="table",
            data__path="/elsewhere.csv",
            data__label_columns=",".join(LABELS),
            sites__count=1,
            **experiment,
        )
        self.node: dict[str, Any] = {
            "site": "mercy",
            "data-name": "table",
            "data-path": str(self.table),
            "patient-column": "patient",
            "label-columns": ",".join(LABELS),
            "model": self.experiment.model.name,
            "model-sha256": load_base(self.experiment.model.name).fingerprint,
            "state-dir": str(folder / "state"),
            "witness-dir": str(folder / "witness"),
            "epsilon-cap": epsilon_cap,
            "declared-size": 40,
            "allow-seeded": True,
        }
        self.state = set_up(self.experiment, MultiLabel(LABELS)).classifier.state()

    def request(self, **changes: Any) -> Request:
        fields: dict[str, Any] = {
            "run": "7",
            "site": "mercy",
            "index": -1,
            "round": 1,
            "rounds": 2,
            "labels": LABELS,
            "directory": "",
            "state": delta_of(self.state),
        }
        return Request(**(fields | changes))

    def ask(self, request: Request | RecordDict, **run_config: Any) -> RecordDict:
        """What leaves the hospital in answer to this."""
        content = request if isinstance(request, RecordDict) else content_of(request)
        message = posted(Message(content=content, message_type=MessageType.TRAIN, dst_node_id=10))
        hospital = InProcessGrid(client.app, [self.node], {**self.experiment.flat(), **run_config})
        (reply,) = hospital.send_and_receive([message])
        return reply.content
