"""Simulated hospitals: shards of one corpus, many in a process, which trust the server and have no policy."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.federation.hospital import Accepted, Hospital, check_state, inputs_of, recipe_of, round_of
from fedrad.federation.messages import Request, StageRequest
from fedrad.federation.secure_hospital import Memory
from fedrad.federation.state_delta import PublicStore, StateDelta
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.privatise.budgets import choice_of
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name
from fedrad.training.inputs import Inputs
from fedrad.training.preflight import check_before_first_step
from fedrad.training.privatised import trained_on
from fedrad.training.recipe import Recipe
from fedrad.training.setup import Setup, Terms, local_plan_for, set_up, terms_of, units_in
from fedrad.training.site_state import adapter_digest
from fedrad.training.strategy import Strategy, strategy_of

_STATES_KEPT = 8  # in memory; a run has one a round, and one for each rank
_FILES = 2  # of an open ledger: the database and its journal


@dataclass(frozen=True)
class Received:
    """A whole state of the server's, found to fit the model.

    Attributes:
        frozen: names what the model's lower part makes of a report depends on: the frozen tensors if nothing but the
            head is trained, otherwise (empty) the base model alone, since every adapted layer lies above.
    """

    digest: str
    state: Mapping[str, Tensor]
    frozen: str


class Simulation:
    """The cache of a simulation: what a run's hospitals share in one process. Nothing else is kept between messages.

    All of it can be made again from the configuration and the run's directory, so a process that ends, or a hospital
    that moves to another one, changes no result.

    Args:
        experiment: the run's configuration.
        folder: where the hospitals' ledgers are, by site.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.experiment = experiment
        self.folder = folder
        self._store = PublicStore(folder.with_name("public"), kept=None)
        self._setups: dict[int, Setup] = {}  # by rank
        self._received: dict[tuple[str, int], Received] = {}
        self._inputs: dict[tuple[int, int], tuple[str, Inputs]] = {}
        self._checked: set[tuple[int, Recipe, PrivacyPlan]] = set()
        self._paused: dict[Path, Ledger] = {}

    @cached_property
    def corpus(self) -> Corpus:
        """What the hospitals share out."""
        return read_corpus(self.experiment)

    @cached_property
    def shards(self) -> list[NDArray[np.int64]]:
        """Every hospital's rows of the corpus."""
        return hospital_shares(self.experiment, self.corpus)

    @cached_property
    def declared(self) -> list[int]:
        """What every hospital states as its size: its number of privacy units, rounded."""
        return [declared_size(units_in(self.experiment, self.corpus.reports, rows)) for rows in self.shards]

    @cached_property
    def strategy(self) -> Strategy:
        """What says what a round trains."""
        return strategy_of(self.experiment)

    def setup_with(self, sent: StateDelta, rank: int) -> tuple[Setup, Received]:
        """The model of this rank, with the state in it that is meant; the next call loads another one.

        Raises:
            StateMissing: see ``PublicStore.receive``.
            RefusedReply: the state does not fit.
        """
        if rank not in self._setups:
            self._setups[rank] = set_up(self.experiment, self.corpus.task, rank)
        setup, key = self._setups[rank], (sent.digest, rank)
        if key not in self._received:
            state = self._store.receive(sent)
            check_state(setup, state)
            self._store.keep(sent.digest, state)
            frozen = {name: tensor for name, tensor in state.items() if name not in setup.classifier.adapter()}
            named = adapter_digest(frozen) if setup.classifier.head_only else ""
            self._received[key] = Received(sent.digest, state, named)
            for old in list(self._received)[:-_STATES_KEPT]:
                del self._received[old]
        setup.classifier.load_state(self._received[key].state)
        return setup, self._received[key]

    def inputs(self, index: int, setup: Setup, received: Received, run: str) -> Inputs:
        """The reports of this hospital as the model reads them that ``setup_with`` returned; -1: those of all, one
        hospital behind the other."""
        key = (index, setup.lora.rank)
        if key not in self._inputs or self._inputs[key][0] != received.frozen:
            self._inputs[key] = received.frozen, inputs_of(setup, *self._trained_on(index, run))
        return self._inputs[key][1]

    def _trained_on(self, index: int, run: str) -> tuple[Corpus, NDArray[np.int64]]:
        """A corpus and its rows that the hospital trains on; -1: of all hospitals, one behind the other."""
        experiment, all_of_them = self.experiment, range(len(self.shards))
        if choice_of(experiment.data) is None:
            return self.corpus, np.concatenate(self.shards) if index < 0 else self.shards[index]
        parts = [
            trained_on(experiment, self.corpus, self.shards[k], self.folder / site_name(k), site=site_name(k), run=run)[
                0
            ].reports
            for k in (all_of_them if index < 0 else (index,))
        ]
        reports = concatenate_datasets(parts)
        return replace(self.corpus, reports=reports), np.arange(len(reports))

    def preflight(self, accepted: Accepted) -> None:
        """The check, once for what is the same: hospitals share one structure, and most of them one plan. A check that
        fails is not remembered."""
        key = (accepted.setup.lora.rank, accepted.recipe, accepted.plan)
        if key not in self._checked:
            check_before_first_step(accepted.setup, accepted.recipe, accepted.plan)
            self._checked.add(key)

    @contextmanager
    def ledger(self, index: int, terms: Terms) -> Iterator[Ledger]:
        """A hospital's ledger, which survives a kill and not a power cut.

        Afterwards it stays open and unlocked where the process may have so many files, since it is needed again soon;
        if another process has charged it meanwhile it is read again.
        """
        # With the hospital as the unit, its own steps are not noised: its ledger says so, and no cap could hold that.
        capped = terms.epsilon > 0 and self.experiment.privacy.unit != "hospital"
        cap = terms.epsilon if capped else float("inf")
        site, directory = site_name(index), self.folder / site_name(index)
        ledger = self._paused.pop(directory, None)
        if ledger is not None and not ledger.resume(site=site, cap=cap, delta=terms.delta):
            ledger.close()
            ledger = None
        if ledger is None:
            ledger = Ledger.open(directory, site=site, cap=cap, delta=terms.delta, witness=None, durable=False)
        try:
            yield ledger
        except BaseException:
            ledger.close()
            raise
        if _FILES * len(self._paused) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4:
            ledger.pause()
            self._paused[directory] = ledger
        else:
            ledger.close()

    def close(self) -> None:
        """Closes the ledgers that were kept open."""
        while self._paused:
            self._paused.popitem()[1].close()


class SimulatedHospital(Hospital):
    """One hospital of a simulation, for one message of the server's."""

    def __init__(self, simulation: Simulation, request: Request | StageRequest) -> None:
        self.simulation = simulation
        self.experiment = simulation.experiment
        self.index = request.index
        self.memory = Memory(simulation.folder / site_name(request.index), durable=False)
        self.received: Received

    def accept(self, request: Request) -> Accepted:
        simulation, experiment = self.simulation, self.experiment
        terms = terms_of(experiment, self.index)
        setup, self.received = simulation.setup_with(request.state, terms.rank)
        plan = local_plan_for(experiment, simulation.declared[self.index], terms)
        recipe = recipe_of(experiment, setup)
        asked = round_of(experiment, simulation.strategy, request, setup)
        return Accepted(request, terms, setup, self.received.state, plan, recipe, asked)

    def ledger(self, terms: Terms) -> AbstractContextManager[Ledger]:
        return self.simulation.ledger(self.index, terms)

    def preflight(self, accepted: Accepted) -> None:
        self.simulation.preflight(accepted)

    def read(self, accepted: Accepted, ledger: Ledger) -> Inputs:
        return self.simulation.inputs(self.index, accepted.setup, self.received, accepted.request.run)
