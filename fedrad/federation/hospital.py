"""One round at a hospital, real or simulated: ``answer_round`` is all that a training request starts."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.batches import Tokenized
from fedrad.errors import PrivacyError
from fedrad.federation.messages import Reply, Request, check_adapter
from fedrad.federation.secure_hospital import Memory, masking_of
from fedrad.ledger.ledger import Ledger
from fedrad.model.adapter import is_residual
from fedrad.privacy.plan import PrivacyPlan
from fedrad.public_base.choice import starts_warm
from fedrad.training.corpus import Corpus
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import TrainingState, run_steps
from fedrad.training.padding import Padding
from fedrad.training.recipe import Recipe
from fedrad.training.setup import Setup, Terms
from fedrad.training.site import RoundRequest, close_round, open_round
from fedrad.training.strategy import Strategy


@dataclass(frozen=True)
class Accepted:
    """What a hospital that accepts a round trains by, known before any report is read.

    Attributes:
        setup: the model, with the state in it.
        state: all public tensors of the run, as the server meant them.
        plan: with shared noise another than the hospital would follow by itself.
        round: what ``training.site`` is asked for.
    """

    request: Request
    terms: Terms
    setup: Setup
    state: Mapping[str, Tensor]
    plan: PrivacyPlan
    recipe: Recipe
    round: RoundRequest

    @property
    def incoming(self) -> dict[str, Tensor]:
        """The trainable tensors that the server sent."""
        return {name: self.state[name] for name in self.setup.classifier.adapter()}


@dataclass(frozen=True)
class LocalSteps:
    """The noisy steps of an accepted round. They are charged, and start from the state ``before``."""

    accepted: Accepted
    inputs: Inputs
    before: TrainingState

    def take(self) -> TrainingState:
        """The state after them."""
        accepted, request = self.accepted, self.accepted.round
        return run_steps(
            self.inputs,
            accepted.plan,
            accepted.recipe,
            self.before,
            request.steps,
            site=accepted.request.site,
            blocks=request.blocks,
        )


class Hospital(ABC):
    """What real and simulated hospitals do differently in a round.

    Attributes:
        experiment: the run's configuration, as the server proposes it.
        memory: of secure aggregation; its directory holds ledger and state as well.
    """

    experiment: Experiment
    memory: Memory

    @abstractmethod
    def accept(self, request: Request) -> Accepted:
        """Refuses the request, or says what the hospital would train by."""

    @abstractmethod
    def ledger(self, terms: Terms) -> AbstractContextManager[Ledger]:
        """The hospital's ledger, locked. It is asked for before the steps and again after them."""

    @abstractmethod
    def preflight(self, accepted: Accepted) -> None:
        """``check_before_first_step`` of what was accepted."""

    @abstractmethod
    def read(self, accepted: Accepted, ledger: Ledger) -> Inputs:
        """The hospital's reports. Nothing reads any before this."""


def answer_round(hospital: Hospital, request: Request) -> Reply:
    """Charges and trains one round, and says what leaves the hospital.

    Raises: as ``training.site.train_round``, ``masking_of``, and what the hospital itself refuses.
    """
    running = round_at(hospital, request)
    try:
        steps = next(running)
    except StopIteration as ended:
        return _reply(ended)
    after = steps.take()  # outside of the try: nothing that the steps raise is taken for the end of the round
    try:
        running.send(after)
    except StopIteration as ended:
        return _reply(ended)
    raise AssertionError("a round has its steps once")


def _reply(ended: StopIteration) -> Reply:
    reply: Reply = ended.value
    return reply


