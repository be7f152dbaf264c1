"""The warm start of protocols: learnt from public notes alone, always the same, and refused where it can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.cache import fedrad_cache_dir
from fedrad.config import Experiment
from fedrad.corpora import PROTOCOLS
from fedrad.data import load
from fedrad.data.protocol import generate
from fedrad.errors import ConfigError
from fedrad.model.buckets import micro_batches
from fedrad.public_base.choice import base_of, starts_warm
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task
from fedrad.training import warm_start
from fedrad.training.inputs import prepare
from fedrad.training.public_notes import public_notes
from fedrad.training.setup import Setup, set_up
from fedrad.training.warm_start import initial_state
from tests import small
from tests.model import tiny

PROTOCOL = SingleLabel(PROTOCOLS)
NOTES: dict[str, object] = {
    "data__name": "protocol",
    "train__warm_start": "notes",
    "train__warm_reports": 64,
    "train__warm_epochs": 8,
    "train__micro_tokens": 4096,
}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", 40)
    for file in (fedrad_cache_dir() / "start").glob("*"):
        file.unlink()


def started(task: Task, **changes: Any) -> tuple[Setup, dict[str, Tensor]]:
    experiment = small.experiment(**{**NOTES, **changes})
    setup = set_up(experiment, task)
    return setup, initial_state(experiment, setup)


def mean_loss(setup: Setup, state: dict[str, Tensor]) -> float:
    """On the notes of the warm start: a model of three layers learns these and nothing general."""
    setup.classifier.load_state(state)
    notes = public_notes(setup.task.labels, 64, seed=warm_start._SEED_OFFSET)
    inputs = prepare(setup, setup.task.tokenize(notes, np.arange(64), setup.base.tokenizer, setup.max_length))
    losses = []
    for rows in micro_batches(inputs.lengths, np.arange(64), 4096):
        batch = inputs.batch(rows)
        losses.append(batch.losses(setup.classifier.suffix(*batch.read)).detach())
    return float(torch.cat(losses).mean())


def decoder_settings(folder: Path) -> dict[str, object]:
    base = tiny.save_decoder(folder / "base", "llama", max_position_embeddings=320, initializer_range=0.05)
    return {"model__name": base, "model__task": "causal-lm", "model__instruction": "Effusion.", "data__max_length": 256}


def test_an_encoder_with_a_head_and_a_decoder_learn_from_public_notes(tmp_path: Path) -> None:
    decoder = decoder_settings(tmp_path)
    for task, changes in (
        (PROTOCOL, {}),
        (CausalLM(PROTOCOLS, "Effusion."), decoder),
        (CausalLM(PROTOCOLS, "Effusion.", "text"), decoder | {"model__loss": "text"}),
    ):
        setup, warm = started(task, **changes)
        _, cold = started(task, **changes, train__warm_start="none")
        assert mean_loss(setup, warm) < 0.99 * mean_loss(setup, cold)


def test_it_is_the_same_twice_and_reads_no_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "load_corpus", lambda *args, **options: pytest.fail("a corpus was read"))
    monkeypatch.setattr(load, "load_corpus", lambda *args, **options: pytest.fail("a corpus was read"))
    _, first = started(PROTOCOL)
    (kept,) = (fedrad_cache_dir() / "start").glob("*")
    _, again = started(PROTOCOL)
    assert small.same(first, again)
    kept.unlink()
    _, anew = started(PROTOCOL)
    assert small.same(first, anew)
    _, fewer = started(PROTOCOL, train__warm_reports=40)
    assert not small.same(first, fewer)


def test_what_it_teaches_and_what_not() -> None:
    some = (PROTOCOLS[3], PROTOCOLS[0])
    notes = public_notes(some, 200, seed=0)
    assert notes.features["labels"].names == list(some)
    assert 0 < len(notes) < 200
    everything = set(public_notes(PROTOCOLS, 200, seed=0)["text"])
    assert set(notes["text"]) < everything
    assert not everything & {row["text"] for row in generate(200, seed=0, sites=24)}
    with pytest.raises(ConfigError, match="have no protocol 'MRI Knee'"):
        public_notes((*some, "MRI Knee"), 10, seed=0)


def test_synthetic_means_notes_for_protocols_and_needs_no_public_base() -> None:
    experiment = Experiment.from_flat({"data.name": "protocol", "train.warm-start": "synthetic"})
    assert experiment.warm_start == "notes"
    assert starts_warm(experiment, PROTOCOL.findings)
    assert base_of(experiment).public_head is None
    assert Experiment.from_flat({"data.name": "protocol"}).warm_start == "none"
