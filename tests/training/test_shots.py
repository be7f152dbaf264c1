"""Few-shot prompts: public examples in the form of the note itself, the same wherever the task is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedrad.config import Experiment
from fedrad.corpora import PROTOCOLS
from fedrad.data.protocol import generate
from fedrad.errors import ConfigError, ModelError
from fedrad.evidence.predictions import read_predictions
from fedrad.federation.policy import HospitalPolicy
from fedrad.model.base import load_base
from fedrad.simulation import centralized
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.classifier import Classifier
from fedrad.training.corpus import read_corpus, stated_task
from fedrad.training.public_notes import public_notes
from fedrad.training.shots import examples, with_examples
from tests import small
from tests.model import tiny

DECODER: dict[str, object] = {"model__task": "causal-lm", "model__instruction": "Effusion.", "lora__targets": "query"}


def asked(**changes: object) -> Experiment:
    return small.experiment(**{"data__name": "protocol", **DECODER, **changes})


def test_examples_are_public_spread_over_the_protocols_and_always_the_same() -> None:
    shown = list(examples(PROTOCOLS, 40, seed=3))
    assert len(shown) == 40
    assert {label for _, label in shown[:34]} == set(PROTOCOLS)
    assert shown[:5] == list(examples(PROTOCOLS, 5, seed=3)) != list(examples(PROTOCOLS, 5, seed=4))
    notes = public_notes(PROTOCOLS, 4000, seed=3)
    answers = {row["text"]: PROTOCOLS[row["labels"]] for row in notes}
    assert dict(shown).items() <= answers.items()  # of the public bank, with their own protocols
    assert not {text for text, _ in shown} & {row["text"] for row in generate(4000, seed=3, sites=24)}
    some = (PROTOCOLS[33], PROTOCOLS[2])
    assert sorted(label for _, label in examples(some, 6, seed=3)) == sorted(3 * some)


def test_an_example_has_the_form_of_the_note_itself(tmp_path: Path) -> None:
    tokenizer = load_base(tiny.save_decoder(tmp_path / "base", "llama")).tokenizer
    corpus = read_corpus(asked(model__shots=2))
    tokens = corpus.task.tokenize(corpus.reports, np.arange(1), tokenizer, 2000)
    end, *turns = tokenizer.decode(tokens.ids).removeprefix("<begin>").split("\n\n")
    assert end == "Effusion."
    own = corpus.reports[0]
    *shown, last = [tuple(turn.removeprefix("Note:").split("\nAnswer: ")) for turn in turns]
    assert last == (own["text"], f"{PROTOCOLS[own['labels']]}{tokenizer.eos_token}")
    assert shown == list(examples(PROTOCOLS, 2, seed=8_000_000))
    with pytest.raises(ModelError, match="no room for a note beside instruction, examples and answer"):
        corpus.task.tokenize(corpus.reports, np.arange(1), tokenizer, 200)


def test_server_and_hospital_show_the_same_examples_and_only_of_known_protocols() -> None:
    there = HospitalPolicy("mercy", "/t", "/s", 8.0, 100, label_columns="kind", classes="Pelvis,CT Brain")
    stated = {"data__name": "none", "data__label_columns": "kind", "data__classes": "CT Brain,Pelvis"}
    experiment = asked(model__shots=3, **stated)
    task = there.task_for(experiment)
    assert isinstance(task, CausalLM)
    assert task == stated_task(experiment)
    assert task.instruction.count("\nAnswer: Pelvis") + task.instruction.count("\nAnswer: CT Brain") == 3
    assert there.task_for(asked(**stated)) == CausalLM(("CT Brain", "Pelvis"), "Effusion.")
    with pytest.raises(ConfigError, match=r"model\.shots: .* no protocol 'MRI Knee'; .*model\.instruction"):
        with_examples(CausalLM(("MRI Knee", "Pelvis"), "x"), experiment)


def test_a_run_that_was_shown_examples_predicts_with_them(tmp_path: Path) -> None:
    base = tiny.save_decoder(tmp_path / "base", "llama", max_position_embeddings=900, initializer_range=0.05)
    run = {"train__warm_start": "none", "run__predictions": True, "run__out": str(tmp_path / "run")}
    experiment = asked(model__name=base, model__shots=2, data__max_length=800, data__reports=30, **run)
    centralized.train(experiment)
    corpus, classifier = read_corpus(experiment), Classifier.load(tmp_path / "run")
    assert classifier.task == corpus.task
    found = classifier.predict([corpus.reports[int(row)]["text"] for row in corpus.test])
    kept = read_predictions(tmp_path / "run" / "predictions.parquet").probabilities
    np.testing.assert_allclose(found, kept, rtol=1e-2, atol=1e-35)
