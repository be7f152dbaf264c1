"""The ClientApp: a hospital that trains on its own shard and sends noised adapter weights.

Nothing lives in module globals (a SuperNode starts a process for every message, a simulation uses one process for many
hospitals): what lasts is on disk in the site's directory, and what is kept in memory can be rebuilt from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import ConfigError, DataError
from fedrad.federation import simulated
from fedrad.federation.delivery import PublicStore
from fedrad.federation.hospital import failure_of, inputs_of, recipe_of, reply_of, round_of, set_up_with
from fedrad.federation.identity import read_identity
from fedrad.federation.latch import latched, refuse_if_closed
from fedrad.federation.messages import (
    Hello,
    Reply,
    Request,
    Stage,
    StageRequest,
    hello_content,
    read_request,
    read_stage,
    reply_content,
    stage_answer_content,
)
from fedrad.federation.policy import HospitalPolicy
from fedrad.federation.secure_hospital import Masking, Memory, answer_stage, masking_of
from fedrad.privacy.bindings import bind, check_path
from fedrad.privacy.ledger import Ledger
from fedrad.training.corpus import read_corpus
from fedrad.training.inputs import Inputs
from fedrad.training.preflight import check_before_first_step
from fedrad.training.setup import Setup, Terms, local_plan_for, pin_arithmetic, plan_for, terms_of
from fedrad.training.site import Site, judge_round, train_round

app = ClientApp()

# What Flower calls the process that a SuperNode starts for a message.
_SUPERNODE_PROCESS = "flwr-clientapp"


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Says who answers here: any simulated hospital, or one real one."""
    try:
        if _simulated(context):
            hello = Hello(site="", simulated=True, declared_weight=0, rank=0)
        else:
            policy = HospitalPolicy.from_node_config(context.node_config)
            hello = Hello(site=policy.site, simulated=False, declared_weight=policy.declared_size, rank=policy.rank)
    except Exception as error:
        return Message(content=reply_content(failure_of(error, "", 0)), reply_to=message)
    return Message(content=hello_content(hello), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers one round. Whatever goes wrong, only its code leaves the hospital."""
    site, number = "", 0
    try:
        request = read_request(message)
        site, number = request.site, request.round
        experiment = simulated.experiment_of(json.dumps(context.run_config))
        pin_arithmetic(experiment)
        content = reply_content(
            _simulated_round(experiment, request)
            if _simulated(context)
            else _hospital_round(experiment, request, HospitalPolicy.from_node_config(context.node_config))
        )
    except Exception as error:
        content = reply_content(failure_of(error, site, number))
    return Message(content=content, reply_to=message)


@app.query("secure")
def secure_stage(message: Message, context: Context) -> Message:
    """Answers one of the stages of secure aggregation that lie around training."""
    site, number = "", 0
    try:
        request = read_stage(message)
        site, number = request.site, request.round
        experiment = simulated.experiment_of(json.dumps(context.run_config))
        content = stage_answer_content(
            answer_stage(request, experiment, Memory(simulated.directory_of(request), durable=False), None)
            if _simulated(context)
            else _hospital_stage(experiment, request, HospitalPolicy.from_node_config(context.node_config))
        )
    except Exception as error:
        content = reply_content(failure_of(error, site, number))
    return Message(content=content, reply_to=message)


def _hospital_stage(experiment: Experiment, request: StageRequest, policy: HospitalPolicy) -> Stage:
    if request.site != policy.site:
        raise ConfigError(f"the server asks for {request.site}, this is {policy.site}")
    policy.terms(experiment)  # refuses before any key is made
    refuse_if_closed(Path(policy.state_dir))
    identity = read_identity(Path(policy.identity_key), Path(policy.peers)) if policy.identity_key else None
    return answer_stage(request, experiment, Memory(Path(policy.state_dir), durable=True), identity)


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
    terms, directory = policy.terms(experiment), Path(policy.state_dir)
    refuse_if_closed(directory)
    policy.accept_labels(request.labels)
    policy.accept_model(experiment)
    own = policy.own(experiment)
    store = PublicStore(directory / "public")
    state = store.receive(request.state)
    setup = set_up_with(own, policy.labels, bool(policy.classes), state, terms.rank)
    store.keep(request.state.digest, state)
    plan = plan_for(own, policy.declared_size, terms)
    recipe = recipe_of(experiment, setup)
    bound: Any = {"site": policy.site, "path": Path(policy.data_path), "shares_with": policy.shares_with}
    check_path(policy.witness, **bound)
    with Ledger.open(
        directory,
        site=policy.site,
        cap=policy.epsilon_cap,
        delta=policy.delta,
        witness=policy.witness,
        shares_with=policy.shares_with,
    ) as ledger:
        refuse_if_closed(directory)  # again, with the lock held: an earlier question may just have closed it
        masking = masking_of(experiment, request, Memory(directory, durable=True), plan)
        plan = plan if masking is None else masking.plan
        check_before_first_step(setup, recipe, plan)
        incoming = {name: state[name] for name in setup.classifier.adapter()}
        asked = replace(round_of(experiment, request, setup), masked=masking is not None)
        judge_round(directory, ledger, asked, plan, incoming)
        # Nothing was read of any report until here, so that no refusal tells of one.
        with latched(directory, f"run {request.run}, round {request.round}"):
            corpus = read_corpus(own)
            if (corpus.names, corpus.single_label) != (policy.labels, bool(policy.classes)):
                raise DataError(
                    "the labels in the reports are not those that the node configuration states.",
                    file=policy.data_path,
                    remedy="Correct label-columns; a column of class names needs all of them in classes.",
                )
            bind(policy.witness, directory=directory, texts=corpus.reports["text"], **bound)
            # A hospital's shard is all of its reports, its test part included: nothing is evaluated on them.
            inputs = inputs_of(setup, corpus, np.arange(len(corpus.reports)), own)
            site = Site(request.site, directory, setup.classifier, inputs, plan, recipe)
            return _answer(experiment, request, setup, site, ledger, state, terms, masking)


def _simulated_round(experiment: Experiment, request: Request) -> Reply:
    corpus, terms = simulated.corpus_of(experiment), terms_of(experiment, request.index)
    received = simulated.received(request)
    setup = simulated.set_up_with(experiment, corpus, received, terms.rank)
    inputs = _simulated_inputs(experiment, request.index, simulated.frozen_digest(setup, received), setup)
    plan = local_plan_for(experiment, simulated.declared_sizes(experiment)[request.index], terms)
    recipe = recipe_of(experiment, setup)
    with simulated.open_ledger(experiment, request, terms) as ledger:
        directory = simulated.directory_of(request)
        masking = masking_of(experiment, request, Memory(directory, durable=False), plan)
        plan = plan if masking is None else masking.plan
        simulated.checked_once(setup, recipe, plan)
        site = Site(request.site, directory, setup.classifier, inputs, plan, recipe)
        return _answer(experiment, request, setup, site, ledger, received.state, terms, masking)


def _answer(
    experiment: Experiment,
    request: Request,
    setup: Setup,
    site: Site,
    ledger: Ledger,
    state: Mapping[str, Tensor],
    terms: Terms,
    masking: Masking | None,
) -> Reply:
    incoming = {name: state[name] for name in site.classifier.adapter()}
    asked = replace(round_of(experiment, request, setup), masked=masking is not None)
    adapter = train_round(site, ledger, asked, incoming)
    masked = b"" if masking is None else masking.mask(adapter)
    return reply_of(request, site.plan, terms.delta, adapter, ledger, masked)


@lru_cache(maxsize=4096)  # one for each hospital; all together they are the corpus once
def _simulated_inputs(experiment: Experiment, index: int, frozen: str, setup: Setup) -> Inputs:
    # ``frozen`` names the frozen tensors that ``setup`` holds now: the kept part depends on them.
    return inputs_of(setup, simulated.corpus_of(experiment), simulated.shares_of(experiment)[index], experiment)
