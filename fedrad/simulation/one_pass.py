"""All hospitals of a round in one forward and backward pass: a simulation's fastest grid.

The ServerApp, the strategy, the messages and the closed list are those of every run, and so is each hospital's round
(``round_at``) with its plan, ledger and random streams. The difference: the hospitals of a round take their steps
together (``training/local.py``), not one after the other. Results equal those of the other grids up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.federation.client_app import failure_of
from fedrad.federation.hospital import Accepted, LocalSteps, round_at
from fedrad.federation.messages import Request, content_of, read_question
from fedrad.ledger.ledger import Ledger
from fedrad.rules import FUSED, refuse
from fedrad.simulation import client as simulated_client
from fedrad.simulation.grid import InProcessGrid
from fedrad.simulation.hospitals import SimulatedHospital, Simulation
from fedrad.training.inputs import Inputs
from fedrad.training.local import Member, TrainingState, run_steps_together
from fedrad.training.setup import pin_arithmetic


class FusedGrid(InProcessGrid):
    """Answers all training requests of a round at once; everything else as ``InProcessGrid``.

    Raises:
        ConfigError: the simulation has a ClientApp of its own, or asks for Opacus's gradients or secure aggregation.
    """

    def __init__(self, app: ClientApp, *given: Any, **options: Any) -> None:
        super().__init__(app, *given, **options)
        if app is not simulated_client.app:
            raise ConfigError(
                "this simulation has a ClientApp of its own, which runs one hospital at a time: use --grid inprocess"
            )
        refuse(Experiment.from_flat(self.run_config), FUSED)

    def answers(self, messages: Sequence[Message]) -> Iterator[Message]:
        training = [message for message in messages if message.metadata.message_type == MessageType.TRAIN]
        contents = iter(self.answer_together(training))
        for message in messages:
            if message.metadata.message_type == MessageType.TRAIN:
                yield Message(content=next(contents), reply_to=message)
            else:
                yield self.answer(message)

    def answer_together(self, messages: Sequence[Message]) -> list[RecordDict]:
        """What each hospital answers, in the order of the messages. One that fails answers its code, the rest train."""
        running = [self._answering(message) for message in messages]
        waiting: dict[int, LocalSteps] = {}
        answers: dict[int, RecordDict] = {}

        def go_on(number: int, until_steps: Callable[[], LocalSteps]) -> None:
            try:
                waiting[number] = until_steps()
            except StopIteration as ended:
                answers[number] = ended.value

        for number, one in enumerate(running):
            go_on(number, partial(next, one))
        for group in _groups(waiting):
            try:
                states = self._take_together([waiting[number] for number in group])
            except Exception as error:
                for number in group:
                    go_on(number, partial(running[number].throw, error))
                continue
            for number, state in zip(group, states, strict=True):
                go_on(number, partial(running[number].send, state))
        return [answers[number] for number in range(len(messages))]

    def _answering(self, message: Message) -> Generator[LocalSteps, TrainingState, RecordDict]:
        """As ``hospital.reply_to``, up to the steps and from there on."""
        site, number = "", 0
        try:
            request = read_question(message, Request)
            site, number = request.site, request.round
            simulation = self._simulation(request)
            pin_arithmetic(simulation.experiment)
            return content_of((yield from round_at(_InOnePass(simulation, request), request)))
        except Exception as error:
            return content_of(failure_of(error, site, number))

    def _take_together(self, group: Sequence[LocalSteps]) -> list[TrainingState]:
        first, simulation = group[0].accepted, self._simulation(group[0].accepted.request)
        first.setup.classifier.load_state(first.state)  # the frozen tensors of this group
        ends = np.cumsum([0, *map(len, simulation.shards)]).tolist()
        members = [
            Member(request.site, ends[request.index], ends[request.index + 1], steps.accepted.plan, steps.before)
            for steps in group
            for request in [steps.accepted.request]
        ]
        return run_steps_together(group[0].inputs, members, first.recipe, first.round.steps, first.round.blocks)

    def _simulation(self, request: Request) -> Simulation:
        return simulated_client.simulation_of(self.run_config, request.directory)


class _InOnePass(SimulatedHospital):
    """Reads the reports of all hospitals, among which its own are."""

    def read(self, accepted: Accepted, ledger: Ledger) -> Inputs:
        return self.simulation.inputs(-1, accepted.setup, self.received, accepted.request.run)


def _groups(waiting: Mapping[int, LocalSteps]) -> list[list[int]]:
    """Hospitals that can train together: of one structure and state, at the same step, with the same kinds of moments
    and averages. One that missed a round lags and trains on its own."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, steps in waiting.items():
        before, accepted = steps.before, steps.accepted
        carried = (before.step, before.averaged, *sorted([*before.moments, *before.average_sum]))
        groups.setdefault((accepted.setup.lora.rank, accepted.request.state.digest, *carried), []).append(number)
    return list(groups.values())
