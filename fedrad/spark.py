"""Prediction on Apache Spark: a pandas UDF for any data frame, and the engine of ``fedrad predict --engine spark``.

The adapter travels with the UDF, so workers need neither the run directory nor a shared disk. They need fedrad, its
packages, and the base model under the name that the run has for it. Texts are read where Spark holds them and are in no
output.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fedrad.errors import ConfigError, ModelError
from fedrad.model.folder import adapter_folder
from fedrad.tasks.classifier import Classifier, task_of_run
from fedrad.tasks.predicted import Asked, Predicted, frame_of, text_columns

try:
    import pandas as pd
    from pyspark import TaskContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import pandas_udf
    from pyspark.sql.types import FloatType, StringType, StructField, StructType
except ImportError as error:
    raise ConfigError(f"prediction on Spark needs the package {error.name}: pip install 'fedrad[spark]'") from None

# What is used of pandas here is compared with the prediction of one process in tests/test_spark.py.
warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
_BATCH = 2048  # rows that Spark hands to a worker at a time, unless its own configuration says otherwise
_BY_SPARK_SUBMIT = "PYSPARK_GATEWAY_PORT"  # set in a driver that spark-submit has started


@dataclass(frozen=True)
class _Packed:
    """An adapter folder as it travels to the workers."""

    files: tuple[tuple[str, bytes], ...]
    base: str | None
    device: str


def predict_udf(
    run: str | Path,
    *,
    abstain_below: float = 0.0,
    generate: int = 0,
    base: str | None = None,
    device: str = "cpu",
) -> Callable[..., Any]:
    """A pandas UDF from a column of texts to a struct of predictions: ``frame.select("id", udf("note").alias("p"))``.

    The struct has a float for each label, under its name. Before them, for a run of one class a report, stands
    ``answer``, null where the model abstains, and if asked for ``generated``. A row without text has nulls.
    A worker process loads the model once and keeps it for later tasks.

    Args:
        run: a run directory, or its folder ``adapter``, on the driver.
        abstain_below, generate: as in ``Asked``.
        base: folder or hub id of the base model on the workers, if it is not where the run found it.
        device: of the workers, as for ``Classifier.load``.

    Raises:
        ConfigError: what is asked for does not go with the run's task.
        ModelError: there is no complete adapter. What a worker can't load is an error of the Spark job.
    """
    folder, task, asked = adapter_folder(run), task_of_run(run), Asked(abstain_below, generate)
    files = tuple((path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file())
    packed = _Packed(files, base, device)
    texts, labels = text_columns(task, asked), list(task.columns)
    fields = [StructField(name, StringType()) for name in texts] + [StructField(name, FloatType()) for name in labels]

    @pandas_udf(StructType(fields))  # type: ignore[untyped-decorator]
    def predict(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        classifier = _classifier(packed)
        for batch in batches:
            yield frame_of(classifier, batch, asked)

    return predict


@lru_cache(maxsize=1)
def _classifier(packed: _Packed) -> Classifier:
    """Loaded once in a worker process, which Spark gives one task after the other."""
    if (context := TaskContext.get()) is not None:
        torch.set_num_threads(max(1, context.cpus()))  # Spark has a worker on every core
    with tempfile.TemporaryDirectory(prefix="fedrad-") as folder:  # readable by its owner only
        for name, content in packed.files:
            (Path(folder) / name).write_bytes(content)
        return Classifier.load(folder, base=packed.base, device=packed.device)


@contextmanager
def spark_engine(run: Path, asked: Asked, device: str) -> Iterator[Callable[[Sequence[str]], Predicted]]:
    """Predicts texts on the active Spark session, or on a new one: that of spark-submit, or all cores of this machine.

    Raises:
        ConfigError: Spark can't be started, or as ``predict_udf``.
        ModelError: as ``predict_udf``, or a worker failed.
    """
    udf = predict_udf(run, abstain_below=asked.abstain_below, generate=asked.generate, device=device)
    running = SparkSession.getActiveSession()
    spark = running or _session()
    count = len(text_columns(task_of_run(run), asked))

    def predict(texts: Sequence[str]) -> Predicted:
        # Nothing relies on the order in which Spark returns rows.
        table = pa.table({"row": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts, pa.string())})
        try:
            rows = spark.createDataFrame(table).select("row", udf("text").alias("found")).toArrow().sort_by("row")
        except PySparkException as error:
            raise _reason(error) from None
        if rows.column("row").to_pylist() != list(range(len(texts))):
            raise ModelError("Spark returned other rows than it was given.")
        columns = rows.column("found").combine_chunks().flatten()
        said = [[cell or "" for cell in column.to_pylist()] for column in columns[:count]]
        return Predicted(
            np.stack([column.to_numpy(zero_copy_only=False) for column in columns[count:]], axis=1),
            answers=said[0] if count > bool(asked.generate) else None,
            generated=said[-1] if asked.generate else None,
        )

    try:
        yield predict
    finally:
        if running is None:
            spark.stop()


def _session() -> SparkSession:
    builder = SparkSession.builder.appName("fedrad predict")
    if _BY_SPARK_SUBMIT not in os.environ:  # nobody has configured anything: this machine alone
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        builder = (
            builder.config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(_BATCH))
        )
    try:
        spark = builder.getOrCreate()
    except PySparkException as error:
        raise ConfigError(f"Spark does not start ({error.getCondition()}): it needs Java 17 or newer.") from None
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def _reason(error: PySparkException) -> ModelError:
    """An error of a worker; only what fedrad has said there, since other messages may quote a text."""
    said = re.findall(r"^fedrad\.errors\.\w+: (.*)$", str(error), re.MULTILINE)
    return ModelError(f"a Spark worker failed: {said[-1] if said else 'its log has the reason.'}")
