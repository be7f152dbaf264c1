"""Rounds whose privacy unit is the hospital: the server clips, sums and noises whole updates (``privacy/central.py``).

The server is trusted: the updates reach it without noise. So it keeps a ledger of its own. It charges a round before
the round's noise is drawn, and notes that the result was published once the run's checkpoint holds it. A hospital with
a policy of its own (a real one) refuses such a run; simulated ones take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flwr.app import ArrayRecord, Message, MetricRecord
from torch import Tensor

from fedrad.config import Experiment
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.messages import Reply, check_adapter
from fedrad.federation.participants import Federation
from fedrad.federation.rounds import Rounds
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.hospital_unit import hospital_plan, noised_mean, update_of
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import stream
from fedrad.training.site import Charge
from fedrad.training.site_state import adapter_digest
from fedrad.training.strategy import Contribution, Strategy

SERVER = "server"


def central_plan(experiment: Experiment) -> PrivacyPlan:
    """The server's plan of a run whose unit is the hospital.

    Raises:
        PlanError: no noise multiplier meets the budget, or the plan contradicts itself.
    """
    privacy = experiment.privacy
    return hospital_plan(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        hospitals=experiment.asked,
        rounds=experiment.train.rounds,
        clip=privacy.clip,
        noise=privacy.noise,
    )


class CentralRounds(Rounds):
    """As ``Rounds``, with noise from the server. A hospital that does not answer counts as an update of zeros.

    Guarantee: that of ``privacy.hospital_unit.noised_mean`` for all rounds of the run together; after it the strategy
    sees nothing else: one contribution, the noised mean.

    Args:
        ledger: the folder of the server's own ledger.
    """

    def __init__(
        self,
        strategy: Strategy,
        federation: Federation,
        state: Mapping[str, Tensor],
        plan: PrivacyPlan,
        ledger: Path,
    ) -> None:
        super().__init__(strategy, federation, state)
        self._plan = plan
        self._directory = ledger

    def contributions(self, replies: Sequence[Reply], server_round: int) -> list[Contribution]:
        rank = self.federation.lora.rank
        sent = self._expected[rank]
        updates = {reply.site: update_of(reply.adapter, sent) for reply in replies}
        # Of a round that is repeated after the server was ended: what was noised before was not kept, so nobody saw it.
        charge = Charge(
            run=self.federation.run, round=server_round, plan=self._plan, steps=1, request=adapter_digest(self.state)
        )
        with self._ledger() as ledger:
            if not ledger.unanswered(**charge):
                ledger.record_intent(**charge)
            randomness = stream(self._plan.noise, self.experiment.train.seed, SERVER, server_round, "noise")
            update = noised_mean(updates, sent, self._plan, randomness)
            account = ledger.view.account
        self.own = BudgetMirror({SERVER: account.epsilon(self._plan.delta)}, {SERVER: account})
        mean = {name: (sent[name].double() + change.double()).to(sent[name].dtype) for name, change in update.items()}
        return [Contribution(mean, 1.0, rank)]

    def published(self, server_round: int) -> None:
        if server_round:
            with self._ledger() as ledger:
                last = ledger.view.rows[-1]
                if (last.run, last.round) == (self.federation.run, server_round):
                    ledger.mark_done(last.seq)

    def _ledger(self) -> Ledger:
        cap = self._plan.epsilon if self._plan.private else float("inf")
        return Ledger.open(self._directory, site=SERVER, cap=cap, delta=self._plan.delta, witness=None)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        try:
            return super().aggregate_train(server_round, replies)
        finally:
            # The only ledger that counts is the server's own: an answer that was lost leaves nothing uncertain.
            self.unconfirmed = frozenset()

    def check(self, answer: Reply, expected: Mapping[str, Tensor]) -> None:
        """Numbers that are not finite pass: a refusal would tell, without noise, of a single hospital's reports. The
        whole update counts as zero (``noised_mean``)."""
        check_adapter(answer.adapter, expected, answer.site, must_be_finite=False)

    @property
    def spent(self) -> BudgetMirror:
        return self.own
