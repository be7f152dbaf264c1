"""A shard with canaries, trained by the real loop, and what an adversary sees of it.

``train_round`` and ``answer_round`` do here what they do in a run: preflight, ledger, Poisson sampling, per-report
gradients, clipping, noise, optimizer, strategy. Nothing of it is written a second time for the audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedrad.audit.canaries import CANARIES, EXCESS, joined, plant, with_canaries
from fedrad.config import Experiment
from fedrad.federation.hospital import answer_round
from fedrad.federation.messages import Request
from fedrad.federation.state_delta import delta_of
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.privacy.randomness import stream
from fedrad.public_base.choice import starts_warm
from fedrad.rules import AUDITED, refuse
from fedrad.simulation.hospitals import Received, SimulatedHospital, Simulation
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.preflight import check_before_first_step
from fedrad.training.recipe import Recipe
from fedrad.training.setup import Setup, pin_arithmetic, plan_for, set_up
from fedrad.training.site import RoundRequest, Site, train_round
from fedrad.training.strategy import Contribution, Round, strategy_of
from fedrad.training.warm_start import initial_state

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stage:
    """A hospital's shard, of which some records are canaries, ready to be trained.

    Attributes:
        state: all public tensors, as training starts.
        inputs: the shard: reports, and those canaries that are in.
        plan: of the shard's hospital; its declared size counts half of the canaries.
        inside: which canaries are in the shard, [m].
    """

    experiment: Experiment
    corpus: Corpus
    setup: Setup
    state: dict[str, Tensor]
    inputs: Inputs
    plan: PrivacyPlan
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """What an adversary made of a training.

    Attributes:
        scores: of each canary, larger where it looks more like having been trained on.
        epsilon: what the ledger says was spent: the claim.
    """

    scores: Floats
    epsilon: float


def coins(experiment: Experiment, canaries: int) -> NDArray[np.bool_]:
    """Which canaries are in: each with probability 1/2, from the operating system unless the noise is seeded."""
    randomness = stream(experiment.privacy.noise, experiment.train.seed, "audit", "inside")
    return randomness.uniform(canaries) < 0.5


def gradient_stage(experiment: Experiment, canaries: int) -> Stage:
    """The shard of the first hospital (of the only one, where ``sites.count`` is 1) with gradient canaries in it.

    A canary is a unit: a report, or a patient with ``privacy.reports-per-patient`` reports.
    """
    refuse(experiment, AUDITED)
    pin_arithmetic(experiment)
    corpus = read_corpus(experiment)
    setup = set_up(experiment, corpus.task)
    state = initial_state(experiment, setup)
    task = with_canaries(corpus.task, EXCESS * experiment.privacy.clip, canaries)
    setup = plant(setup, task)
    state[CANARIES] = setup.classifier.state()[CANARIES]
    rows = hospital_shares(experiment, corpus)[0]
    reports = task.tokenize(corpus.reports, rows, setup.base.tokenizer, setup.max_length)
    inside = coins(experiment, canaries)
    each = experiment.privacy.reports_per_patient if experiment.privacy.unit == "patient" else 1
    numbers = np.repeat(np.flatnonzero(inside), each)
    records = task.records(setup, numbers, numbers)
    inputs = prepare(setup, joined(reports, records))
    ordinary = Inputs(reports, setup.classifier, setup.task, None, setup.pad_id).units(experiment.privacy.unit).count
    plan = plan_for(experiment, declared_size(ordinary + canaries // 2))
    return Stage(experiment, corpus, setup, state, inputs, plan, inside)


def centralized_view(stage: Stage) -> Seen:
    """Trains in one place. The adversary knows start and end of the canaries' numbers."""
    adapter, spent = train_in_one_place(stage.experiment, stage.setup, stage.state, stage.inputs, stage.plan)
    return Seen((stage.state[CANARIES] - adapter[CANARIES]).double().numpy(), spent)


def train_in_one_place(
    experiment: Experiment,
    setup: Setup,
    state: Mapping[str, Tensor],
    inputs: Inputs,
    plan: PrivacyPlan,
    rounds: int = 0,
) -> tuple[dict[str, Tensor], float]:
    """The adapter after training as centralized training does, and the epsilon of the ledger.

    Args:
        rounds: only so many, of ``train.rounds``; 0: all.
    """
    recipe = Recipe.of(experiment, warm=starts_warm(experiment, setup.task.findings))
    strategy, planned = strategy_of(experiment), experiment.train.rounds
    check_before_first_step(setup, recipe, plan)
    setup.classifier.load_state(state)
    adapter = {name: state[name] for name in setup.classifier.adapter()}
    cap, delta, name = plan.epsilon if plan.private else float("inf"), plan.delta, site_name(0)
    with TemporaryDirectory(prefix="fedrad-audit-") as folder:
        site = Site(name, Path(folder), setup.classifier, inputs, plan, recipe)
        with Ledger.open(site.directory, site=name, cap=cap, delta=delta, witness=None, durable=False) as ledger:
            for number in range(1, (rounds or planned) + 1):
                request = RoundRequest.of(
                    strategy,
                    adapter.keys(),
                    run="audit",
                    round=number,
                    steps=experiment.local_steps,
                    last=number == planned,
                    settings=experiment.digest(),
                )
                adapter |= train_round(site, ledger, request, adapter)
            return adapter, ledger.view.account.epsilon(delta)


def server_view(stage: Stage) -> Seen:
    """Trains a federation, of which the first hospital has the canaries. The adversary is the server, which adds up
    what that hospital's answers changed in the numbers that it was sent."""
    experiment, strategy, state = stage.experiment, strategy_of(stage.experiment), dict(stage.state)
    scores, spent, hospitals = np.zeros(len(stage.inside)), 0.0, range(experiment.sites.count)
    with TemporaryDirectory(prefix="fedrad-audit-") as folder:
        federation = _Federation(stage, Path(folder) / "ledger")
        try:
            for number in range(1, experiment.train.rounds + 1):
                asked = [_request(stage, index, number, state, federation.folder) for index in hospitals]
                replies = [answer_round(SimulatedHospital(federation, request), request) for request in asked]
                scores += (state[CANARIES] - replies[0].adapter[CANARIES]).double().numpy()
                spent = replies[0].epsilon
                sent = [Contribution(reply.adapter, 1 / len(replies), stage.setup.lora.rank) for reply in replies]
                state = strategy.aggregate(state, sent, Round(number, experiment.train.seed, stage.setup.lora))
        finally:
            federation.close()
    return Seen(scores, spent)


def _request(stage: Stage, index: int, number: int, state: dict[str, Tensor], folder: Path) -> Request:
    return Request(
        run="audit",
        site=site_name(index),
        index=index,
        round=number,
        rounds=stage.experiment.train.rounds,
        labels=stage.setup.task.labels,
        directory=str(folder),
        state=delta_of(state),
    )


class _Federation(Simulation):
    """A simulation whose hospitals have the stage's model, and the first of them the stage's shard."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        super().__init__(stage.experiment, folder)
        self.stage, self.corpus = stage, stage.corpus
        self._setups[stage.setup.lora.rank] = stage.setup
        self.declared = [stage.plan.declared_size, *self.declared[1:]]

    def inputs(self, index: int, setup: Setup, received: Received, run: str) -> Inputs:
        return self.stage.inputs if index == 0 else super().inputs(index, setup, received, run)
