"""What a real and a simulated hospital have in common in answering a round: model, recipe, request, reply, failure."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from time import monotonic, sleep

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import FedradError, PrivacyError, place_of
from fedrad.federation.messages import Failure, Reply, Request, check_adapter
from fedrad.federation.secure_hospital import Masking
from fedrad.ledger.ledger import Ledger
from fedrad.model.adapter import is_residual
from fedrad.privacy.plan import PrivacyPlan
from fedrad.public_base.choice import starts_warm
from fedrad.tasks.task import Task
from fedrad.training.corpus import Corpus
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import Recipe
from fedrad.training.padding import Padding
from fedrad.training.setup import Setup, Terms, set_up
from fedrad.training.site import RoundRequest, Site, train_round
from fedrad.training.strategy import Strategy, strategy_of


@lru_cache(maxsize=4)
def experiment_of(config: str) -> Experiment:
    """The run's configuration, from JSON, which tells 1 from 1.0: as keys of a cache they would be the same."""
    return Experiment.from_flat(json.loads(config))


def set_up_with(experiment: Experiment, task: Task, state: Mapping[str, Tensor], rank: int) -> Setup:
    """The model with the server's state in it, which is checked as strictly as the server checks a reply.

    Raises:
        RefusedReply: the state does not fit.
        ModelError: its base residual does not fit.
    """
    setup = blank_setup(experiment, task, rank)
    check_state(setup, state)
    setup.classifier.load_state(state)
    return setup


def check_state(setup: Setup, state: Mapping[str, Tensor]) -> None:
    """Refuses a state of the server's that does not fit the model, its base residual aside.

    Raises:
        RefusedReply: naming the first tensor that is wrong.
    """
    plain = {name: tensor for name, tensor in state.items() if not is_residual(name)}
    check_adapter(plain, setup.classifier.state(), "the server")


# A simulation's process serves many hospitals and rounds. What is kept is a pure function of the arguments.
@lru_cache(maxsize=4)
def blank_setup(experiment: Experiment, task: Task, rank: int) -> Setup:
    """The model before any state is loaded."""
    return set_up(experiment, task, rank)


@lru_cache(maxsize=4)
def strategy_of_run(experiment: Experiment) -> Strategy:
    """The strategy, which says what a round trains."""
    return strategy_of(experiment)


def inputs_of(
    setup: Setup, corpus: Corpus, rows: NDArray[np.int64], experiment: Experiment, padding: Padding | None = None
) -> Inputs:
    """These reports as the trainable part of the model reads them; ``padding`` is a real hospital's."""
    tokens = setup.task.tokenize(corpus.reports, rows, setup.base.tokenizer, experiment.data.max_length)
    return prepare(setup, tokens, padding=padding)


def recipe_of(experiment: Experiment, setup: Setup) -> Recipe:
    """The optimisation of one hospital among ``sites.count``."""
    warm = starts_warm(experiment, setup.task.findings)
    return Recipe.of(experiment, sites=experiment.sites.count, warm=warm)


@lru_cache(maxsize=64)
def settings_of(experiment: Experiment, rounds: int, rank: int, names: tuple[str, ...]) -> str:
    """Digest of everything in the request and the configuration but the round's number, the state that is sent and who
    else is asked: a new key of the configuration is bound to the run as soon as there is one."""
    return hashlib.sha256(json.dumps([experiment.digest(), rounds, rank, names]).encode()).hexdigest()


def round_of(experiment: Experiment, request: Request, setup: Setup) -> RoundRequest:
    """The round that is asked for, as the site sees it."""
    return RoundRequest.of(
        strategy_of_run(experiment),
        setup.classifier.adapter().keys(),
        run=request.run,
        round=request.round,
        steps=experiment.local_steps,
        last=request.round == request.rounds,
        settings=settings_of(experiment, request.rounds, setup.lora.rank, setup.task.labels),
    )


def answer_round(
    experiment: Experiment,
    request: Request,
    setup: Setup,
    site: Site,
    ledger: Ledger,
    state: Mapping[str, Tensor],
    terms: Terms,
    masking: Masking | None,
) -> Reply:
    """Charges and trains the round at this site, and says what leaves it.

    Raises: as ``training.site.train_round``.
    """
    incoming = {name: state[name] for name in site.classifier.adapter()}
    asked = replace(round_of(experiment, request, setup), masked=masking is not None)
    adapter = train_round(site, ledger, asked, incoming)
    masked = b"" if masking is None else masking.mask(adapter)
    return reply_of(request, site.plan, terms.delta, adapter, ledger, masked)


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
    account = ledger.account()
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


@contextmanager
def held_back(every: float) -> Iterator[None]:
    """Lets what is in it end, by an error or not, at a whole multiple of so many seconds only; 0: at once.

    Guarantee: who sees no more than when the answer leaves learns how often that time has passed. If the work always
    takes less, that is once, whatever took how long in it.
    """
    begun = monotonic()
    try:
        yield
    finally:
        if every:
            sleep(-(monotonic() - begun) % every)


def failure_of(error: Exception, site: str, number: int) -> Failure:
    """The code that leaves, and what the hospital's own log says. fedrad's errors never carry report text; for any
    other error only the place is logged, since its message may quote a report."""
    if isinstance(error, FedradError):
        print(f"fedrad: {site} round {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return Failure(site, number, error.code)
    print(f"fedrad: {site} round {number}: {type(error).__name__} at {place_of(error)}", file=sys.stderr, flush=True)
    return Failure(site, number, "internal")
