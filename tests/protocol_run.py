"""Runs that were never trained, but answer: order notes in, one of a few protocols out."""

from __future__ import annotations

from pathlib import Path

from fedrad.corpora import PROTOCOLS
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny

LABELS = PROTOCOLS[:5]
NOTES = ("Flank pain, stone?", "hearing loss", "worst headache", "liver laceration, on apixaban")


def untrained(directory: Path, *, decoder: bool) -> Path:
    """A run directory of a tiny decoder that writes the protocol, or of a tiny encoder with a head."""
    changes: dict[str, object] = {"data__max_length": 40, "train__warm_start": "none", "data__name": "protocol"}
    task: Task = SingleLabel(LABELS)
    if decoder:
        name = tiny.save_decoder(directory / "base", "llama", max_position_embeddings=160, initializer_range=0.05)
        task = CausalLM(LABELS, "No acute effusion.")
        changes |= {"model__name": name, "model__task": "causal-lm", "data__max_length": 128}
    setup = set_up(small.experiment(**changes), task)
    tiny.randomise(setup.classifier)
    length = int(str(changes["data__max_length"]))
    task.export(setup.classifier, setup.base, directory / "adapter", max_length=length, privacy_statement="none")
    return directory
