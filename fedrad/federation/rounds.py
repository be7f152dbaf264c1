"""The rounds over Flower: whom to ask, what to send, which replies count, in which order they are aggregated.

Every strategy shares this; where they differ they are pure functions (``fedrad.training.strategy``). The replies are
aggregated in the order of their sites, not of their arrival, so the same seeds give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, Metadata, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from torch import Tensor

from fedrad.errors import FedradError, QuorumLost, RefusedReply
from fedrad.federation.arrays import to_arrays
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.failures import ProcessDied, SiteFailed, SpentNothing, of_flower, of_hospital
from fedrad.federation.messages import IN_CLEAR, A, Failure, Reply, Request, check_adapter, content_of, read_answer
from fedrad.federation.participants import Federation, Participant, public_weights
from fedrad.federation.state_delta import SentStates, nbytes
from fedrad.secure.messages import Inbox
from fedrad.training.strategy import Contribution, Round, Strategy

R = TypeVar("R")
Asked = Sequence[tuple[Metadata, Participant]]  # a question's metadata, in which Flower writes its id when it is sent


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
        state, memory: as of the last finished round: all public tensors, and what the strategy keeps at the server.
        budget: the mirror of the hospitals' ledgers.
        unconfirmed: sites whose last answer was lost or unreadable. They may have charged their ledgers without our
            knowing, so the mirror is only a lower bound for them until they answer again.
        outcomes: of the finished rounds.
        own: what the server's own ledger holds, where the hospital is the privacy unit.
        exhausted: sites whose budget is used up.
        noise: of each site's first answer; a plan stays as it is.
        finished: rounds that an earlier process finished. Flower counts from 1 in every process.
        before_asking: called with a round's number before anything of it is sent.
        asks_again: whether a hospital whose process died is asked once more in the same round. If its steps were done,
            it answers with what it has kept; otherwise it takes them for the charge that it has made.
    """

    asks_again = True

    def __init__(self, strategy: Strategy, federation: Federation, state: Mapping[str, Tensor]) -> None:
        self.strategy = strategy
        self.federation = federation
        self.experiment = federation.experiment
        self.state = dict(state)
        self.memory: dict[str, Tensor] = {}
        self.budget, self.own = BudgetMirror(), BudgetMirror()
        self.unconfirmed: frozenset[str] = frozenset()
        self.outcomes: list[RoundOutcome] = []
        self.exhausted, self.noise = set[str](), dict[str, float]()
        self.finished = 0
        self.before_asking: Callable[[int], None] = lambda round: None
        self._sent_states = SentStates()
        # Of the present round: who was asked, the states and tensors by rank, the records made, the bytes sent.
        self._grid: Grid
        self._asked: Asked = []
        self._states: Mapping[int, Mapping[str, Tensor]] = {}
        self._expected: dict[int, dict[str, Tensor]] = {}
        self._records: dict[tuple[str, str], ArrayRecord] = {}
        self._bytes_down = 0
        self._inboxes: Mapping[str, Inbox] = {}  # under secure aggregation: what each hospital gets from the others
        self._fell_out: dict[str, str] = {}  # and who fell out before it was charged

    def summary(self) -> None:
        """Nothing: the server has a table of its own."""

    # Ask

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One request for each hospital that this round asks."""
        server_round += self.finished
        self.before_asking(server_round)
        self._grid, self._records, self._bytes_down = grid, {}, 0
        asked = self.ready(server_round)
        names = self.strategy.sent(self.federation.trainable, server_round)
        facts = self.facts(server_round)
        self._states = {rank: self.strategy.for_rank(self.state, rank, facts) for rank in {h.rank for h in asked}}
        self._expected = {rank: {name: state[name] for name in names} for rank, state in self._states.items()}
        questions = [self._question(hospital, server_round, self._states[hospital.rank]) for hospital in asked]
        self._asked = [(question.metadata, hospital) for question, hospital in zip(questions, asked, strict=True)]
        return questions

    def ready(self, server_round: int) -> list[Participant]:
        """Who is asked to train: all participants, unless something has to be settled with them first."""
        return self.participants(server_round)

    def participants(self, server_round: int) -> list[Participant]:
        """Whom a round asks: so many of those whose budget is not used up, drawn from the run's seed.

        The draw is public. It amplifies no guarantee and none is claimed: who takes part is seen by everybody (P3).
        """
        able = [hospital for hospital in self.federation.hospitals if hospital.site not in self.exhausted]
        if len(able) <= self.experiment.asked:
            return able
        generator = np.random.default_rng([self.experiment.train.seed, server_round])
        chosen = generator.choice(len(able), self.experiment.asked, replace=False)
        return [able[i] for i in sorted(chosen)]

    def facts(self, server_round: int) -> Round:
        """What the strategy is told of a round."""
        return Round(server_round, self.experiment.train.seed, self.federation.lora)

    def _question(self, hospital: Participant, server_round: int, state: Mapping[str, Tensor]) -> Message:
        sent = self._sent_states.to(hospital.site, state)
        self._bytes_down += nbytes(sent.tensors)
        key = (sent.base, sent.digest)  # most hospitals get the same tensors: made into a record once
        if key not in self._records:
            self._records[key] = to_arrays(sent.tensors)
        request = Request(
            run=self.federation.run,
            site=hospital.site,
            index=hospital.index,
            round=server_round,
            rounds=self.experiment.train.rounds,
            labels=self.federation.labels,
            directory=self.federation.directory,
            state=sent,
            inbox=self._inboxes.get(hospital.site, IN_CLEAR),
        )
        content = content_of(request, {"state.tensors": self._records[key]})
        return Message(content=content, message_type=MessageType.TRAIN, dst_node_id=hospital.node)

    # Check, book, aggregate

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Checks the replies, books their epsilon and aggregates those that count.

        Raises:
            QuorumLost: fewer valid replies than the quorum.
        """
        server_round += self.finished
        valid, failed = self._replies(replies, self._asked, server_round)
        died = [hospital for _, hospital in self._asked if isinstance(failed.get(hospital.site), ProcessDied)]
        if died and self.asks_again:
            again, still = self._asked_again(died, failed, server_round)
            valid |= again
            failed = {site: error for site, error in failed.items() if site not in again} | still
        unspent = {site for site, error in failed.items() if isinstance(error, SpentNothing)} | self._fell_out.keys()
        absent = self._fell_out | {site: str(error) for site, error in failed.items()}
        self.unconfirmed = (self.unconfirmed | (absent.keys() - unspent)) - valid.keys()
        absent |= dict.fromkeys(self.exhausted - absent.keys(), "its privacy budget is used up; it was not asked")
        counted = tuple(valid[site] for site in sorted(valid))
        for site, reason in sorted(absent.items()):
            log(WARNING, "round %s: %s does not count: %s", server_round, site, reason)
        if len(valid) < max(1, self.experiment.quorum):
            raise QuorumLost(
                f"round {server_round}: {len(valid)} of {len(self.federation.hospitals)} hospitals gave a valid reply,"
                f" {self.experiment.quorum} are needed (sites.quorum). "
                + "; ".join(f"{site}: {why}" for site, why in sorted(absent.items()))
            )
        sent = self.contributions(counted, server_round)
        self.state, self.memory = self.strategy.advance(self.state, self.memory, sent, self.facts(server_round))
        bytes_up = sum(reply.nbytes for reply in counted)
        self.outcomes.append(RoundOutcome(server_round, counted, absent, self._bytes_down, bytes_up))
        return to_arrays(self.state), None

    def contributions(self, replies: Sequence[Reply], server_round: int) -> list[Contribution]:
        """What the strategy sees of the replies that count, which are sorted by site."""
        weights = public_weights(
            [r.declared_weight for r in replies], [r.noise for r in replies], self.experiment.strategy.weights
        )
        ranks = {hospital.site: hospital.rank for hospital in self.federation.hospitals}
        return [Contribution(r.adapter, w, ranks[r.site]) for r, w in zip(replies, weights, strict=True)]

    @property
    def spent(self) -> BudgetMirror:
        """Epsilon by ledger and what it comes from, as far as the server knows."""
        return self.budget

    def published(self, server_round: int) -> None:
        """Called once a round is on the disk, before anything of it is sent or shown."""

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hospitals evaluate nothing for the server: a score on private reports would cost budget (P23, P25)."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def _replies(
        self, messages: Iterable[Message], asked: Asked, server_round: int
    ) -> tuple[dict[str, Reply], dict[str, Exception]]:
        late = f"no reply within the time limit of round {server_round}"
        return self.matched(messages, asked, late, lambda message, site: self._accept(message, site, server_round))

    def matched(
        self, messages: Iterable[Message], asked: Asked, late: str, accept: Callable[[Message, Participant], R]
    ) -> tuple[dict[str, R], dict[str, Exception]]:
        """The answers that count, and why the others don't, by site; who did not answer at all is among the others.

        Args:
            late: what is said of those.
        """
        waiting = {metadata.message_id: hospital for metadata, hospital in asked}
        valid: dict[str, R] = {}
        failed: dict[str, Exception] = {}
        for message in messages:
            hospital = waiting.pop(message.metadata.reply_to_message_id, None)
            if hospital is None:
                log(WARNING, "node %s sent a reply that nobody waits for", message.metadata.src_node_id)
                continue
            try:
                valid[hospital.site] = accept(message, hospital)
            except (FedradError, SiteFailed) as error:
                failed[hospital.site] = error
        return valid, failed | {hospital.site: SiteFailed(late) for hospital in waiting.values()}

    def _asked_again(
        self, died: Sequence[Participant], failed: Mapping[str, Exception], server_round: int
    ) -> tuple[dict[str, Reply], dict[str, Exception]]:
        """The answers to the same question, put once more to hospitals whose process died.

        None of them is taken to have ``SpentNothing``, whatever it answers: it may have charged its ledger before.
        """
        for hospital in died:
            log(WARNING, "round %s: %s: %s; asked once more", server_round, hospital.site, failed[hospital.site])
        questions = [self._question(hospital, server_round, self._states[hospital.rank]) for hospital in died]
        asked = [(question.metadata, hospital) for question, hospital in zip(questions, died, strict=True)]
        replies = list(self._grid.send_and_receive(questions, timeout=self.experiment.sites.timeout))
        valid, still = self._replies(replies, asked, server_round)
        return valid, {site: SiteFailed(f"{failed[site]}; asked once more: {error}") for site, error in still.items()}

    def _accept(self, message: Message, hospital: Participant, server_round: int) -> Reply:
        """The reply to what ``hospital`` was asked, checked and booked."""
        answer = self.answer(message, hospital, Reply)
        if answer.round != server_round:
            raise RefusedReply(f"{answer.site}: answers round {answer.round} in round {server_round}")
        # Booked even if the adapter is refused below: it has left the hospital, so it counts.
        self.budget = self.budget.book(answer, hospital.delta)
        self._sent_states.arrived(hospital.site)
        if self.noise.setdefault(hospital.site, answer.noise) != answer.noise or not answer.noise >= 0:
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

    def answer(self, message: Message, hospital: Participant, kind: type[A]) -> A:
        """What ``hospital`` says in answer to any question, if it is no failure."""
        if message.has_error():
            raise of_flower(message.error)
        answer = read_answer(message.content, kind)
        # A node that fails before it could read the request can't name its site.
        named = answer.site == hospital.site or (isinstance(answer, Failure) and not answer.site)
        if not named or message.metadata.src_node_id != hospital.node:
            raise RefusedReply(f"{hospital.site}: answered by a site or node that was not asked for it")
        if isinstance(answer, Failure):
            if answer.code == "budget-exhausted":
                self.exhausted.add(hospital.site)
            if answer.code == "state-missing":
                self._sent_states.lost(hospital.site)
            raise of_hospital(answer)
        return answer
