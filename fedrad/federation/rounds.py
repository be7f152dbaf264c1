"""The rounds over Flower: whom to ask, what to send, which replies count, in which order they are aggregated.

All that strategies share. What they differ in is pure (``fedrad.training.strategy``). The replies are aggregated sorted
by site, whatever order they arrived in, so the same seeds give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING
from typing import Protocol, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from torch import Tensor

from fedrad.errors import FedradError, QuorumLost, RefusedReply
from fedrad.federation.absence import ProcessDied, SiteFailed, SpentNothing, of_flower
from fedrad.federation.arrays import to_arrays
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.delivery import Deliveries, nbytes
from fedrad.federation.messages import Failure, Reply, Request, check_adapter, read_reply, request_content
from fedrad.model.adapter import LoRASpec
from fedrad.privacy.filter import Account
from fedrad.secure.messages import Inbox
from fedrad.training.strategy import Contribution, Round, Strategy


class _Named(Protocol):
    @property
    def site(self) -> str: ...


A = TypeVar("A", bound=_Named)


@dataclass(frozen=True)
class Hospital:
    """A site and the node that it answers on. Several simulated sites may share a node (``index`` tells them apart).

    Attributes:
        declared_weight: its declared size.
        rank: of its LoRA matrices.
        delta: that its budget is stated at.
        labels: digest of the labels that a real one states.
    """

    site: str
    node: int
    index: int
    declared_weight: int
    rank: int
    delta: float
    labels: str = ""


@dataclass(frozen=True)
class Federation:
    """The public facts of a run.

    Attributes:
        run: names the run.
        rounds: how many there will be.
        labels: the label names.
        hospitals: who takes part, sorted by site.
        directory: where simulated hospitals keep their ledgers, by site; empty for real ones.
        trainable: names of all tensors that the structure lets train.
        lora: the adapter's structure at the server.
        seed: ``train.seed``.
        weights: "uniform", "declared" or "inverse-variance".
        quorum: valid replies that a round needs.
        asked: hospitals that a round asks.
        timeout: seconds that a hospital has which is asked once more.
    """

    run: str
    rounds: int
    labels: tuple[str, ...]
    hospitals: tuple[Hospital, ...]
    directory: str
    trainable: frozenset[str]
    lora: LoRASpec
    seed: int
    weights: str
    quorum: int
    asked: int
    timeout: float = 900.0


@dataclass(frozen=True)
class RoundOutcome:
    """What a round brought, for the terminal.

    Attributes:
        replies: those that count, sorted by site.
        absent: why others did not count.
        bytes_down, bytes_up: of the tensors that travelled, all hospitals together, without Flower's framing.
    """

    round: int
    replies: tuple[Reply, ...]
    absent: dict[str, str]
    bytes_down: int = 0
    bytes_up: int = 0


class Rounds(FlowerStrategy):
    """A strategy as Flower runs it.

    Attributes:
        budget: the mirror of the hospitals' ledgers.
        unconfirmed: sites whose last answer was lost or unreadable. They may have charged their ledgers without our
            knowing, so the mirror is only a lower bound for them until they answer again.
        state: all public tensors as of the last finished round.
        memory: what the strategy keeps at the server as of that round; no hospital gets it.
        on_round: called after each round.
        asks_again: whether a hospital whose process died is asked once more in the same round. If its steps were done,
            it answers with what it has kept; otherwise it charges its ledger for them again, and where the plan
            uses up its cap to the last step, it is out of budget in the last round instead of absent from this one.
    """

    asks_again = True

    def __init__(
        self,
        strategy: Strategy,
        federation: Federation,
        state: Mapping[str, Tensor],
        on_round: Callable[[RoundOutcome], None] = lambda outcome: None,
    ) -> None:
        self.strategy = strategy
        self.federation = federation
        self.state = dict(state)
        self.memory: dict[str, Tensor] = {}
        self.budget = BudgetMirror()
        self.unconfirmed: frozenset[str] = frozenset()
        self.on_round = on_round
        self._asked: list[tuple[Metadata, Hospital]] = []
        self._exhausted: set[str] = set()
        self._noise: dict[str, float] = {}
        self._deliveries = Deliveries()
        self._expected: dict[int, dict[str, Tensor]] = {}
        self._traffic = _Traffic()
        self._grid: Grid
        self._states: Mapping[int, Mapping[str, Tensor]] = {}
        # Under secure aggregation: what each hospital gets from the others, and who fell out before it was charged.
        self._inboxes: Mapping[str, Inbox] = {}
        self._fell_out: dict[str, str] = {}

    def summary(self) -> None:
        """Flower calls this at the start; the server has its own table."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One request for each hospital that this round asks."""
        asked = self.ready(server_round, grid)
        facts = self.facts(server_round)
        names = self.strategy.sent(self.federation.trainable, server_round)
        states = {rank: self.strategy.for_rank(self.state, rank, facts) for rank in {h.rank for h in asked}}
        self._expected = {rank: {name: state[name] for name in names} for rank, state in states.items()}
        self._traffic = _Traffic()
        self._grid, self._states = grid, states
        questions = [self._question(hospital, server_round, states[hospital.rank]) for hospital in asked]
        # Flower writes the message's id into its metadata when it is sent; the answer names the id.
        self._asked = [(question.metadata, hospital) for question, hospital in zip(questions, asked, strict=True)]
        return questions

    def ready(self, server_round: int, grid: Grid) -> list[Hospital]:
        """Who is asked to train: all participants, unless something has to be settled with them first."""
        return self.participants(server_round)

    def participants(self, server_round: int) -> list[Hospital]:
        """Whom a round asks: so many of those whose budget is not used up, drawn from the run's seed.

        The draw is public. It amplifies no guarantee and none is claimed: who takes part is seen by everybody (P3).
        """
        able = [hospital for hospital in self.federation.hospitals if hospital.site not in self._exhausted]
        if len(able) <= self.federation.asked:
            return able
        generator = np.random.default_rng([self.federation.seed, server_round])
        chosen = generator.choice(len(able), self.federation.asked, replace=False)
        return [able[i] for i in sorted(chosen)]

    def facts(self, server_round: int) -> Round:
        """What the strategy is told of a round."""
        return Round(server_round, self.federation.seed, self.federation.lora)

    def _question(self, hospital: Hospital, server_round: int, state: Mapping[str, Tensor]) -> Message:
        delivery = self._deliveries.to(hospital.site, state)
        self._traffic.down += nbytes(delivery.tensors)
        # Most hospitals get the same tensors: made into a record once.
        key = (delivery.base, delivery.digest)
        if key not in self._traffic.records:
            self._traffic.records[key] = to_arrays(delivery.tensors)
        request = Request(
            run=self.federation.run,
            site=hospital.site,
            index=hospital.index,
            round=server_round,
            rounds=self.federation.rounds,
            labels=self.federation.labels,
            directory=self.federation.directory,
            state=delivery,
            inbox=self._inboxes.get(hospital.site),
        )
        content = request_content(request, self._traffic.records[key])
        return Message(content=content, message_type=MessageType.TRAIN, dst_node_id=hospital.node)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Checks the replies, books their epsilon and aggregates those that count.

        Raises:
            QuorumLost: fewer valid replies than the quorum.
        """
        valid, failed = self._sorted(replies, self._asked, server_round)
        died = [hospital for _, hospital in self._asked if isinstance(failed.get(hospital.site), ProcessDied)]
        if died and self.asks_again:
            again, still = self._asked_again(died, failed, server_round)
            valid |= again
            failed = {site: error for site, error in failed.items() if site not in again} | still
        unspent = {site for site, error in failed.items() if isinstance(error, SpentNothing)} | self._fell_out.keys()
        absent = self._fell_out | {site: str(error) for site, error in failed.items()}
        self.unconfirmed = (self.unconfirmed | (absent.keys() - unspent)) - valid.keys()
        absent |= dict.fromkeys(self._exhausted - absent.keys(), "its privacy budget is used up; it was not asked")
        counted = tuple(valid[site] for site in sorted(valid))
        bytes_up = sum(reply.nbytes for reply in counted)
        outcome = RoundOutcome(server_round, counted, absent, self._traffic.down, bytes_up)
        for site, reason in sorted(absent.items()):
            log(WARNING, "round %s: %s does not count: %s", server_round, site, reason)
        if len(valid) < max(1, self.federation.quorum):
            raise QuorumLost(
                f"round {server_round}: {len(valid)} of {len(self.federation.hospitals)} hospitals gave a valid reply,"
                f" {self.federation.quorum} are needed (sites.quorum). "
                + "; ".join(f"{site}: {why}" for site, why in sorted(absent.items()))
            )
        sent = self.contributions(counted, server_round)
        self.state, self.memory = self.strategy.advance(self.state, self.memory, sent, self.facts(server_round))
        self.on_round(outcome)
        return to_arrays(self.state), None

    def _sorted(
        self, replies: Iterable[Message], asked: Sequence[tuple[Metadata, Hospital]], server_round: int
    ) -> tuple[dict[str, Reply], dict[str, Exception]]:
        """The replies that count, and why the others don't, by site; who did not answer at all is among the others."""
        waiting = {metadata.message_id: hospital for metadata, hospital in asked}
        valid: dict[str, Reply] = {}
        failed: dict[str, Exception] = {}
        for message in replies:
            hospital = waiting.pop(message.metadata.reply_to_message_id, None)
            if hospital is None:
                log(WARNING, "round %s: node %s sent a reply that nobody waits for", server_round, _node(message))
                continue
            try:
                valid[hospital.site] = self._accept(message, hospital, server_round)
            except (FedradError, SiteFailed) as error:
                failed[hospital.site] = error
        late = SiteFailed(f"no reply within the time limit of round {server_round}")
        return valid, failed | {hospital.site: late for hospital in waiting.values()}

    def _asked_again(
        self, died: Sequence[Hospital], failed: Mapping[str, Exception], server_round: int
    ) -> tuple[dict[str, Reply], dict[str, Exception]]:
        """As ``_sorted``, of the same question put once more to hospitals whose process died.

        None of them is taken to have ``SpentNothing``, whatever it answers: it may have charged its ledger before.
        """
        for hospital in died:
            log(WARNING, "round %s: %s: %s; asked once more", server_round, hospital.site, failed[hospital.site])
        questions = [self._question(hospital, server_round, self._states[hospital.rank]) for hospital in died]
        asked = [(question.metadata, hospital) for question, hospital in zip(questions, died, strict=True)]
        replies = list(self._grid.send_and_receive(questions, timeout=self.federation.timeout))
        valid, still = self._sorted(replies, asked, server_round)
        return valid, {site: SiteFailed(f"{failed[site]}; asked once more: {error}") for site, error in still.items()}

    def contributions(self, replies: Sequence[Reply], server_round: int) -> list[Contribution]:
        """What the strategy sees of the replies that count, which are sorted by site."""
        weights = public_weights(
            [r.declared_weight for r in replies], [r.noise for r in replies], self.federation.weights
        )
        ranks = {hospital.site: hospital.rank for hospital in self.federation.hospitals}
        return [Contribution(r.adapter, w, ranks[r.site]) for r, w in zip(replies, weights, strict=True)]

    @property
    def spent(self) -> Mapping[str, float]:
        """Epsilon by ledger, as far as the server knows."""
        return self.budget.booked

    @property
    def charges(self) -> Mapping[str, Account]:
        """What ``spent`` comes from."""
        return self.budget.charges

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
        answer = self._answer(message, hospital, read_reply)
        if answer.round != server_round:
            raise RefusedReply(f"{answer.site}: answers round {answer.round} in round {server_round}")
        # Booked even if the adapter is refused below: it has left the hospital, so it counts.
        self.budget = self.budget.book(answer, hospital.delta)
        self._deliveries.arrived(hospital.site)
        if self._noise.setdefault(hospital.site, answer.noise) != answer.noise or not answer.noise >= 0:
            raise RefusedReply(f"{answer.site}: its noise is not the one of its first answer; a plan stays as it is")
        if answer.declared_weight != hospital.declared_weight:
            raise RefusedReply(
                f"{answer.site}: declares {answer.declared_weight} reports, but was introduced with"
                f" {hospital.declared_weight}; a weight stays as it is for the whole run"
            )
        self.check(answer, self._expected[hospital.rank])
        return answer

    def check(self, answer: Reply, expected: Mapping[str, Tensor]) -> None:
        """Refuses what could not be aggregated."""
        if answer.masked:
            raise RefusedReply(f"{answer.site}: its adapter is masked, in a run without secure aggregation")
        check_adapter(answer.adapter, expected, answer.site)

    def _answer(self, message: Message, hospital: Hospital, read: Callable[[RecordDict], A | Failure]) -> A:
        """What ``hospital`` says in answer to any question, if it is no failure."""
        if message.has_error():
            raise of_flower(message.error)
        answer = read(message.content)
        # A node that fails before it could read the request can't name its site.
        named = answer.site == hospital.site or (isinstance(answer, Failure) and not answer.site)
        if not named or _node(message) != hospital.node:
            raise RefusedReply(f"{hospital.site}: answered by a site or node that was not asked for it")
        if isinstance(answer, Failure):
            if answer.code == "budget-exhausted":
                self._exhausted.add(hospital.site)
            if answer.code == "state-missing":
                self._deliveries.lost(hospital.site)
            failed = SpentNothing if answer.code in _BEFORE_ANY_CHARGE else SiteFailed
            raise failed(f"{answer.code} ({_HINTS.get(answer.code, 'see the log at the hospital')})")
        return answer


