"""The file of predictions that ``fedrad evaluate --predictions`` writes, as private as the reports: a row for each.

| column | type | what it is |
|---|---|---|
| ``row`` | integer | the report among those of the source that can be used, from 1 in the order of its files |
| ``patient`` | text | as the source has it; a table without a patient column: ``row-N`` |
| ``label:NAME`` | integer | 1, 0, or empty where the label is masked; of a class: whether the report is of it |
| ``probability:NAME`` | number | what the run predicts |

The columns of the labels, then those of the probabilities, both in the order of the run's labels. CSV, or Parquet where
the file is called ``.parquet``; mode 0600. Files of two runs on the same source pair by ``row``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrad.errors import DataError
from fedrad.files import write_whole

_LABEL, _PROBABILITY = "label:", "probability:"


@dataclass(frozen=True, eq=False)
class Predictions:
    """n reports and L labels.

    Attributes:
        rows: int [n].
        patients: n texts.
        names: the L labels or classes.
        labels: int8 [n, L]: 1, 0, or -1 where masked.
        probabilities: float64 [n, L].
    """

    rows: NDArray[np.int64]
    patients: Sequence[str]
    names: tuple[str, ...]
    labels: NDArray[np.int8]
    probabilities: NDArray[np.float64]


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Writes a new file, readable by its owner only.

    Raises:
        DataError: it exists, or can't be written.
    """
    if path.exists():
        raise DataError("exists already; nothing is overwritten.", file=path, remedy="Name another file.")
    columns = {"row": pa.array(predictions.rows), "patient": pa.array(predictions.patients, pa.string())}
    for k, name in enumerate(predictions.names):
        values = predictions.labels[:, k]
        columns[_LABEL + name] = pa.array(values, pa.int8(), mask=values < 0)
    for k, name in enumerate(predictions.names):
        columns[_PROBABILITY + name] = pa.array(predictions.probabilities[:, k])
    content = io.BytesIO()
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), content)
    else:
        pyarrow.csv.write_csv(pa.table(columns), content)
    try:
        write_whole(path, content.getvalue(), durable=True)
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=path) from None


def read_predictions(path: Path) -> Predictions:
    """Reads what ``write_predictions`` wrote.

    Raises:
        DataError: it can't be read, or is no such file.
    """
    table = None
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            options = pyarrow.csv.ConvertOptions(column_types={"patient": pa.string()})
            table = pyarrow.csv.read_csv(path, convert_options=options)
        names = tuple(name.removeprefix(_LABEL) for name in table.column_names if name.startswith(_LABEL))
        labels = [table.column(_LABEL + name).cast(pa.int8()).fill_null(-1).to_numpy() for name in names]
        found = [table.column(_PROBABILITY + name).cast(pa.float64()).to_numpy() for name in names]
        return Predictions(
            rows=table.column("row").to_numpy(),
            patients=table.column("patient").to_pylist(),
            names=names,
            labels=np.stack(labels, axis=1).astype(np.int8),
            probabilities=np.stack(found, axis=1),
        )
    except (pa.ArrowException, KeyError, ValueError, OSError):
        pass  # their messages quote cells
    remedy = "Name a file that `fedrad evaluate --predictions` wrote."
    raise DataError("is no file of predictions.", file=path, remedy=remedy)
