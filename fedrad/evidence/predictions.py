"""A file of predictions on a test set: one row a report, with its patient, its labels and what a model made of it.

The columns are ``row`` (of the corpus), ``patient`` (equal for the reports of one person), ``label:NAME`` (true, false,
or null where the label is masked) and ``probability:NAME``. The task stands in the file's metadata, since it decides
how probabilities become decisions. There is no text in it, but labels and patients: it is for public or simulated test
sets, and its owner alone may read it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrad.errors import DataError
from fedrad.files import PRIVATE, whole_file

LABEL, PROBABILITY = "label:", "probability:"
SINGLE_LABEL = "single-label"
_TASK = b"fedrad.task"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for n reports with L labels.

    Attributes:
        rows: of the reports in their corpus, int64 [n].
        patients: equal for the reports of one patient, [n].
        names: of the labels.
        truth: whether each label is positive, bool [n, L].
        known: false where a label is masked, bool [n, L].
        probabilities: float32 [n, L].
        task: "multi-label" or "single-label".
    """

    rows: NDArray[np.int64]
    patients: NDArray[Any]
    names: tuple[str, ...]
    truth: NDArray[np.bool_]
    known: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    task: str = "multi-label"

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def decisions(self) -> NDArray[np.bool_]:
        """As the task decides: above 1/2, or the most probable class."""
        if self.task == SINGLE_LABEL:
            best = self.probabilities.argmax(axis=1)
            return np.asarray(np.arange(len(self.names)) == best[:, None])
        return np.asarray(self.probabilities > 0.5)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Where decision and label agree, bool [n, L]; true where the label is masked."""
        return (self.decisions == self.truth) | ~self.known

    @cached_property
    def test_set(self) -> str:
        """A digest of the test set: the same for the predictions of two models only if they are about the same reports
        in the same order, with the same patients and labels."""
        digest = hashlib.sha256(repr(self.names).encode())
        digest.update(self.rows.astype("<i8").tobytes())
        numbers = np.unique(self.patients, return_inverse=True)[1]
        digest.update(numbers.astype("<i8").tobytes())
        digest.update(self.truth.tobytes() + self.known.tobytes())
        return digest.hexdigest()


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes the file, whole or not at all, with mode 0600."""
    columns: dict[str, pa.Array] = {"row": pa.array(predictions.rows), "patient": pa.array(predictions.patients)}
    for k, name in enumerate(predictions.names):
        columns[LABEL + name] = pa.array(predictions.truth[:, k], mask=~predictions.known[:, k])
    for k, name in enumerate(predictions.names):
        columns[PROBABILITY + name] = pa.array(predictions.probabilities[:, k])
    table = pa.table(columns).replace_schema_metadata({_TASK: predictions.task.encode()})
    with whole_file(path, durable=False, mode=PRIVATE) as file:
        pq.write_table(table, file)


def read_predictions(path: Path) -> Predictions:
    """Reads a file of predictions.

    Raises:
        DataError: it is not there, or lacks columns.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"can't be read as a file of predictions ({type(error).__name__}).",
            file=path,
            remedy="A run writes one with run.predictions=true.",
        ) from None
    names = tuple(name.removeprefix(LABEL) for name in table.column_names if name.startswith(LABEL))
    needed = ["row", "patient", *(PROBABILITY + name for name in names)]
    if missing := [name for name in needed if name not in table.column_names] or ([] if names else ["label:NAME"]):
        raise DataError(f"lacks the columns {', '.join(missing)}.", file=path)
    labels = [table.column(LABEL + name) for name in names]
    return Predictions(
        rows=table.column("row").to_numpy(),
        patients=table.column("patient").to_numpy(zero_copy_only=False),
        names=names,
        truth=_stacked([column.fill_null(False).to_numpy(zero_copy_only=False) for column in labels], np.bool_),
        known=_stacked([column.is_valid().to_numpy(zero_copy_only=False) for column in labels], np.bool_),
        probabilities=_stacked([table.column(PROBABILITY + name).to_numpy() for name in names], np.float32),
        task=(table.schema.metadata or {}).get(_TASK, b"multi-label").decode(),
    )


def _stacked(columns: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.stack([column.astype(dtype) for column in columns], axis=1)