@dataclass
class _Traffic:
    """Of one round: bytes of tensors sent, and the records made of them."""

    down: int = 0
    records: dict[tuple[str, str], ArrayRecord] = field(default_factory=dict)


def _node(message: Message) -> int:
    return int(message.metadata.src_node_id)


_BEFORE_ANY_CHARGE = ("budget-exhausted", "policy", "state-missing", "stopped")
_HINTS = {
    "budget-exhausted": "its privacy budget is used up",
    "policy": "its policy refuses what was proposed: privacy.*, the model, the labels, train.precision or sites.quorum",
    "federation": "the round does not fit those before it; in one run no setting may change",
    "stopped": "an error that nobody foresaw; a person there must look into it and remove the latch",
    "secure-aggregation": "going on could have shown its adapter, or the state that was sent is too large",
    "ledger-busy": "another process holds its ledger",
    "ledger-tampered": "its ledger was changed or removed",
    "data": "its reports can't be read",
    "config": "its node configuration is wrong",
    "model": "its model does not fit the adapter that was sent",
    "plan": "no noise multiplier meets the budget there, or its policy's own is too small for so many steps",
    "preflight": "its pre-flight check failed",
    "state-missing": "it lacks what the server built on; the next round sends it everything",
}


def public_weights(declared: Sequence[int], noise: Sequence[float], rule: str) -> list[float]:
    """Weights that sum to 1, from public figures only (decision 6). One hospital has exactly 1.0.

    Args:
        declared: declared sizes.
        noise: standard deviations of the noise in a step's mean gradient, by the plans.
        rule: "uniform", "declared", or "inverse-variance": proportional to 1 / noise^2, which gives the mean of least
            noise. It favours hospitals with much data or a large budget.
    """
    if rule == "uniform" or len(declared) == 1:
        return [1.0 / len(declared)] * len(declared)
    parts = [1 / sd**2 for sd in noise] if rule == "inverse-variance" else [float(size) for size in declared]
    return [part / sum(parts) for part in parts]
