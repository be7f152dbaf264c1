"""What a run decides about its test set, as it is compared with another run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrad.evidence.predictions import Predictions
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.single_label import SingleLabel

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Predicted:
    """Decisions about n reports with L labels.

    Attributes:
        rows, patients: of the reports, [n].
        truth: whether each label is positive; known: false where it is masked; decisions: what the run says. [n, L]
        prior: the label prior's decisions, which are the same for every report. [n, L]
    """

    rows: NDArray[np.int64]
    patients: NDArray[Any]
    names: tuple[str, ...]
    truth: Bools
    known: Bools
    decisions: Bools
    prior: Bools

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def correct(self) -> Bools:
        """Where decision and label agree, [n, L]; true where the label is masked."""
        return (self.decisions == self.truth) | ~self.known

    @cached_property
    def test_set(self) -> str:
        """A digest of the test set: the same for two runs only if they are about the same reports in the same order,
        with the same patients and labels."""
        digest = hashlib.sha256(repr(self.names).encode())
        digest.update(self.rows.astype("<i8").tobytes())
        numbers = np.unique(self.patients, return_inverse=True)[1]
        digest.update(numbers.astype("<i8").tobytes())
        digest.update(self.truth.tobytes() + self.known.tobytes())
        return digest.hexdigest()


def predicted(predictions: Predictions, task: str) -> Predicted:
    """What probabilities mean: above 1/2 of a label, the most probable class of classes (``Task.decide``)."""
    probabilities, labels = predictions.probabilities, predictions.labels
    truth, known = labels == 1, labels >= 0
    if task in (SingleLabel.name, CausalLM.name):
        places = np.arange(len(predictions.names))
        decisions = places == probabilities.argmax(axis=1)[:, None]
        prior = np.broadcast_to(places == truth.sum(axis=0).argmax(), truth.shape)
    else:
        decisions, prior = probabilities > 0.5, np.ones_like(truth)
    return Predicted(
        rows=predictions.rows,
        patients=np.asarray(predictions.patients),
        names=predictions.names,
        truth=truth,
        known=known,
        decisions=np.asarray(decisions),
        prior=np.asarray(prior),
    )
