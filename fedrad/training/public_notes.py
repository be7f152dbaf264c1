"""A warm start for imaging protocols: an adapter trained on generated order notes before any private note is read.

The notes come from ``data/protocol/public.toml``, whose reasons are not those of the corpus ``protocol``, so that what
is measured there is a transfer. No private data is read, so none of this costs privacy. The loop is THE loop, without
noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from torch import Tensor

from fedrad.config import Experiment
from fedrad.corpora import PROTOCOLS
from fedrad.data.protocol import generate
from fedrad.data.report import FEATURES, Row
from fedrad.errors import ConfigError
from fedrad.privacy.plan import PrivacyPlan
from fedrad.training.inputs import prepare
from fedrad.training.local import TrainingState, run_steps
from fedrad.training.recipe import Recipe
from fedrad.training.setup import Setup

_BATCH = 32
_RATE = 2e-3  # of Adam; chosen on public notes
_SITES = 24  # each with a mix of protocols of its own, so that together they have no mix
_DELTA = 1e-9  # a plan needs one, also without noise


def public_notes(labels: Sequence[str], count: int, seed: int) -> Dataset:
    """Generated notes of these protocols, ``count`` of all protocols together before the others are left out.

    Raises:
        ConfigError: a label is no protocol of the generator.
    """
    number = {PROTOCOLS.index(label): place for place, label in enumerate(labels) if label in PROTOCOLS}
    rows = public_rows(labels, count, seed, asks="train.warm-start", remedy="set train.warm-start=none")
    chosen = [{**row, "labels": number[row["labels"]]} for row in rows]
    return Dataset.from_list(chosen, features=FEATURES(class_names=labels))


def public_rows(labels: Sequence[str], count: int, seed: int, *, asks: str, remedy: str) -> Iterator[Row]:
    """The rows of ``public_notes`` as ``generate`` yields them, numbered by ``PROTOCOLS``.

    Args:
        asks, remedy: for the error: the key that asks for notes, and what else to do.

    Raises:
        ConfigError: a label is no protocol of the generator.
    """
    if unknown := [label for label in labels if label not in PROTOCOLS]:
        raise ConfigError(
            f"{asks}: generated notes have no protocol {', '.join(map(repr, unknown[:5]))}; {remedy}, or name the"
            f" protocols as the generator does: {', '.join(PROTOCOLS)}"
        )
    wanted = {PROTOCOLS.index(label) for label in labels}
    return (row for row in generate(count, seed, sites=_SITES, bank="public") if row["labels"] in wanted)


def taught(experiment: Experiment, setup: Setup, state: dict[str, Tensor], notes: Dataset) -> dict[str, Tensor]:
    """The state after ``train.warm-epochs`` over the notes: Adam on the trainable tensors, without privacy."""
    setup.classifier.load_state(state)
    tokens = setup.task.tokenize(notes, np.arange(len(notes)), setup.base.tokenizer, setup.max_length)
    batch = min(_BATCH, len(notes))
    steps = max(1, experiment.train.warm_epochs * len(notes) // batch)
    plan = PrivacyPlan.calibrate(
        epsilon=0.0,
        delta=_DELTA,
        declared_size=len(notes),
        expected_batch=batch,
        steps=steps,
        clip=1.0,
        noise="seeded",
    )
    recipe = Recipe(
        optimizer="adam",
        learning_rate=_RATE,
        momentum=0.9,
        average=0.25,
        gradients="opacus" if experiment.privacy.gradients == "opacus" else "leaf",
        seed=experiment.train.seed,
        total_steps=steps,
    )
    begin = TrainingState({name: state[name] for name in setup.classifier.adapter()})
    end = run_steps(prepare(setup, tokens), plan, recipe, begin, steps, site="public notes")
    return {**state, **end.result()}
