"""Flower's Grid in one process: messages go from the ServerApp to the nodes and back without a SuperLink or Ray.

What an app sees is what it sees under ``flwr run``: the same ServerApp, strategy, messages and ClientApp. What differs
is only who carries the messages, so the result has the same bits, and the start takes no half a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from itertools import count
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrad.errors import place_of
from fedrad.federation.flower_internals import APP_FAILED, NODE_UNAVAILABLE, Run, give_id, make_message, speak_as_server

Value = str | int | float | bool
_FIRST_NODE = 10  # above the number that Flower reserves for the SuperLink


class InProcessGrid(Grid):
    """Runs the nodes one after the other, in the process that asks.

    As under ``flwr run``, each message gets a ``Context`` of its own (a node's ``Context.state`` is what its last
    successful answer left there), records that no other node holds, and a reply whatever happens: a node that raises is
    an error reply. Unlike Flower's, that reply holds no text of the exception, which may quote a report.

    A node that runs can't be interrupted, so time limits have no effect here.

    Override ``answers`` to answer all messages of a round at once.

    Args:
        app: the ClientApp.
        nodes: the node configuration of each.
        run_config: the run's configuration.
        run_id: names the run.
        on_answer: called after each answer, with how many of how many messages are answered.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: Sequence[Mapping[str, Value]],
        run_config: Mapping[str, Value],
        run_id: int = 1,
        on_answer: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        self.app = app
        self.on_answer = on_answer
        self.run_config = dict(run_config)
        self.nodes = {_FIRST_NODE + number: dict(config) for number, config in enumerate(nodes)}
        self._states = {node: RecordDict() for node in self.nodes}
        self._run = Run.create_empty(run_id)
        self._ids = count(1)
        self._waiting: dict[str, Message] = {}
        speak_as_server(run_id)

    @property
    def run(self) -> Run:
        return self._run

    def set_run(self, run: Run) -> None:
        self._run = run
        speak_as_server(run.run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = [self._posted(message) for message in messages]
        for message, reply in zip(sent, self.answers([self.carried(m) for m in sent]), strict=True):
            self._waiting[message.metadata.message_id] = self.carried(self._posted(reply))
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._waiting.pop(name) for name in message_ids if name in self._waiting]

    def answers(self, messages: Sequence[Message]) -> Iterator[Message]:
        """One reply for each message, in order."""
        for done, message in enumerate(messages, start=1):
            yield self.answer(message)
            self.on_answer(done, len(messages))

    def answer(self, message: Message) -> Message:
        """What the node that a message is for replies."""
        node = message.metadata.dst_node_id
        if node not in self.nodes:
            return Message(Error(NODE_UNAVAILABLE, "there is no such node"), reply_to=message)
        context = self.context(node)
        try:
            reply = self.app(message, context)
        except Exception as error:
            print(f"fedrad: node {node}: {type(error).__name__} at {place_of(error)}", file=sys.stderr, flush=True)
            return Message(Error(APP_FAILED, "the ClientApp failed"), reply_to=message)
        self._states[node] = context.state
        return reply

    def context(self, node: int) -> Context:
        """A new context for a message to this node."""
        return Context(
            run_id=self._run.run_id,
            node_id=node,
            node_config=dict(self.nodes[node]),
            state=deepcopy(self._states[node]),
            run_config=dict(self.run_config),
        )

    def carried(self, message: Message) -> Message:
        """The message as it arrives: with records of its own, so that nobody can change what somebody else holds.

        The values of arrays are shared, since Flower keeps them as immutable bytes.
        """
        if message.has_error():
            return make_message(copy(message.metadata), error=message.error)
        records = {name: record.copy() for name, record in message.content.items()}
        for record in records.values():
            lists: dict[str, Any] = {key: list(value) for key, value in record.items() if isinstance(value, list)}
            record.update(lists)
        return make_message(copy(message.metadata), RecordDict(records))

    def _posted(self, message: Message) -> Message:
        return give_id(message, f"message-{next(self._ids)}")
