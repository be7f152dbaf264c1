"""A hospital's ClientApp: it trains on its own reports, under its own policy, and sends noised adapter weights.

Guarantee: there is one way through this module, by the policy in the node configuration. A simulated hospital reads
what the server names and has no policy; it is another app (``fedrad.simulation.client``), which this module does not
import, so nothing that a server or a node configuration says can make a hospital answer as a simulated one. Who
registers that other app at a hospital's node has chosen other code, as anybody may who submits a run
(docs/deployment.md).

Nothing lives in module globals (a SuperNode starts a process for every message): what lasts is on disk in the site's
directory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from flwr.app import Context

from fedrad.certificate.issue import certify_hospital
from fedrad.config import Experiment
from fedrad.data.report import warnings_as_lines
from fedrad.errors import ConfigError, DataError, FedradError, PolicyRefusal
from fedrad.federation.client_app import client_app
from fedrad.federation.hospital import (
    Accepted,
    Hospital,
    answer_round,
    check_state,
    inputs_of,
    recipe_of,
    round_of,
)
from fedrad.federation.identity import read_identity
from fedrad.federation.lockout import held_back, locked_out_unless_foreseen, refuse_if_locked_out
from fedrad.federation.messages import Hello, Reply, Request, Stage, StageRequest, labels_digest
from fedrad.federation.node_config import read_policy
from fedrad.federation.policy import HospitalPolicy
from fedrad.federation.secure_hospital import Memory, answer_stage
from fedrad.federation.state_delta import PublicStore
from fedrad.ledger.bindings import bind, check_path
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.passes import most_units
from fedrad.privatise.local import figures_of
from fedrad.training.corpus import read_whole_corpus
from fedrad.training.inputs import Inputs
from fedrad.training.preflight import check_before_first_step
from fedrad.training.privatised import trained_on
from fedrad.training.setup import Terms, pin_arithmetic, plan_for, set_up
from fedrad.training.site import judge_round
from fedrad.training.strategy import strategy_of


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
    return read_policy(context.node_config)


def _hello(context: Context) -> Hello:
    policy = _policy(context)
    return Hello(policy.site, False, policy.declared_size, policy.rank, labels_digest(policy.task.labels))


def _refuse_other_site(request: Request | StageRequest, policy: HospitalPolicy) -> None:
    if request.site != policy.site:
        raise ConfigError(f"the server asks for {request.site}, this is {policy.site}")


def _stage(request: StageRequest, context: Context) -> Stage:
    experiment, policy = Experiment.from_flat(context.run_config), _policy(context)
    _refuse_other_site(request, policy)
    policy.authorize(experiment)  # refuses before any key is made
    refuse_if_locked_out(Path(policy.state_dir))
    identity = read_identity(Path(policy.identity_key), Path(policy.peers)) if policy.identity_key else None
    return answer_stage(request, experiment, Memory(Path(policy.state_dir), durable=True), identity)


@warnings_as_lines()  # in the hospital's log; a simulation's server says for all of its hospitals what is odd
def _round(request: Request, context: Context) -> Reply:
    experiment, policy = Experiment.from_flat(context.run_config), _policy(context)
    pin_arithmetic(experiment)
    # What is locked stays so until the answer leaves: otherwise a second question, refused meanwhile, would tell when
    # the work was done.
    with ExitStack() as until_answered, held_back(policy.answer_every):
        reply = answer_round(RealHospital(experiment, policy, until_answered), request)
        _certify(experiment, policy)
        return reply


def _certify(experiment: Experiment, policy: HospitalPolicy) -> None:
    """Renews the certificate beside the state. It reads public values only, and an answer is not lost over it."""
    try:
        private = None
        if policy.identity_key:
            private = read_identity(Path(policy.identity_key), Path(policy.peers)).private
        certify_hospital(Path(policy.state_dir), configuration=experiment.digest(), private=private)
    except FedradError as error:
        print(f"fedrad: {policy.site}: no new certificate: {error}", file=sys.stderr, flush=True)


class RealHospital(Hospital):
    """A hospital with reports and a policy of its own, for one round.

    Args:
        until_answered: holds ledger and lockout until the answer leaves.
    """

    def __init__(self, experiment: Experiment, policy: HospitalPolicy, until_answered: ExitStack) -> None:
        self.experiment = experiment
        self.policy = policy
        self.memory = Memory(Path(policy.state_dir), durable=True)
        self._until_answered = until_answered
        self._ledger: Ledger | None = None
        self._own = experiment

    def accept(self, request: Request) -> Accepted:
        policy, experiment = self.policy, self.experiment
        _refuse_other_site(request, policy)
        terms = policy.authorize(experiment)
        refuse_if_locked_out(self.memory.directory)
        policy.accept_labels(request.labels)
        task = policy.task_for(experiment)
        policy.accept_model(experiment)
        self._own = policy.own(experiment)
        store = PublicStore(self.memory.directory / "public")
        state = store.receive(request.state)
        setup = set_up(self._own, task, terms.rank)
        check_state(setup, state)
        setup.classifier.load_state(state)
        store.keep(request.state.digest, state)
        plan = plan_for(self._own, policy.declared_size, terms)
        recipe = recipe_of(experiment, setup)
        asked = round_of(experiment, strategy_of(experiment), request, setup, figures_of(self._own))
        return Accepted(request, terms, setup, state, plan, recipe, asked)

    @contextmanager
    def ledger(self, terms: Terms) -> Iterator[Ledger]:
        policy, directory = self.policy, self.memory.directory
        if self._ledger is None:
            site, shares_with = policy.site, policy.shares_with
            check_path(policy.witness, site=site, path=Path(policy.data_path), shares_with=shares_with)
            opened = Ledger.open(
                directory,
                site=site,
                cap=policy.epsilon_cap,
                delta=policy.delta,
                witness=policy.witness,
                mechanism=policy.mechanism,
                shares_with=shares_with,
            )
            self._ledger = self._until_answered.enter_context(opened)
            refuse_if_locked_out(directory)  # again, with the lock held: an earlier question may just have begun one
        yield self._ledger

    def preflight(self, accepted: Accepted) -> None:
        check_before_first_step(accepted.setup, accepted.recipe, accepted.plan)

    def read(self, accepted: Accepted, ledger: Ledger) -> Inputs:
        policy, request, directory = self.policy, accepted.request, self.memory.directory
        judge_round(directory, ledger, accepted.round, accepted.plan, accepted.incoming)
        padding = policy.padding(accepted.setup, accepted.plan)
        # Nothing was read of any report until here, so that no refusal tells of one.
        what = f"run {request.run}, round {request.round}"
        self._until_answered.enter_context(locked_out_unless_foreseen(directory, what))
        corpus = read_whole_corpus(self._own)
        if corpus.task != policy.task_for(self._own):
            raise DataError(
                "the labels in the reports are not those that the node configuration states.",
                file=policy.data_path,
                remedy="Correct label-columns; a column of class names needs classes.",
            )
        bind(
            policy.witness,
            site=policy.site,
            path=Path(policy.data_path),
            shares_with=policy.shares_with,
            directory=directory,
            texts=corpus.reports["text"],
        )
        # Texts are never drawn by a seed that the server knows, also where its seeded noise is allowed.
        unseeded = replace(self._own, privacy=replace(self._own.privacy, noise="system"))
        seen, rows = trained_on(unseeded, corpus, corpus.train, directory, site=policy.site, run=request.run)
        inputs = inputs_of(accepted.setup, seen, rows, padding)
        unit = accepted.plan.unit
        if padding is not None and inputs.units(unit).count > most_units(policy.declared_size):
            print(
                f"fedrad: {policy.site}: more {unit}s than declared-size = {policy.declared_size} covers: the"
                " time of a round may tell so. State a larger declared-size.",
                file=sys.stderr,
                flush=True,
            )
        return inputs


app = client_app(_hello, _round, _stage)
