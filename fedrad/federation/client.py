"""A hospital's ClientApp: it trains on its own reports, under its own policy, and sends noised adapter weights.

Guarantee: there is one way through this module, by the policy in the node configuration. A simulated hospital reads
what the server names and has no policy; it is another app (``simulated_client``), which this module does not import, so
nothing that a server or a node configuration says can make a hospital answer as a simulated one. Who registers that
other app at a hospital's node has chosen other code, as anybody may who submits a run (docs/deployment.md).

Nothing lives in module globals (a SuperNode starts a process for every message): what lasts is on disk in the site's
directory, and what is kept in memory can be rebuilt from it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrad.config import Experiment
from fedrad.data.report import warnings_as_lines
from fedrad.errors import ConfigError, DataError, PolicyRefusal
from fedrad.federation.answers import answer_hello, answer_secure, answer_training
from fedrad.federation.delivery import PublicStore
from fedrad.federation.hospital import answer_round, held_back, inputs_of, recipe_of, round_of, set_up_with
from fedrad.federation.identity import read_identity
from fedrad.federation.latch import latched, refuse_if_closed
from fedrad.federation.messages import Hello, Reply, Request, Stage, StageRequest, labels_digest
from fedrad.federation.policy import HospitalPolicy
from fedrad.federation.secure_hospital import Memory, answer_stage, masking_of
from fedrad.ledger.bindings import bind, check_path
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.passes import most_units
from fedrad.training.corpus import read_corpus
from fedrad.training.preflight import check_before_first_step
from fedrad.training.setup import plan_for
from fedrad.training.site import Site, judge_round

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Says which hospital answers here."""
    return answer_hello(message, lambda: _hello(_policy(context)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers one round."""
    return answer_training(message, context, lambda experiment, request: _timed(experiment, request, _policy(context)))


@app.query("secure")
def secure_stage(message: Message, context: Context) -> Message:
    """Answers one of the stages of secure aggregation that lie around training."""
    return answer_secure(message, context, lambda experiment, request: _stage(experiment, request, _policy(context)))


def _policy(context: Context) -> HospitalPolicy:
    """The hospital's policy, without which nothing is answered.

    Raises:
        PolicyRefusal: the node is one of a simulation, and states none.
        ConfigError: it is not a policy.
    """
    if "partition-id" in context.node_config and "site" not in context.node_config:
        raise PolicyRefusal(
            "this is a hospital's app, and the node is numbered as a simulation's are (partition-id) and states no"
            " policy. A hospital states one in its node configuration (docs/deployment.md); to simulate, run an app of"
            " simulations/"
        )
    return HospitalPolicy.from_node_config(context.node_config)


def _hello(policy: HospitalPolicy) -> Hello:
    return Hello(policy.site, False, policy.declared_size, policy.rank, labels_digest(policy.task.labels))


def _stage(experiment: Experiment, request: StageRequest, policy: HospitalPolicy) -> Stage:
    if request.site != policy.site:
        raise ConfigError(f"the server asks for {request.site}, this is {policy.site}")
    policy.terms(experiment)  # refuses before any key is made
    refuse_if_closed(Path(policy.state_dir))
    identity = read_identity(Path(policy.identity_key), Path(policy.peers)) if policy.identity_key else None
    return answer_stage(request, experiment, Memory(Path(policy.state_dir), durable=True), identity)


def _timed(experiment: Experiment, request: Request, policy: HospitalPolicy) -> Reply:
    # What is locked stays so until the answer leaves: otherwise a second question, refused meanwhile, would tell when
    # the work was done.
    with ExitStack() as until_answered, held_back(policy.answer_every):
        return _round(experiment, request, policy, until_answered)


@warnings_as_lines()  # in the hospital's log; a simulation's server says for all of its hospitals what is odd
def _round(experiment: Experiment, request: Request, policy: HospitalPolicy, until_answered: ExitStack) -> Reply:
    if request.site != policy.site:
        raise ConfigError(f"the server asks for {request.site}, this is {policy.site}")
    terms, directory = policy.terms(experiment), Path(policy.state_dir)
    refuse_if_closed(directory)
    policy.accept_labels(request.labels)
    policy.accept_model(experiment)
    own = policy.own(experiment)
    store = PublicStore(directory / "public")
    state = store.receive(request.state)
    setup = set_up_with(own, policy.task, state, terms.rank)
    store.keep(request.state.digest, state)
    plan = plan_for(own, policy.declared_size, terms)
    recipe = recipe_of(experiment, setup)
    reports = Path(policy.data_path)
    check_path(policy.witness, site=policy.site, path=reports, shares_with=policy.shares_with)
    opened = Ledger.open(
        directory,
        site=policy.site,
        cap=policy.epsilon_cap,
        delta=policy.delta,
        witness=policy.witness,
        mechanism=policy.mechanism,
        shares_with=policy.shares_with,
    )
    ledger = until_answered.enter_context(opened)
    refuse_if_closed(directory)  # again, with the lock held: an earlier question may just have closed it
    masking = masking_of(experiment, request, Memory(directory, durable=True), plan)
    plan = plan if masking is None else masking.plan
    check_before_first_step(setup, recipe, plan)
    incoming = {name: state[name] for name in setup.classifier.adapter()}
    asked = replace(round_of(experiment, request, setup), masked=masking is not None)
    judge_round(directory, ledger, asked, plan, incoming)
    # Nothing was read of any report until here, so that no refusal tells of one.
    until_answered.enter_context(latched(directory, f"run {request.run}, round {request.round}"))
    corpus = read_corpus(own)
    if corpus.task != policy.task:
        raise DataError(
            "the labels in the reports are not those that the node configuration states.",
            file=policy.data_path,
            remedy="Correct label-columns; a column of class names needs all of them in classes.",
        )
    bind(
        policy.witness,
        site=policy.site,
        path=reports,
        shares_with=policy.shares_with,
        directory=directory,
        texts=corpus.reports["text"],
    )
    # A hospital's shard is all of its reports, its test part included: nothing is evaluated on them.
    padding = policy.padding(setup, plan)
    inputs = inputs_of(setup, corpus, np.arange(len(corpus.reports)), own, padding)
    if padding is not None and inputs.units(plan.unit).count > most_units(plan.declared_size):
        print(
            f"fedrad: {policy.site}: more {plan.unit}s than declared-size = {plan.declared_size} covers: the"
            " time of a round may tell so. State a larger declared-size.",
            file=sys.stderr,
            flush=True,
        )
    site = Site(request.site, directory, setup.classifier, inputs, plan, recipe)
    return answer_round(experiment, request, setup, site, ledger, state, terms, masking)
