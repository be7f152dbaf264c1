"""A simulation's ClientApp: each node stands for any number of hospitals, which trust the server and have no policy.

One process serves many hospitals, so what is kept in memory is a pure function of its arguments; what lasts is on disk
in the run's directory, which the server names. The app of a real hospital is ``client``.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrad.config import Experiment
from fedrad.errors import PolicyRefusal
from fedrad.federation.answers import answer_hello, answer_secure, answer_training
from fedrad.federation.hospital import answer_round, inputs_of, recipe_of
from fedrad.federation.messages import Hello, Reply, Request, Stage, StageRequest
from fedrad.federation.secure_hospital import Memory, answer_stage, masking_of
from fedrad.simulation import hospitals as simulated
from fedrad.training.inputs import Inputs
from fedrad.training.setup import Setup, local_plan_for, terms_of
from fedrad.training.site import Site

app = ClientApp()

# What Flower calls the process that a SuperNode starts for a message.
_SUPERNODE_PROCESS = "flwr-clientapp"


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Says that any simulated hospital answers here."""
    return answer_hello(message, lambda: _hello(context))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers one round for one of the hospitals."""
    return answer_training(message, context, lambda experiment, request: _round(experiment, request, context))


@app.query("secure")
def secure_stage(message: Message, context: Context) -> Message:
    """Answers one of the stages of secure aggregation that lie around training."""
    return answer_secure(message, context, lambda experiment, request: _stage(experiment, request, context))


def _refuse_real_nodes(context: Context) -> None:
    """This app reads what the server names, so it answers on the nodes of a simulation alone.

    The name of the process can only make it refuse: Flower's examples number real nodes as well.

    Raises:
        PolicyRefusal: the node belongs to a hospital.
    """
    numbered = "partition-id" in context.node_config and "site" not in context.node_config
    if not numbered or Path(sys.argv[0]).name == _SUPERNODE_PROCESS:
        raise PolicyRefusal(
            "this app simulates hospitals, which have no policy, and the node is no simulation's; real hospitals take"
            " part with the app in deployment/ (docs/deployment.md)"
        )


def _hello(context: Context) -> Hello:
    _refuse_real_nodes(context)
    return Hello(site="", simulated=True, declared_weight=0, rank=0)


def _stage(experiment: Experiment, request: StageRequest, context: Context) -> Stage:
    _refuse_real_nodes(context)
    return answer_stage(request, experiment, Memory(simulated.directory_of(request), durable=False), None)


def _round(experiment: Experiment, request: Request, context: Context) -> Reply:
    _refuse_real_nodes(context)
    corpus, terms = simulated.corpus_of(experiment), terms_of(experiment, request.index)
    received = simulated.received(request)
    setup = simulated.set_up_with(experiment, corpus, received, terms.rank)
    inputs = _inputs(experiment, request.index, simulated.frozen_digest(setup, received), setup)
    plan = local_plan_for(experiment, simulated.declared_sizes(experiment)[request.index], terms)
    recipe = recipe_of(experiment, setup)
    with simulated.open_ledger(experiment, request, terms) as ledger:
        directory = simulated.directory_of(request)
        masking = masking_of(experiment, request, Memory(directory, durable=False), plan)
        plan = plan if masking is None else masking.plan
        simulated.checked_once(setup, recipe, plan)
        site = Site(request.site, directory, setup.classifier, inputs, plan, recipe)
        return answer_round(experiment, request, setup, site, ledger, received.state, terms, masking)


@lru_cache(maxsize=4096)  # one for each hospital; all together they are the corpus once
def _inputs(experiment: Experiment, index: int, frozen: str, setup: Setup) -> Inputs:
    # ``frozen`` names the frozen tensors that ``setup`` holds now: the kept part depends on them.
    return inputs_of(setup, simulated.corpus_of(experiment), simulated.shares_of(experiment)[index], experiment)
