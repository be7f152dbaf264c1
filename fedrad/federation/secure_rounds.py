"""Rounds in which the server learns the sum of the hospitals' adapters: the stages of ``fedrad.secure`` over Flower.

Hospitals exchange keys, then train and send masked adapters. Surviving hospitals reveal the shares that unmask the sum.
``Rounds`` decides whom to ask, what to send, the budgets and the quorum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from logging import WARNING
from typing import TypeVar

from flwr.app import Message
from flwr.common import log
from torch import Tensor

from fedrad.errors import QuorumLost, RefusedReply
from fedrad.federation.messages import Body, Opening, Reply, StageRequest, content_of
from fedrad.federation.participants import Federation, Participant
from fedrad.federation.rounds import R, Rounds
from fedrad.federation.secure_hospital import bound_run
from fedrad.privacy.noise_share import own_noise_multiplier
from fedrad.secure.fixed_point import DEFAULT_BOUND, decode, unflatten
from fedrad.secure.messages import Confirmation, KeyAdvert, MaskedInput, Roster, SealedShares, Unmasking, UnmaskRequest
from fedrad.secure.rounding import check_covered, check_start
from fedrad.secure.server import build_roster, inboxes, survivors, unmasked_sum
from fedrad.secure.setup import RoundSetup
from fedrad.training.recipe import step_scales
from fedrad.training.setup import shared_noise_terms
from fedrad.training.site_state import adapter_digest
from fedrad.training.strategy import Contribution, Strategy

STAGE = "query.secure"  # the type of Flower's messages for the stages
S = TypeVar("S", KeyAdvert, SealedShares, Confirmation, Unmasking)


class SecureRounds(Rounds):
    """As ``Rounds``, but only sums of the adapters of ``sites.quorum`` hospitals or more arrive here.

    Guarantee: that of ``fedrad.secure``. This server follows the protocol. What a hospital sends in clear is in
    ``messages.Reply``. A round in which fewer than the quorum mask, or reveal their shares, ends the run.

    Args:
        noise_multiplier: of the sum, where hospitals share its noise; 0: each adds all of its own.
    """

    asks_again = False  # a masked adapter leaves a hospital once

    def __init__(
        self,
        strategy: Strategy,
        federation: Federation,
        state: Mapping[str, Tensor],
        noise_multiplier: float = 0.0,
    ) -> None:
        super().__init__(strategy, federation, state)
        self._noise_multiplier = noise_multiplier
        self._setup: RoundSetup
        self._roster: Roster
        self._digest = ""
        self._shared: list[SealedShares] = []

    def ready(self, server_round: int) -> list[Participant]:
        """Exchanges keys with the participants, and returns those whose shares the others hold.

        Raises:
            QuorumLost: fewer than the quorum; no adapter was made.
            SecureAggregationRefusal: every hospital would refuse the state, because of the size of its numbers.
        """
        self._fell_out = {}
        invited = self.participants(server_round)
        # All hospitals get one state: strategies that average know one rank.
        state = self.strategy.for_rank(self.state, self.federation.lora.rank, self.facts(server_round))
        self._check_state(state, server_round)
        self._digest = adapter_digest(state)
        self._setup = self._terms(server_round, [hospital.site for hospital in invited])
        opening = Opening(self._setup, self._noise_multiplier, self._digest)
        adverts = self._stage(KeyAdvert, dict.fromkeys(self._setup.sites, opening), self._fell_out)
        self._roster = self._unless_lost(lambda: build_roster(self._setup, adverts))
        self._shared = self._stage(SealedShares, {a.site: self._roster for a in adverts}, self._fell_out)
        self._inboxes = self._unless_lost(lambda: inboxes(self._setup, self._roster, self._shared))
        return [hospital for hospital in invited if hospital.site in self._inboxes]

    def contributions(self, replies: Sequence[Reply], server_round: int) -> list[Contribution]:
        """The mean of the masked adapters, as one contribution. A hospital that drops out from here on is still in it.

        Raises:
            QuorumLost: fewer than the quorum reveal their shares; the sum stays masked for ever.
            RefusedReply: a share was wrong.
        """
        inputs = [MaskedInput(reply.site, reply.masked) for reply in replies]
        alive = survivors(self._setup, self._shared, inputs)
        silent: dict[str, str] = {}
        confirmations: dict[str, bytes] = {}
        if any(self._roster.signatures.values()):
            signed = self._stage(Confirmation, dict.fromkeys(alive.sites, alive), silent)
            confirmations = {confirmed.site: confirmed.signature for confirmed in signed}
        request = UnmaskRequest(alive.sites, confirmations)
        unmaskings = self._stage(Unmasking, dict.fromkeys(alive.sites, request), silent)
        for site, reason in sorted(silent.items()):
            log(WARNING, "round %s: %s masked its adapter, which counts, but then: %s", server_round, site, reason)
        total = unmasked_sum(self._setup, self._roster, self._shared, inputs, unmaskings)
        rank = self.federation.lora.rank
        mean = unflatten(decode(total) / len(inputs), self._expected[rank])
        return [Contribution({name: tensor.float() for name, tensor in mean.items()}, 1.0, rank)]

    def check(self, answer: Reply, expected: Mapping[str, Tensor]) -> None:
        if answer.adapter or len(answer.masked) != 8 * self._setup.entries:
            raise RefusedReply(f"{answer.site}: did not send {self._setup.entries} masked numbers, and nothing else")

    def _check_state(self, state: Mapping[str, Tensor], server_round: int) -> None:
        """Checks what every hospital will check (``training.site.judge_round``), before any of them is asked."""
        names = self.strategy.sent(self.federation.trainable, server_round)
        sent = {name: state[name] for name in names}
        check_start(sent, DEFAULT_BOUND)
        if self._noise_multiplier > 0:
            terms, batch = shared_noise_terms(self.experiment), self.experiment.train.batch
            own = own_noise_multiplier(self._noise_multiplier, terms)
            check_covered(sent, step_scales(terms, sent), own, batch, DEFAULT_BOUND)

    def _terms(self, server_round: int, sites: Sequence[str]) -> RoundSetup:
        quorum = self.experiment.quorum
        if len(sites) < quorum:
            raise QuorumLost(
                f"round {server_round}: {len(sites)} hospitals are left to ask, {quorum} are needed (sites.quorum)"
            )
        names = self.strategy.sent(self.federation.trainable, server_round)
        return RoundSetup(
            run=bound_run(self.federation.run, self.experiment, self._noise_multiplier, self._digest),
            round=server_round,
            sites=tuple(sorted(sites)),
            threshold=quorum,
            entries=sum(self.state[name].numel() for name in names),
            colluders=self.experiment.privacy.colluders,
        )

    def _stage(self, kind: type[S], bodies: Mapping[str, Body], failed: dict[str, str]) -> list[S]:
        """Asks each hospital its question, and returns the valid answers, sorted by site.

        Args:
            failed: gets the reasons of the others.
        """
        asked = [hospital for hospital in self.federation.hospitals if hospital.site in bodies]
        questions = [self._stage_question(hospital, bodies[hospital.site]) for hospital in asked]
        received = list(self._grid.send_and_receive(questions, timeout=self.experiment.sites.timeout))
        valid, reasons = self.matched(
            received,
            [(question.metadata, hospital) for question, hospital in zip(questions, asked, strict=True)],
            f"no answer to {kind.__name__} within sites.timeout",
            lambda message, hospital: self.answer(message, hospital, kind),
        )
        failed |= {site: str(reason) for site, reason in reasons.items()}
        return [valid[site] for site in sorted(valid)]

    def _stage_question(self, hospital: Participant, body: Body) -> Message:
        run, directory = self.federation.run, self.federation.directory
        request = StageRequest(run, hospital.site, hospital.index, self._setup.round, directory, body)
        return Message(content=content_of(request), message_type=STAGE, dst_node_id=hospital.node)

    def _unless_lost(self, relay: Callable[[], R]) -> R:
        """What the server relays; a lost quorum also says why each hospital fell out."""
        try:
            return relay()
        except QuorumLost as lost:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(self._fell_out.items()))
            raise QuorumLost(f"{lost} (sites.quorum). {why}") from None
