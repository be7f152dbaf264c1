"""The ClientApp: a hospital that trains on its own shard and sends noised adapter weights.

Nothing lives in module globals (a SuperNode starts a process for every message, a simulation uses one process for many
hospitals): what lasts is on disk in the site's directory, and what is kept in memory can be rebuilt from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.batches import tokenize
from fedrad.errors import ConfigError, FedradError, ModelError, place_of
from fedrad.federation.messages import (
    Failure,
    Hello,
    Reply,
    Request,
    check_adapter,
    hello_content,
    read_request,
    reply_content,
)
from fedrad.federation.policy import HospitalPolicy
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.privacy.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import Recipe
from fedrad.training.preflight import check_before_first_step
from fedrad.training.setup import Setup, pin_threads, plan_for, set_up
from fedrad.training.site import RoundRequest, Site, adapter_digest, train_round
from fedrad.training.warm_start import starts_warm

app = ClientApp()

# What Flower calls the process that a SuperNode starts for a message.
_SUPERNODE_PROCESS = "flwr-clientapp"


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Says who answers here: any simulated hospital, or one real one."""
    try:
        if _simulated(context):
            hello = Hello(site="", simulated=True, declared_weight=0)
        else:
            policy = HospitalPolicy.from_node_config(context.node_config)
            hello = Hello(site=policy.site, simulated=False, declared_weight=policy.declared_size)
    except Exception as error:
        return Message(content=reply_content(_failure(error, "", 0)), reply_to=message)
    return Message(content=hello_content(hello), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers one round. Whatever goes wrong, only its code leaves the hospital."""
    site, number = "", 0
    try:
        request = read_request(message)
        site, number = request.site, request.round
        experiment = _experiment(json.dumps(context.run_config))
        pin_threads(experiment)
        content = reply_content(
            _simulated_round(experiment, request)
            if _simulated(context)
            else _hospital_round(experiment, request, HospitalPolicy.from_node_config(context.node_config))
        )
    except Exception as error:
        content = reply_content(_failure(error, site, number))
    return Message(content=content, reply_to=message)


def _simulated(context: Context) -> bool:
    """Flower's simulation numbers its nodes; a hospital's node configuration names a site.

    A simulated site reads what the server names and has no policy. So a process that a SuperNode started is never one,
    even if somebody configured it as Flower's examples do: it must state a policy.
    """
    numbered = "partition-id" in context.node_config and "site" not in context.node_config
    return numbered and Path(sys.argv[0]).name != _SUPERNODE_PROCESS


def _hospital_round(experiment: Experiment, request: Request, policy: HospitalPolicy) -> Reply:
    if request.site != policy.site:
        raise ConfigError(f"the server asks for {request.site}, this is {policy.site}")
    allowed = policy.allowed_epsilon(experiment)
    own = Experiment.from_flat(
        {
            **experiment.flat(),
            "data.name": policy.data_name,
            "data.path": policy.data_path,
            "data.text-column": policy.text_column,
            "data.patient-column": policy.patient_column,
            "data.site-column": policy.site_column,
            "data.time-column": policy.time_column,
            "data.label-columns": policy.label_columns or ",".join(request.labels),
            "sites.partition": "iid",  # this is one hospital: nothing is dealt out here, so no column is needed for it
        }
    )
    corpus = read_corpus(own)
    if corpus.names != request.labels:
        raise ModelError("the labels of this hospital's reports are not those that the server's head has")
    setup = _set_up(experiment, corpus.names, corpus.single_label, request.state)
    # A hospital's shard is all of its reports, its test part included: nothing is evaluated on them.
    inputs = _inputs(setup, corpus, np.arange(len(corpus.reports)), experiment)
    plan = plan_for(experiment, policy.declared_size, allowed)
    directory = Path(policy.state_dir)
    with Ledger.open(
        directory, site=policy.site, cap=policy.epsilon_cap, delta=policy.delta, witness=policy.witness
    ) as ledger:
        return _answer(experiment, request, setup, inputs, plan, directory, ledger, check_before_first_step)


def _simulated_round(experiment: Experiment, request: Request) -> Reply:
    corpus = _simulated_corpus(experiment)
    setup = _set_up(experiment, corpus.names, corpus.single_label, request.state)
    trainable = setup.classifier.adapter()
    frozen = {name: tensor for name, tensor in request.state.items() if name not in trainable}
    inputs = _simulated_inputs(experiment, request.index, adapter_digest(frozen), setup)
    plan = plan_for(experiment, declared_size(len(inputs)))
    directory = Path(request.directory) / site_name(request.index)
    cap = experiment.privacy.epsilon if experiment.privacy.epsilon > 0 else float("inf")
    delta = experiment.privacy.delta
    with Ledger.open(directory, site=request.site, cap=cap, delta=delta, witness=None, durable=False) as ledger:
        return _answer(experiment, request, setup, inputs, plan, directory, ledger, _checked_once)


def _answer(
    experiment: Experiment,
    request: Request,
    setup: Setup,
    inputs: Inputs,
    plan: PrivacyPlan,
    directory: Path,
    ledger: Ledger,
    check: Callable[[Setup, Recipe, PrivacyPlan], None],
) -> Reply:
    trainable = setup.classifier.adapter()
    site = Site(
        name=request.site,
        directory=directory,
        classifier=setup.classifier,
        inputs=inputs,
        plan=plan,
        recipe=Recipe.of(
            experiment,
            single_label=setup.single_label,
            sites=experiment.sites.count,
            warm=starts_warm(experiment, setup.names, single_label=setup.single_label),
        ),
    )
    check(setup, site.recipe, plan)
    adapter = train_round(
        site,
        ledger,
        RoundRequest(
            run=request.run,
            round=request.round,
            steps=experiment.train.local_steps,
            last=request.round == request.rounds,
        ),
        {name: request.state[name] for name in trainable},
    )
    booked = composed_epsilon(ledger.events(), experiment.privacy.delta)
    return Reply(
        site=request.site,
        round=request.round,
        adapter=adapter,
        declared_weight=plan.declared_size,
        plan_id=plan.id,
        epsilon=float(booked),
    )


def _set_up(experiment: Experiment, names: tuple[str, ...], single_label: bool, state: Mapping[str, Tensor]) -> Setup:
    """The model with the server's state in it, which is checked as strictly as the server checks a reply."""
    setup = _blank_setup(experiment, names, single_label)
    check_adapter(state, setup.classifier.state(), "the server")
    setup.classifier.load_state(state)
    return setup


# A simulation's process serves many hospitals and many rounds. What is kept here is a pure function of its arguments.
@lru_cache(maxsize=4)
def _experiment(config: str) -> Experiment:
    # From JSON, which tells 1 from 1.0: as keys of a cache they would be the same.
    return Experiment.from_flat(json.loads(config))


@lru_cache(maxsize=2)
def _blank_setup(experiment: Experiment, names: tuple[str, ...], single_label: bool) -> Setup:
    return set_up(experiment, names, single_label)


@lru_cache(maxsize=2)
def _simulated_corpus(experiment: Experiment) -> Corpus:
    return read_corpus(experiment)


@lru_cache(maxsize=2)
def _simulated_shares(experiment: Experiment) -> list[NDArray[np.int64]]:
    return hospital_shares(experiment, _simulated_corpus(experiment))


@lru_cache(maxsize=256)
def _simulated_inputs(experiment: Experiment, index: int, frozen: str, setup: Setup) -> Inputs:
    # ``frozen`` names the frozen tensors that ``setup`` holds now: the kept part depends on them.
    corpus = _simulated_corpus(experiment)
    return _inputs(setup, corpus, _simulated_shares(experiment)[index], experiment)


@lru_cache(maxsize=1024)
def _checked_once(setup: Setup, recipe: Recipe, plan: PrivacyPlan) -> None:
    # Simulated hospitals share one structure, and most of them one plan. A real one checks in every round. A check that
    # fails is not remembered.
    check_before_first_step(setup, recipe, plan)


def _inputs(setup: Setup, corpus: Corpus, rows: NDArray[np.int64], experiment: Experiment) -> Inputs:
    tokens = tokenize(corpus.reports, rows, setup.base.tokenizer, experiment.data.max_length)
    return prepare(setup.classifier, tokens, setup.pad_id)


def _failure(error: Exception, site: str, number: int) -> Failure:
    """The code that leaves, and what the hospital's own log says. fedrad's errors never carry report text; for any
    other error only the place is logged, since its message may quote a report."""
    if isinstance(error, FedradError):
        print(f"fedrad: {site} round {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return Failure(site, number, error.code)
    print(f"fedrad: {site} round {number}: {type(error).__name__} at {place_of(error)}", file=sys.stderr, flush=True)
    return Failure(site, number, "internal")
