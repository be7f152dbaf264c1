"""A decoder's test set: the lower layers' work is done once, and the answers are those of asking note by note."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrad.corpora import PROTOCOLS
from fedrad.data.batches import collate
from fedrad.tasks.causal_lm import CausalLM
from fedrad.training.evaluation import predictions
from fedrad.training.inputs import Inputs, SharedLowerParts, sharing
from fedrad.training.public_notes import public_notes
from fedrad.training.questions import Questions, asked
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny
from tests.training.test_public_notes import decoder_settings


def test_asking_all_at_once_is_asking_one_by_one(tmp_path: Path) -> None:
    task = CausalLM(PROTOCOLS, "Effusion.")
    setup = set_up(small.experiment(**decoder_settings(tmp_path), lora__layers=1, train__micro_tokens=2048), task)
    tiny.randomise(setup.classifier, scale=0.1)
    notes = public_notes(PROTOCOLS, 7, seed=0)
    tokens = task.tokenize(notes, np.arange(7), setup.base.tokenizer, setup.max_length)
    questions = asked(setup, tokens)
    assert isinstance(questions, Questions)
    assert questions.kept is not None
    found = predictions(questions)
    np.testing.assert_allclose(predictions(replace(questions, kept=None)), found, rtol=1e-2, atol=1e-35)
    model, inputs = setup.classifier, Inputs(tokens, setup.classifier, task, None, setup.pad_id)
    for row in range(7):
        batch = inputs.batch(np.array([row]))
        alone = task.predict(model, batch.hidden, batch.attention, batch.ids, batch.mask)
        np.testing.assert_allclose(alone[0], found[row], rtol=1e-2, atol=1e-35)
    assert np.ptp(np.log(found + 1e-35), axis=0).max() > 0.1  # the control: notes differ
    # The answers are not read: another one in their place changes nothing.
    other = replace(tokens, ids=tokens.ids.copy())
    for row, count in enumerate(tokens.mask.sum(axis=1).astype(int)):
        other.ids[tokens.offsets[row + 1] - count : tokens.offsets[row + 1]] = 5
    np.testing.assert_array_equal(predictions(asked(setup, other)), found)
    assert collate(other, np.arange(7), 0).ids.ne(collate(tokens, np.arange(7), 0).ids).any()


def test_runs_of_a_sweep_share_what_frozen_layers_made_of_the_questions(tmp_path: Path) -> None:
    notes = public_notes(PROTOCOLS, 3, seed=0)

    def questions(instruction: str, labels: tuple[str, ...] = PROTOCOLS) -> Questions:
        task = CausalLM(labels, instruction)
        setup = set_up(small.experiment(**decoder_settings(tmp_path), lora__layers=1, train__micro_tokens=2048), task)
        found = asked(setup, task.tokenize(notes, np.arange(3), setup.base.tokenizer, setup.max_length))
        assert isinstance(found, Questions)
        return found

    alone = questions("Effusion.")
    with sharing(SharedLowerParts()):
        first, again = questions("Effusion."), questions("Effusion.")
        assert first.kept is again.kept
        assert first.kept is not None
        assert alone.kept is not None
        assert first.kept.tobytes() == alone.kept.tobytes()
        others = (questions("Mass."), questions("Effusion.", (*PROTOCOLS[:-1], "Pelvis twice")))
        assert all(other.kept is not first.kept for other in others)
