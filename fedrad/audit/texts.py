"""Text canaries: made-up reports with made-up labels, which the final model is asked about.

It is what somebody could do who can only add reports and read the final adapter, so it shows far less than a gradient
canary. ``SAMPLED`` follows Mitchell and Andrew 2026 (arXiv 2606.10481), who draw canaries from a language model at a
high temperature, so that they are outliers with much influence. Nothing here generates text freely, so the model is a
unigram one: the words of generated reports, each with its frequency to the power of 1/T.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fedrad.audit.canaries import joined
from fedrad.audit.stage import Seen, coins, train_in_one_place
from fedrad.audit.subsets import losses_of
from fedrad.config import Experiment
from fedrad.data.batches import Tokenized
from fedrad.data.synthetic import generate
from fedrad.privacy.plan import declared_size
from fedrad.rules import AUDITED, refuse
from fedrad.training.corpus import read_corpus
from fedrad.training.inputs import prepare
from fedrad.training.setup import Setup, pin_arithmetic, plan_for, set_up
from fedrad.training.warm_start import initial_state

REPORTS, SAMPLED = "text, as reports are", "text, sampled"
_TEMPERATURE, _WORDS = 2.0, 40
_SEED = 9_000_000  # of the canaries' texts: no corpus is generated from it


def made_up_texts(kind: str, count: int, bank: str) -> list[str]:
    """Texts of canaries: ``REPORTS``: generated reports that no corpus holds; ``SAMPLED``: words out of them."""
    generated = [row["text"] for row in islice(generate(max(count, 500), _SEED, bank=bank), max(count, 500))]
    if kind == REPORTS:
        return generated[:count]
    counts = Counter(word for text in generated for word in text.split())
    words = np.array(sorted(counts))
    weight = np.array([counts[word] for word in words], dtype=np.float64) ** (1 / _TEMPERATURE)
    drawn = np.random.default_rng(_SEED).choice(words, size=(count, _WORDS), p=weight / weight.sum())
    return [" ".join(row) for row in drawn]


def canary_tokens(setup: Setup, texts: list[str]) -> Tokenized:
    """The canaries with random labels, each 1 with probability 1/2: to predict them they must be learnt by heart."""
    ids = setup.base.tokenizer(texts, truncation=True, max_length=setup.max_length)["input_ids"]
    labels = np.random.default_rng(_SEED).integers(0, 2, (len(texts), len(setup.task.labels))).astype(np.float32)
    return Tokenized(
        ids=np.concatenate([np.asarray(row, dtype=np.int32) for row in ids]),
        offsets=np.cumsum([0, *(len(row) for row in ids)], dtype=np.int64),
        labels=labels,
        mask=np.ones_like(labels),
        patients=np.arange(len(texts)),
    )


def text_view(experiment: Experiment, kind: str, canaries: int) -> tuple[Seen, NDArray[np.bool_]]:
    """Trains in one place on reports and text canaries, and scores each canary by how much its loss fell.

    Returns:
        what the adversary saw, who has the initial and the final model; and which canaries were in.
    """
    refuse(experiment, AUDITED)
    pin_arithmetic(experiment)
    corpus = read_corpus(experiment)
    setup = set_up(experiment, corpus.task)
    state = initial_state(experiment, setup)
    reports = setup.task.tokenize(corpus.reports, corpus.train, setup.base.tokenizer, setup.max_length)
    tokens = canary_tokens(setup, made_up_texts(kind, canaries, experiment.data.bank))
    inside, asked = coins(experiment, canaries), prepare(setup, tokens)
    setup.classifier.load_state(state)
    before = losses_of(asked)
    inputs = prepare(setup, joined(reports, tokens.select(np.flatnonzero(inside))))
    plan = plan_for(experiment, declared_size(len(reports) + canaries // 2))
    adapter, spent = train_in_one_place(experiment, setup, state, inputs, plan)
    setup.classifier.load_adapter(adapter)
    return Seen(before - losses_of(asked), spent), inside
