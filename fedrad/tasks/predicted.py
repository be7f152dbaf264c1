"""What is predicted for new reports: the probability of each label and, where a report has one class, an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrad.data.cells import joined
from fedrad.errors import ConfigError
from fedrad.tasks.classifier import Classifier
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Asked:
    """What is wanted beside the probabilities.

    Attributes:
        abstain_below: the most probable class is the answer only if it is at least as probable as this; 0: always.
        generate: tokens that a decoder writes freely at most; 0: it doesn't.
    """

    abstain_below: float = 0.0
    generate: int = 0


@dataclass(frozen=True, eq=False)
class Predicted:
    """Of n reports.

    Attributes:
        probabilities: [n, L].
        answers: n labels, "" where the model abstains; None if a report has no single class.
        generated: n texts; None if none was asked for.
    """

    probabilities: NDArray[Any]
    answers: list[str] | None = None
    generated: list[str] | None = None

    @property
    def texts(self) -> list[list[str]]:
        """The columns that ``text_columns`` names, n texts each."""
        return [column for column in (self.answers, self.generated) if column is not None]


def text_columns(task: Task, asked: Asked) -> list[str]:
    """Names of the columns of text that ``predicted`` makes, none of which is a label's.

    Raises:
        ConfigError: what is asked for does not go with the task.
    """
    single = isinstance(task, SingleLabel)
    problems = []
    if not 0 <= asked.abstain_below <= 1:
        problems.append(f"--abstain-below: a probability lies between 0 and 1, not at {asked.abstain_below:g}")
    if asked.abstain_below and not single:
        problems.append("--abstain-below: the labels of this run are independent, so a report has no one answer")
    if asked.generate < 0:
        problems.append(f"--generate: a number of tokens, not {asked.generate}")
    if asked.generate and task.name != "causal-lm":
        problems.append(f"--generate: a run of task {task.name} has a head and writes no text; a causal-lm run does")
    if problems:
        raise ConfigError(problems)
    names = [*(["answer"] if single else []), *(["generated"] if asked.generate else [])]
    return [f"{name} (of the model)" if name in task.columns else name for name in names]


def predicted(classifier: Classifier, texts: Sequence[str], asked: Asked) -> Predicted:
    """Predicts reports.

    Raises:
        ConfigError: as ``text_columns``.
        ModelError, TypeError: as ``Classifier.predict`` and ``Classifier.generate``.
    """
    text_columns(classifier.task, asked)
    found = Predicted(classifier.predict(texts))
    if isinstance(classifier.task, SingleLabel):
        found = replace(found, answers=answers_of(classifier.labels, found.probabilities, asked.abstain_below))
    return replace(found, generated=classifier.generate(texts, asked.generate)) if asked.generate else found


def answers_of(labels: Sequence[str], probabilities: NDArray[Any], abstain_below: float) -> list[str]:
    """The most probable label of each row of [n, L]; "" where its probability is below the threshold."""
    best = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(best)), best] >= abstain_below
    return [labels[k] if certain else "" for k, certain in zip(best, sure, strict=True)]


def frame_of(classifier: Classifier, cells: Iterable[str | None], asked: Asked) -> pd.DataFrame:
    """The predictions of a column of texts, a row for each: the columns of ``text_columns``, then the labels' float32.

    A cell without text has nulls, and so has an answer where the model abstains.

    Raises:
        ConfigError, ModelError: as ``predicted``.
    """
    import pandas as pd

    texts = [joined([cell])[0] if isinstance(cell, str) else "" for cell in cells]
    there = np.array([bool(text) for text in texts], dtype=bool)
    found = predicted(classifier, [text for text in texts if text], asked)
    columns: dict[str, Any] = {}
    for name, said in zip(text_columns(classifier.task, asked), found.texts, strict=True):
        columns[name] = np.full(len(texts), None, dtype=object)
        columns[name][there] = [text or None for text in said]
    values = np.full((len(texts), len(classifier.labels)), np.nan, dtype=np.float32)
    values[there] = found.probabilities
    return pd.DataFrame(columns | dict(zip(classifier.labels, values.T, strict=True)))
