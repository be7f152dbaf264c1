"""What all strategies share: whom to ask, which replies count, in which order they are aggregated.

A strategy is a Flower ``Strategy``; its own part is one pure function, ``aggregate``. The replies are aggregated sorted
by site, whatever order they arrived in, so the same seeds give the same bits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from logging import WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, Metadata, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedrad.errors import ConfigError, FedradError, QuorumLost, RefusedReply
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.messages import (
    Failure,
    Reply,
    Request,
    check_adapter,
    from_arrays,
    read_reply,
    request_content,
    to_arrays,
)


@dataclass(frozen=True)
class Hospital:
    """A site and the node that it answers on. Several simulated sites may share a node (``index`` tells them apart)."""

    site: str
    node: int
    index: int
    declared_weight: int


@dataclass(frozen=True)
class Federation:
    """The public facts of a run that a strategy needs.

    Attributes:
        run: names the run.
        rounds: how many there will be.
        labels: the label names.
        hospitals: who takes part, sorted by site.
        directory: where simulated hospitals keep their ledgers, by site; empty for real ones.
        expected: the trainable tensors, as every reply must hold them.
        weights: "uniform" or "declared".
        quorum: valid replies that a round needs.
    """

    run: str
    rounds: int
    labels: tuple[str, ...]
    hospitals: tuple[Hospital, ...]
    directory: str
    expected: Mapping[str, Tensor]
    weights: str
    quorum: int


@dataclass(frozen=True)
class RoundOutcome:
    """What a round brought, for the terminal: replies sorted by site, and why others did not count."""

    round: int
    replies: tuple[Reply, ...]
    absent: dict[str, str]


class AdapterStrategy(Strategy):
    """Base of all strategies. Subclasses say how adapters become the next one.

    Attributes:
        budget: the mirror of the hospitals' ledgers.
        unconfirmed: sites whose last answer was lost or unreadable. They may have charged their ledgers without our
            knowing, so the mirror is only a lower bound for them until they answer again.
        state: all adapter tensors as of the last finished round.
        on_round: called after each round.
    """

    def __init__(
        self,
        federation: Federation,
        state: Mapping[str, Tensor],
        on_round: Callable[[RoundOutcome], None] = lambda outcome: None,
    ) -> None:
        self.federation = federation
        self.state = dict(state)
        self.budget = BudgetMirror()
        self.unconfirmed: frozenset[str] = frozenset()
        self.on_round = on_round
        self._asked: list[tuple[Metadata, Hospital]] = []
        self._exhausted: set[str] = set()

    @abstractmethod
    def aggregate(self, adapters: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
        """The next trainable tensors from the hospitals', sorted by site; ``weights`` are public and sum to 1."""

    def summary(self) -> None:
        """Flower calls this at the start; the server has its own table."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One request for each hospital whose budget is not used up."""
        state = from_arrays(arrays)
        asked = [hospital for hospital in self.federation.hospitals if hospital.site not in self._exhausted]
        questions = [
            Message(
                content=request_content(
                    Request(
                        run=self.federation.run,
                        site=hospital.site,
                        index=hospital.index,
                        round=server_round,
                        rounds=self.federation.rounds,
                        labels=self.federation.labels,
                        directory=self.federation.directory,
                        state=state,
                    ),
                    arrays,
                ),
                message_type=MessageType.TRAIN,
                dst_node_id=hospital.node,
            )
            for hospital in asked
        ]
        # Flower writes the message's id into its metadata when it is sent; the answer names the id.
        self._asked = [(question.metadata, hospital) for question, hospital in zip(questions, asked, strict=True)]
        return questions

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Checks the replies, books their epsilon and aggregates those that count.

        Raises:
            QuorumLost: fewer valid replies than the quorum.
        """
        waiting = {metadata.message_id: hospital for metadata, hospital in self._asked}
        valid: dict[str, Reply] = {}
        absent: dict[str, str] = {}
        unspent: set[str] = set()
        for message in replies:
            hospital = waiting.pop(message.metadata.reply_to_message_id, None)
            if hospital is None:
                log(WARNING, "round %s: node %s sent a reply that nobody waits for", server_round, _node(message))
                continue
            try:
                valid[hospital.site] = self._accept(message, hospital, server_round)
            except _SpentNothing as failed:
                absent[hospital.site] = str(failed)
                unspent.add(hospital.site)
            except (FedradError, _SiteFailed) as error:
                absent[hospital.site] = str(error)
        absent |= {h.site: f"no reply within the time limit of round {server_round}" for h in waiting.values()}
        self.unconfirmed = (self.unconfirmed | (absent.keys() - unspent)) - valid.keys()
        absent |= dict.fromkeys(self._exhausted - absent.keys(), "its privacy budget is used up; it was not asked")
        outcome = RoundOutcome(server_round, tuple(valid[site] for site in sorted(valid)), absent)
        for site, reason in sorted(absent.items()):
            log(WARNING, "round %s: %s does not count: %s", server_round, site, reason)
        if len(valid) < max(1, self.federation.quorum):
            raise QuorumLost(
                f"round {server_round}: {len(valid)} of {len(self.federation.hospitals)} hospitals gave a valid reply,"
                f" {self.federation.quorum} are needed (sites.quorum). "
                + "; ".join(f"{site}: {why}" for site, why in sorted(absent.items()))
            )
        weights = public_weights([r.declared_weight for r in outcome.replies], self.federation.weights)
        self.state = {**self.state, **self.aggregate([r.adapter for r in outcome.replies], weights)}
        self.on_round(outcome)
        return to_arrays(self.state), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hospitals evaluate nothing for the server: a score on private reports would cost budget (P23, P25)."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def _accept(self, message: Message, hospital: Hospital, server_round: int) -> Reply:
        """The reply to what ``hospital`` was asked, checked and booked."""
        if message.has_error():
            # Flower's own errors (node gone, process crashed): their text may come from the hospital, so only the code.
            raise _SiteFailed(f"Flower error code {message.error.code} (the node or its process failed)")
        answer = read_reply(message.content)
        # A node that fails before it could read the request can't name its site.
        named = answer.site == hospital.site or (isinstance(answer, Failure) and not answer.site)
        if not named or _node(message) != hospital.node:
            raise RefusedReply(f"{hospital.site}: answered by a site or node that was not asked for it")
        if isinstance(answer, Failure):
            if answer.code == "budget-exhausted":
                self._exhausted.add(hospital.site)
            failed = _SpentNothing if answer.code in ("budget-exhausted", "policy") else _SiteFailed
            raise failed(f"{answer.code} ({_HINTS.get(answer.code, 'see the log at the hospital')})")
        if answer.round != server_round:
            raise RefusedReply(f"{answer.site}: answers round {answer.round} in round {server_round}")
        # Booked even if the adapter is refused below: it has left the hospital, so it counts.
        self.budget = self.budget.book(answer)
        if answer.declared_weight != hospital.declared_weight:
            raise RefusedReply(
                f"{answer.site}: declares {answer.declared_weight} reports, but was introduced with"
                f" {hospital.declared_weight}; a weight stays as it is for the whole run"
            )
        check_adapter(answer.adapter, self.federation.expected, answer.site)
        return answer


class _SiteFailed(Exception):
    """A site says, or Flower says of it, that it failed."""


class _SpentNothing(_SiteFailed):
    """It refused before it charged its ledger."""


def _node(message: Message) -> int:
    return int(message.metadata.src_node_id)


_HINTS = {
    "budget-exhausted": "its privacy budget is used up",
    "policy": "its policy refuses what was proposed: privacy.epsilon, privacy.noise or privacy.delta",
    "ledger-busy": "another process holds its ledger",
    "ledger-tampered": "its ledger was changed or removed",
    "data": "its reports can't be read",
    "config": "its node configuration is wrong",
    "model": "its model does not fit the adapter that was sent",
    "plan": "no noise multiplier meets the budget there",
    "preflight": "its pre-flight check failed",
}


def public_weights(declared: Sequence[int], rule: str) -> list[float]:
    """Weights that sum to 1, from declared sizes only (decision 6). One hospital has exactly 1.0."""
    if rule == "uniform":
        return [1.0 / len(declared)] * len(declared)
    total = sum(declared)
    return [size / total for size in declared]


def strategy_named(name: str) -> Any:
    """The strategy class behind a name, from the installed entry points.

    Raises:
        ConfigError: there is none of that name.
    """
    found = {entry.name: entry for entry in entry_points(group="fedrad.strategies")}
    if name not in found:
        raise ConfigError(f"strategy.name: no strategy {name!r} is installed; there are {', '.join(sorted(found))}")
    return found[name].load()
