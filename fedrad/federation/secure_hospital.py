"""A hospital's side of secure aggregation over Flower: what it remembers between messages, and what it answers.

The protocol and its rules are ``fedrad.secure.hospital``. Here: the terms are held against the run's configuration, the
state of the round is on disk (synced, at a real hospital) before a message leaves, and the lock of the ledger keeps
everything else out meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import SecureAggregationRefusal
from fedrad.federation.messages import Opening, Request, Stage, StageRequest
from fedrad.files import private_folder, write_whole
from fedrad.ledger.durable import explained, locked
from fedrad.privacy.plan import PrivacyPlan
from fedrad.secure.fixed_point import DEFAULT_BOUND, encode, flatten, out_of_range
from fedrad.secure.hospital import advertise, confirm, mask_input, share_keys, unmask
from fedrad.secure.keys import Identity
from fedrad.secure.messages import Inbox, Roster, Survivors
from fedrad.secure.rounding import on_lattice
from fedrad.secure.states import Shared, State
from fedrad.secure.wire import from_bytes, to_bytes
from fedrad.training.recipe import step_scales
from fedrad.training.setup import shared_plan

_STATE_FILE = "secure-aggregation.json"
_ROUNDS_FILE = "secure-aggregation.rounds"


def bound_run(run: str, experiment: Experiment, noise_multiplier: float, digest: str) -> str:
    """The run's name as every key of a round is bound to it: with its whole configuration, the shared noise, and the
    state that is trained on.

    Hospitals that a server gave different settings can't open each other's shares: otherwise one of them could take a
    larger step than the others, or be the only one that adds its share of the noise. Nor can hospitals that it gave
    different states: otherwise it could send the others one in which their noise is lost in rounding.

    Args:
        digest: of the whole state (``adapter_digest``), as the request names it.
    """
    return f"{run} {experiment.training_digest()} {noise_multiplier.hex()} {digest}"


@dataclass(frozen=True)
class Held:
    """What a hospital holds of the round that it is in.

    Attributes:
        run: as the server names it.
        noise_multiplier: of the sum, where noise is shared; 0: it isn't.
        digest: of the model's state that the round was opened for.
        state: of the protocol. It holds secrets.
    """

    run: str
    noise_multiplier: float
    digest: str
    state: State = field(repr=False)


@dataclass(frozen=True)
class Memory:
    """A hospital's memory of secure aggregation: one file for the round that it is in, one for all that it was in.

    Attributes:
        directory: the one of its ledger, whose lock the caller holds (``opened``, or an open ledger).
        durable: wait for the disk; not needed for a simulated hospital.
    """

    directory: Path
    durable: bool

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the lock.

        Raises:
            LedgerBusy: another process is at work for this hospital.
            LedgerError: the folder can't be used.
        """
        with explained(self.directory):
            private_folder(self.directory)
            lock = locked(self.directory)
        try:
            yield
        finally:
            os.close(lock)

    def held(self, run: str, round: int) -> Held:
        """What is held of this round.

        Raises:
            SecureAggregationRefusal: nothing.
        """
        path = self.directory / _STATE_FILE
        with explained(self.directory):
            raw = path.read_bytes() if path.exists() else b""
        if raw:
            held = from_bytes(Held, raw)
            if (held.run, held.state.setup.round) == (run, round):
                return held
        raise SecureAggregationRefusal(f"round {round} of {run} was not opened here, or another one was opened since")

    def keep(self, held: Held) -> None:
        """Puts a new state in the place of the old one. The stage's message may leave afterwards, and not before."""
        self._replace(_STATE_FILE, to_bytes(held))

    def rounds(self) -> frozenset[tuple[str, int]]:
        """(run, round) of every round for which keys were advertised, ever.

        Raises:
            SecureAggregationRefusal: the file is damaged.
        """
        path = self.directory / _ROUNDS_FILE
        with explained(self.directory):
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else "[]"
        try:
            return frozenset((str(run), int(round)) for run, round in json.loads(text))
        except (ValueError, TypeError):
            raise SecureAggregationRefusal(f"{path} is damaged; restore it from the newest backup") from None

    def remember(self, run: str, round: int) -> None:
        """Adds a round to those that are never answered again."""
        self._replace(_ROUNDS_FILE, json.dumps(sorted(self.rounds() | {(run, round)})).encode())

    def _replace(self, name: str, content: bytes) -> None:
        with explained(self.directory):
            write_whole(self.directory / name, content, durable=self.durable)


