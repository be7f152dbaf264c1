"""Simulated hospitals: shares of one corpus, many in a process. What is kept is a pure function of the arguments."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.federation.delivery import PublicStore
from fedrad.federation.hospital import blank_setup, check_state
from fedrad.federation.messages import Request, StageRequest
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name
from fedrad.training.local import Recipe
from fedrad.training.preflight import check_before_first_step
from fedrad.training.setup import Setup, Terms, units_in
from fedrad.training.site import adapter_digest


@lru_cache(maxsize=2)
def corpus_of(experiment: Experiment) -> Corpus:
    """The corpus that the hospitals share out."""
    return read_corpus(experiment)


@lru_cache(maxsize=2)
def shares_of(experiment: Experiment) -> list[NDArray[np.int64]]:
    """Every hospital's rows of the corpus."""
    return hospital_shares(experiment, corpus_of(experiment))


@lru_cache(maxsize=2)
def declared_sizes(experiment: Experiment) -> tuple[int, ...]:
    """What every simulated hospital states as its size: its number of privacy units, rounded."""
    reports = corpus_of(experiment).reports
    return tuple(declared_size(units_in(experiment, reports, rows)) for rows in shares_of(experiment))


@lru_cache(maxsize=1024)
def checked_once(setup: Setup, recipe: Recipe, plan: PrivacyPlan) -> None:
    """The pre-flight. Simulated hospitals share one structure, and most of them one plan; a real one checks in every
    round. A check that fails is not remembered.
    """
    check_before_first_step(setup, recipe, plan)


@dataclass(frozen=True)
class Received:
    """A whole state of the server's. Its digest is its name, so what is found out about one is true of the other."""

    digest: str
    state: Mapping[str, Tensor] = field(compare=False)


def received(request: Request) -> Received:
    """The whole state that a request means. The hospitals of a run share what they have received."""
    store = PublicStore(Path(request.directory).with_name("public"), shared=True)
    state = store.receive(request.state)
    store.keep(request.state.digest, state)
    return Received(request.state.digest, state)


def set_up_with(experiment: Experiment, corpus: Corpus, received: Received, rank: int) -> Setup:
    """The model with this state in it, as ``hospital.set_up_with``. That it fits is found out once for all hospitals.

    Raises: as ``hospital.set_up_with``.
    """
    setup = blank_setup(experiment, corpus.task, rank)
    _fits(setup, received)
    setup.classifier.load_state(received.state)
    return setup


@lru_cache(maxsize=8)  # each holds a state
def _fits(setup: Setup, received: Received) -> None:
    check_state(setup, received.state)


@lru_cache(maxsize=8)
def frozen_digest(setup: Setup, received: Received) -> str:
    """Names what the model's lower part keeps of a report depends on: on frozen tensors if nothing but the head is
    trained, otherwise on the base model alone, since every adapted layer lies above."""
    if not setup.classifier.head_only:
        return ""
    trainable = setup.classifier.adapter()
    return adapter_digest({name: tensor for name, tensor in received.state.items() if name not in trainable})


def directory_of(request: Request | StageRequest) -> Path:
    """Where a simulated hospital keeps ledger and state."""
    return Path(request.directory) / site_name(request.index)


@contextmanager
def open_ledger(experiment: Experiment, request: Request, terms: Terms) -> Iterator[Ledger]:
    """A simulated hospital's ledger, which survives a kill and not a power cut."""
    # With the hospital as the unit, its own steps are not noised: its ledger says so, and no cap could hold that.
    capped = terms.epsilon > 0 and experiment.privacy.unit != "hospital"
    cap = terms.epsilon if capped else float("inf")
    directory = directory_of(request)
    ledger = _paused.pop(directory, None)
    if ledger is not None and not ledger.resume(site=request.site, cap=cap, delta=terms.delta):
        ledger.close()
        ledger = None
    if ledger is None:
        ledger = Ledger.open(directory, site=request.site, cap=cap, delta=terms.delta, witness=None, durable=False)
    try:
        yield ledger
    except BaseException:
        ledger.close()
        raise
    _keep(directory, ledger)


# Ledgers that this process comes back to in the next round. Nobody waits for them: they are not locked, and one that
# another process has charged meanwhile is read again.
_paused: dict[Path, Ledger] = {}
_FILES = 2  # of an open ledger: the database and its journal


def _keep(directory: Path, ledger: Ledger) -> None:
    if _paused and next(iter(_paused)).parent != directory.parent:
        close_ledgers()  # of another run
    if _FILES * len(_paused) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4:
        ledger.pause()
        _paused[directory] = ledger
    else:
        ledger.close()


def close_ledgers() -> None:
    """Closes the ledgers that were kept open between rounds."""
    while _paused:
        _paused.popitem()[1].close()
