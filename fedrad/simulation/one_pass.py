"""All hospitals of a round in one forward and backward: a simulation's fastest grid.

The ServerApp, the strategy, the messages and the closed list are those of every run, and so are each hospital's plan,
ledger and random streams. What is different is that the hospitals' training requests of a round are answered together
(``training/fused.py``) and not one after the other. Results are those of the other grids up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.federation.hospital import failure_of, inputs_of, recipe_of, reply_of, round_of
from fedrad.federation.messages import Reply, Request, read_request, reply_content
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan
from fedrad.rules import FUSED, refuse
from fedrad.simulation import client as simulated_client
from fedrad.simulation import hospitals as simulated
from fedrad.simulation.grid import InProcessGrid, Value
from fedrad.training.inputs import Inputs
from fedrad.training.local import Recipe, TrainingState
from fedrad.training.setup import Setup, Terms, local_plan_for, pin_arithmetic, terms_of
from fedrad.training.site import OpenedRound, close_round, open_round
from fedrad.training.together import Member, run_steps_together


class FusedGrid(InProcessGrid):
    """Answers all training requests of a round at once; everything else as ``InProcessGrid``.

    Raises:
        ConfigError: the simulation has a ClientApp of its own, or asks for Opacus's gradients or secure aggregation.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: Sequence[Mapping[str, Value]],
        run_config: Mapping[str, Value],
        run_id: int = 1,
        on_answer: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        super().__init__(app, nodes, run_config, run_id, on_answer)
        self._experiment = Experiment.from_flat(run_config)
        if app is not simulated_client.app:
            raise ConfigError(
                "this simulation has a ClientApp of its own, which runs one hospital at a time: use --grid inprocess"
            )
        refuse(self._experiment, FUSED)

    def answers(self, messages: Sequence[Message]) -> Iterator[Message]:
        training = [message for message in messages if message.metadata.message_type == MessageType.TRAIN]
        contents = iter(answer_together(training, self._experiment))
        for message in messages:
            if message.metadata.message_type == MessageType.TRAIN:
                yield Message(content=next(contents), reply_to=message)
            else:
                yield self.answer(message)


@dataclass(frozen=True)
class _Asked:
    """A hospital that is asked to train: its request, and where its reports lie in the common inputs."""

    position: int
    request: Request
    state: Mapping[str, Tensor]
    setup: Setup
    frozen: str
    inputs: Inputs
    start: int
    stop: int
    plan: PrivacyPlan
    terms: Terms
    recipe: Recipe


def answer_together(messages: Sequence[Message], experiment: Experiment) -> list[RecordDict]:
    """What each hospital answers, in the order of the messages. A hospital that fails answers its code, the rest train.

    Order of writes, for each hospital, as ever: its ledger's intent for all steps; then the noisy steps of all; then
    its state and answer.
    """
    pin_arithmetic(experiment)
    answers: dict[int, RecordDict] = {}
    opened: list[tuple[_Asked, OpenedRound]] = []

    def fails(error: Exception, position: int, site: str, number: int) -> None:
        answers[position] = reply_content(failure_of(error, site, number))

    for position, message in enumerate(messages):
        site, number = "", 0
        try:
            request = read_request(message)
            site, number = request.site, request.round
            asked = _ask(position, request, experiment)
            found = _open(asked, experiment)
            if isinstance(found, Reply):
                answers[position] = reply_content(found)
            else:
                opened.append((asked, found))
        except Exception as error:
            fails(error, position, site, number)
    for group in _groups(opened):
        try:
            states = _train(group, experiment)
        except Exception as error:
            for asked, _ in group:
                fails(error, asked.position, asked.request.site, asked.request.round)
            continue
        for (asked, found), state in zip(group, states, strict=True):
            try:
                answers[asked.position] = reply_content(_close(asked, found, state, experiment))
            except Exception as error:
                fails(error, asked.position, asked.request.site, asked.request.round)
    return [answers[position] for position in range(len(messages))]


def _ask(position: int, request: Request, experiment: Experiment) -> _Asked:
    corpus, terms = simulated.corpus_of(experiment), terms_of(experiment, request.index)
    received = simulated.received(request)
    setup = simulated.set_up_with(experiment, corpus, received, terms.rank)
    frozen = simulated.frozen_digest(setup, received)
    inputs, ends = _common_inputs(experiment, frozen, setup)
    start, stop = int(ends[request.index]), int(ends[request.index + 1])
    plan = local_plan_for(experiment, simulated.declared_sizes(experiment)[request.index], terms)
    recipe = recipe_of(experiment, setup)
    simulated.checked_once(setup, recipe, plan)
    return _Asked(position, request, received.state, setup, frozen, inputs, start, stop, plan, terms, recipe)


@lru_cache(maxsize=2)
def _common_inputs(experiment: Experiment, frozen: str, setup: Setup) -> tuple[Inputs, NDArray[np.int64]]:
    """The reports of all hospitals, one hospital behind the other, and where each begins and ends."""
    shares = simulated.shares_of(experiment)
    rows = np.concatenate(shares)
    return inputs_of(setup, simulated.corpus_of(experiment), rows, experiment), np.cumsum([0, *map(len, shares)])


def _open(asked: _Asked, experiment: Experiment) -> OpenedRound | Reply:
    """The round, charged and ready to train; or the answer, if it was given before."""
    request, directory = asked.request, simulated.directory_of(asked.request)
    incoming = {name: asked.state[name] for name in asked.setup.classifier.adapter()}
    with simulated.open_ledger(experiment, request, asked.terms) as ledger:
        found = open_round(directory, ledger, round_of(experiment, request, asked.setup), asked.plan, incoming)
        return found if found.answer is None else _reply(asked, found.answer, ledger)


def _reply(asked: _Asked, adapter: Mapping[str, Tensor], ledger: Ledger) -> Reply:
    return reply_of(asked.request, asked.plan, asked.terms.delta, adapter, ledger)


def _groups(opened: Sequence[tuple[_Asked, OpenedRound]]) -> list[list[tuple[_Asked, OpenedRound]]]:
    """Hospitals that can train together: of one structure and state, at the same step, with the same kinds of moments
    and averages. One that missed a round lags and trains on its own."""
    groups: dict[tuple[object, ...], list[tuple[_Asked, OpenedRound]]] = {}
    for asked, found in opened:
        before = found.before
        carried = (before.step, before.averaged, *sorted([*before.moments, *before.average_sum]))
        key = (id(asked.setup), asked.request.state.digest, *carried)
        groups.setdefault(key, []).append((asked, found))
    return list(groups.values())


def _train(group: Sequence[tuple[_Asked, OpenedRound]], experiment: Experiment) -> list[TrainingState]:
    first = group[0][0]
    first.setup.classifier.load_state(first.state)  # the frozen tensors of this group
    members = [
        Member(site=a.request.site, start=a.start, stop=a.stop, plan=a.plan, state=found.before) for a, found in group
    ]
    turns = round_of(experiment, first.request, first.setup).turns
    return run_steps_together(first.inputs, members, first.recipe, experiment.local_steps, turns)


def _close(asked: _Asked, found: OpenedRound, state: TrainingState, experiment: Experiment) -> Reply:
    request, directory = asked.request, simulated.directory_of(asked.request)
    with simulated.open_ledger(experiment, request, asked.terms) as ledger:
        adapter = close_round(directory, ledger, round_of(experiment, request, asked.setup), found, state)
        return _reply(asked, adapter, ledger)
