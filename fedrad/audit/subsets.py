"""Training on parts of a corpus whose frozen part of the model has been run once: shadow models, one round's shards."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.audit.stage import train_in_one_place
from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.federation.hospital import inputs_of
from fedrad.model.buckets import micro_batches
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.rules import AUDITED, CENTRALIZED, refuse
from fedrad.training.corpus import read_corpus
from fedrad.training.inputs import Inputs
from fedrad.training.setup import Setup, pin_arithmetic, plan_for, set_up
from fedrad.training.warm_start import initial_state

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pool:
    """The training reports of a corpus, from which shards are drawn.

    Attributes:
        state: all public tensors, as training starts.
    """

    experiment: Experiment
    setup: Setup
    state: dict[str, Tensor]
    inputs: Inputs


def pool_of(experiment: Experiment, reports: int, at_least: int) -> Pool:
    """At most so many of the training reports of ``data.*``, drawn at random (by ``data.seed``).

    Raises:
        ConfigError: the unit is not the report, since the attacks are on reports; there are too few; or the settings
            are none for training in one place, which is what the shadow models are.
    """
    refuse(experiment, CENTRALIZED)
    if experiment.privacy.unit != "report":
        raise ConfigError("--attacks asks about single reports: privacy.unit=report")
    refuse(experiment, AUDITED)
    pin_arithmetic(experiment)
    corpus = read_corpus(experiment)
    if len(corpus.train) < at_least:
        raise ConfigError(f"--attacks needs {at_least} training reports or more, and there are {len(corpus.train)}")
    setup = set_up(experiment, corpus.task)
    drawn = np.random.default_rng(experiment.data.seed).permutation(corpus.train)[:reports]
    state = initial_state(experiment, setup)
    return Pool(experiment, setup, state, inputs_of(setup, corpus, np.sort(drawn)))


def plan_at(pool: Pool, reports: int, epsilon: float, seed: int = 0) -> PrivacyPlan:
    """The plan of a run of the pool's configuration on so many of its reports, at this epsilon."""
    return plan_for(_at(pool, epsilon, seed), declared_size(reports))


def trained_on(pool: Pool, rows: Indices, epsilon: float, seed: int, rounds: int = 0) -> dict[str, Tensor]:
    """The adapter after a run (or after its first ``rounds``) on these rows, at this epsilon; 0: without privacy.

    Args:
        seed: of this run, which matters where the noise is seeded.
    """
    experiment, plan = _at(pool, epsilon, seed), plan_at(pool, len(rows), epsilon, seed)
    adapter, _ = train_in_one_place(experiment, pool.setup, pool.state, part_of(pool.inputs, rows), plan, rounds)
    return adapter


def _at(pool: Pool, epsilon: float, seed: int) -> Experiment:
    changes = {"privacy.epsilon": epsilon, "train.seed": seed}
    return Experiment.from_flat({**pool.experiment.flat(), **changes})


def part_of(inputs: Inputs, rows: Indices) -> Inputs:
    """Some of the reports, with what the frozen part made of them."""
    kept, offsets = inputs.kept, inputs.tokens.offsets
    if kept is not None:
        pooled = inputs.classifier.head_only
        kept = kept[rows] if pooled else np.concatenate([kept[offsets[i] : offsets[i + 1]] for i in rows])
    return replace(inputs, tokens=inputs.tokens.select(rows), kept=kept)


@torch.no_grad()
def losses_of(inputs: Inputs) -> NDArray[np.float64]:
    """The loss of each report under the model as it stands, float64 [n]."""
    model, found = inputs.classifier, np.empty(len(inputs))
    for rows in micro_batches(inputs.lengths, np.arange(len(inputs)), model.kernels.micro_tokens):
        batch = inputs.batch(rows)
        with model.arithmetic():
            found[rows] = batch.losses(model.suffix(*batch.read)).double().cpu().numpy()
    return found