def round_at(hospital: Hospital, request: Request) -> Generator[LocalSteps, TrainingState, Reply]:
    """``answer_round``, which stops where the steps would be taken, for a caller who takes them: those of many
    hospitals together, in a simulation. A round that was answered before has none.

    Order of writes: the ledger's intent for all steps, before it stops; then state and answer.
    """
    accepted = hospital.accept(request)
    directory = hospital.memory.directory
    with hospital.ledger(accepted.terms) as ledger:
        masking = masking_of(hospital.experiment, request, hospital.memory, accepted.plan)
        if masking is not None:
            accepted = replace(accepted, plan=masking.plan, round=replace(accepted.round, masked=True))
        hospital.preflight(accepted)
        inputs = hospital.read(accepted, ledger)
        opened = open_round(directory, ledger, accepted.round, accepted.plan, accepted.incoming)
        if opened.answer is not None:
            return reply_of(request, accepted.plan, accepted.terms.delta, opened.answer, ledger)
    after = yield LocalSteps(accepted, inputs, opened.before)
    with hospital.ledger(accepted.terms) as ledger:
        adapter = close_round(directory, ledger, accepted.round, opened, after)
        masked = b"" if masking is None else masking.mask(adapter)
        return reply_of(request, accepted.plan, accepted.terms.delta, adapter, ledger, masked)


def reply_of(
    request: Request,
    plan: PrivacyPlan,
    delta: float,
    adapter: Mapping[str, Tensor],
    ledger: Ledger,
    masked: bytes = b"",
) -> Reply:
    """The answer, with the epsilon of everything that the ledger holds, at ``delta``.

    Args:
        masked: under secure aggregation, what leaves instead of the adapter.

    Raises:
        PrivacyError: the plan's noise is shared, but the adapter would leave in clear.
    """
    if plan.shared is not None and not masked:
        raise PrivacyError("An adapter with only a share of the noise must leave masked.")
    account = ledger.view.account
    return Reply(
        site=request.site,
        round=request.round,
        adapter={} if masked else dict(adapter),
        declared_weight=plan.declared_size,
        plan_id=plan.id,
        noise=plan.own_noise_multiplier * plan.clip / plan.divisor if plan.private else 0.0,
        epsilon=account.epsilon(delta),
        events=account.events,
        masked=masked,
        rule=account.rule,
        order=account.order,
    )


def check_state(setup: Setup, state: Mapping[str, Tensor]) -> None:
    """Refuses a state of the server's that does not fit the model (its base residual aside), as strictly as the server
    checks a reply.

    Raises:
        RefusedReply: naming the first tensor that is wrong.
    """
    plain = {name: tensor for name, tensor in state.items() if not is_residual(name)}
    check_adapter(plain, setup.classifier.state(), "the server")


def inputs_of(setup: Setup, corpus: Corpus, rows: NDArray[np.int64], padding: Padding | None = None) -> Inputs:
    """These reports as the trainable part of the model reads them; ``padding`` is a real hospital's."""
    return prepare(setup, tokens_of(setup, corpus, rows), padding=padding)


def tokens_of(setup: Setup, corpus: Corpus, rows: NDArray[np.int64]) -> Tokenized:
    """These reports as token ids with their labels."""
    return setup.task.tokenize(corpus.reports, rows, setup.base.tokenizer, setup.max_length)


def recipe_of(experiment: Experiment, setup: Setup) -> Recipe:
    """The optimisation of one hospital among ``sites.count``."""
    warm = starts_warm(experiment, setup.task.findings)
    return Recipe.of(experiment, sites=experiment.sites.count, warm=warm)


def round_of(
    experiment: Experiment,
    strategy: Strategy,
    request: Request,
    setup: Setup,
    texts: Mapping[str, object] | None = None,
) -> RoundRequest:
    """The round that is asked for, as the site sees it.

    Its digest of settings covers every key of the configuration (``run.*`` aside, which only says where results go) and
    every field of the request, except the round's number, the state that is sent and who else is asked.

    Args:
        texts: how a real hospital privatises its texts (``figures_of``): its own choice, not the configuration's.
    """
    bound: list[object] = [experiment.training_digest(), request.rounds, setup.lora.rank, setup.task.labels]
    if texts is not None:
        bound.append(dict(texts))
    return RoundRequest.of(
        strategy,
        setup.classifier.adapter().keys(),
        run=request.run,
        round=request.round,
        steps=experiment.local_steps,
        last=request.round == request.rounds,
        settings=hashlib.sha256(json.dumps(bound).encode()).hexdigest(),
    )
