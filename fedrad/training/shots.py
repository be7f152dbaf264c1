"""Few-shot prompts: generated order notes with their protocols, which a decoder reads before each note.

They become part of its instruction, so whatever takes an instruction takes them too: training, prediction, the
adapter's folder, a real hospital. They come from ``data/protocol/public.toml``, which was written and not read off any
note, so they are as public as the instruction and cost no privacy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedrad.config import Experiment
from fedrad.corpora import PROTOCOLS
from fedrad.model.answers import prompt_around
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.task import Task
from fedrad.training.public_notes import public_rows

_SEED_OFFSET = 8_000_000  # other notes than those of the warm start
_ENOUGH = 1_000_000  # generated notes, among which there are as many of every protocol as anybody may ask for


def with_examples(task: Task, experiment: Experiment) -> Task:
    """The task with ``model.shots`` examples behind its instruction; as it is without any.

    Raises:
        ConfigError: a label is no protocol of the generator.
    """
    if not (experiment.model.shots and isinstance(task, CausalLM)):
        return task
    shown = examples(task.labels, experiment.model.shots, _SEED_OFFSET + experiment.train.seed)
    return replace(task, instruction="".join([task.instruction, *(_as_asked(*example) for example in shown)]))


def examples(labels: Sequence[str], count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields ``count`` notes with their protocols. No protocol is there twice before all are there once.

    A pure function of its arguments; a smaller count gives a prefix of a larger one.

    Raises:
        ConfigError: a label is no protocol of the generator.
    """
    remedy = "set model.shots=0, write examples of your own into model.instruction"
    shown: Counter[str] = Counter()
    for row in public_rows(labels, _ENOUGH, seed, asks="model.shots", remedy=remedy):
        label = PROTOCOLS[row["labels"]]
        if shown[label] <= shown.total() // len(labels):
            shown[label] += 1
            yield row["text"], label
        if shown.total() == count:
            return


def _as_asked(note: str, answer: str) -> str:
    """A note in the form in which it would be asked about, with its answer."""
    before, after = prompt_around("")
    return f"{before}{note}{after} {answer}"
