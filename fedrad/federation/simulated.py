"""Simulated hospitals: shares of one corpus, many in a process. What is kept is a pure function of the arguments."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrad.config import Experiment
from fedrad.federation.messages import Request
from fedrad.privacy.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name
from fedrad.training.local import Recipe
from fedrad.training.preflight import check_before_first_step
from fedrad.training.setup import Setup
from fedrad.training.site import adapter_digest


@lru_cache(maxsize=4)
def experiment_of(config: str) -> Experiment:
    """The run's configuration, from JSON, which tells 1 from 1.0: as keys of a cache they would be the same."""
    return Experiment.from_flat(json.loads(config))


@lru_cache(maxsize=2)
def corpus_of(experiment: Experiment) -> Corpus:
    """The corpus that the hospitals share out."""
    return read_corpus(experiment)


@lru_cache(maxsize=2)
def shares_of(experiment: Experiment) -> list[NDArray[np.int64]]:
    """Every hospital's rows of the corpus."""
    return hospital_shares(experiment, corpus_of(experiment))


@lru_cache(maxsize=1024)
def checked_once(setup: Setup, recipe: Recipe, plan: PrivacyPlan) -> None:
    """The pre-flight. Simulated hospitals share one structure, and most of them one plan; a real one checks in every
    round. A check that fails is not remembered.
    """
    check_before_first_step(setup, recipe, plan)


def frozen_digest(setup: Setup, request: Request) -> str:
    """Names the frozen tensors of a request's state: what the model's lower part keeps of a report depends on them."""
    trainable = setup.classifier.adapter()
    return adapter_digest({name: tensor for name, tensor in request.state.items() if name not in trainable})


def directory_of(request: Request) -> Path:
    """Where a simulated hospital keeps ledger and state."""
    return Path(request.directory) / site_name(request.index)


def open_ledger(experiment: Experiment, request: Request) -> Ledger:
    """A simulated hospital's ledger, which survives a kill and not a power cut."""
    cap = experiment.privacy.epsilon if experiment.privacy.epsilon > 0 else float("inf")
    delta = experiment.privacy.delta
    directory = directory_of(request)
    return Ledger.open(directory, site=request.site, cap=cap, delta=delta, witness=None, durable=False)