def answer_stage(request: StageRequest, experiment: Experiment, memory: Memory, identity: Identity | None) -> Stage:
    """Answers a stage beside training. The caller has checked the hospital's policy.

    Raises:
        SecureAggregationRefusal: the stage, or its terms, could show the server more than a sum.
        LedgerError: the hospital's folder is busy or can't be used.
    """
    body = request.body
    with memory.opened():
        if isinstance(body, Opening):
            _check_terms(request, body, experiment)
            before = memory.rounds()
            if (request.run, request.round) in before:
                raise SecureAggregationRefusal(f"round {request.round} of {request.run} was opened before: never twice")
            opened, advert = advertise(body.setup, request.site, (), identity)
            memory.remember(request.run, request.round)
            memory.keep(Held(request.run, body.noise_multiplier, body.digest, opened))
            return advert
        held = memory.held(request.run, request.round)
        after: State
        answer: Stage
        if isinstance(body, Roster):
            after, answer = share_keys(held.state, body)
        elif isinstance(body, Survivors):
            if identity is None:
                raise SecureAggregationRefusal("this hospital has no identity key to confirm survivors with")
            after, answer = confirm(held.state, body, identity)
        else:
            after, answer = unmask(held.state, body)
        memory.keep(replace(held, state=after))
        return answer


def _check_terms(request: StageRequest, opening: Opening, experiment: Experiment) -> None:
    """The server's terms must be those of the configuration, which the hospital's policy has allowed."""
    setup, privacy = opening.setup, experiment.privacy
    if not privacy.secure_aggregation:
        raise SecureAggregationRefusal("the run's configuration has no secure aggregation")
    bound_to = bound_run(request.run, experiment, opening.noise_multiplier, opening.digest)
    if (setup.run, setup.round) != (bound_to, request.round):
        raise SecureAggregationRefusal("the terms of the sum are for another run, round, configuration or state")
    # What lies beyond it is clamped in each adapter by itself: a bound among the values would show up in the sum.
    if setup.bound != DEFAULT_BOUND:
        raise SecureAggregationRefusal(f"the terms of the sum have a bound of {setup.bound:g}, not {DEFAULT_BOUND:g}")
    if (setup.threshold, setup.colluders) != (experiment.sites.quorum, privacy.colluders):
        raise SecureAggregationRefusal("the terms of the sum are not those of sites.quorum and privacy.colluders")
    if (opening.noise_multiplier > 0) != privacy.shared_noise:
        raise SecureAggregationRefusal("the terms of the sum and privacy.shared-noise contradict each other")


@dataclass(frozen=True)
class Masking:
    """A round whose answer will leave masked: keys are shared, nothing is masked yet.

    Attributes:
        plan: what the hospital trains by; with shared noise another than its own.
    """

    memory: Memory
    held: Held
    state: Shared
    inbox: Inbox
    plan: PrivacyPlan

    def mask(self, adapter: Mapping[str, Tensor]) -> bytes:
        """The adapter as it may leave. Once: the state afterwards is on disk and masks nothing.

        Guarantee: no refusal depends on the adapter's values. With shared noise they are rounded to a public lattice
        first, so that the sum tells no more than a rounded sum would (``secure.rounding``).

        Raises:
            SecureAggregationRefusal: the inbox is not in order.
        """
        if self.plan.shared is not None:
            scales = step_scales(self.plan.shared, adapter)
            adapter = on_lattice(adapter, scales, self.plan.own_noise_multiplier)
        values, bound = flatten(adapter), self.state.setup.bound
        if beyond := out_of_range(values, bound):
            where = f"{self.state.site} round {self.state.setup.round}"  # for the hospital's own log, as failures are
            print(f"fedrad: {where}: diverged, {beyond} numbers clamped to {bound:g}", file=sys.stderr, flush=True)
        encoded = encode(values, bound)
        after, sent = mask_input(self.state, self.inbox, encoded)
        self.memory.keep(replace(self.held, state=after))
        return sent.vector


def masking_of(experiment: Experiment, request: Request, memory: Memory, plan: PrivacyPlan) -> Masking | None:
    """How the answer to a training request is masked; None in a run without secure aggregation.

    Call it with the ledger open, and before it is charged: what is refused here costs nothing; and with the state
    received, which holds it against the digest in the request. (``open_round`` holds its numbers against the noise.)

    Raises:
        SecureAggregationRefusal: the configuration and the request contradict each other, or keys were not shared for
            this round, or for another state, or its input was masked before.
        PlanError: the shared noise is less than this hospital's budget needs.
    """
    secure = experiment.privacy.secure_aggregation
    if secure != bool(request.inbox.boxes):
        raise SecureAggregationRefusal("a request without masks in a run with secure aggregation, or the reverse")
    if not secure:
        return None
    held = memory.held(request.run, request.round)
    state = held.state
    if not isinstance(state, Shared):
        raise SecureAggregationRefusal(
            f"round {request.round} of {request.run}: an input is masked once, after keys were shared"
        )
    if state.setup.run != bound_run(request.run, experiment, held.noise_multiplier, request.state.digest):
        raise SecureAggregationRefusal("the configuration or the state is not the one with which this round was opened")
    shared = experiment.privacy.shared_noise
    followed = shared_plan(experiment, plan, held.noise_multiplier) if shared else plan
    return Masking(memory, held, state, request.inbox, followed)
