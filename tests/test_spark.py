"""Prediction on a real Spark with two workers: what one process predicts, row by row."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedrad.cli.app import app as cli
from fedrad.errors import ConfigError
from fedrad.tasks.classifier import Classifier
from tests import protocol_run, small

pd = pytest.importorskip("pandas")  # Spark looks up the annotations of a UDF here
pytest.importorskip("pyspark", reason="the extra spark is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")]

SECRET = "zyzzyva"
NOTES = [f"{protocol_run.NOTES[k % 4]} {'left ' * (k % 5)}case {k}." for k in range(40)]
NOTES[7], NOTES[8] = "", "Not given."


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:  # a JVM that starts fast, since it does little
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        quick = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
        patch.setenv("PYSPARK_SUBMIT_ARGS", f"--driver-java-options '{quick}' pyspark-shell")
        builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.sql.codegen.wholeStage", "false").config("spark.sql.adaptive.enabled", "false")
        builder = builder.config("spark.sql.shuffle.partitions", "2")
        session = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "3").getOrCreate()
        yield session
        session.stop()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return protocol_run.untrained(tmp_path_factory.mktemp("decoder"), decoder=True)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.untrained_run(tmp_path_factory.mktemp("reports"))


def expected(run: Path) -> Any:
    """One process's probabilities, NaN where there is no text."""
    there = [k for k in range(40) if k not in (7, 8)]
    classifier = Classifier.load(run)
    found = np.full((40, len(classifier.labels)), np.nan)
    found[there] = classifier.predict([NOTES[k] for k in there])
    return found


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)])


@pytest.mark.parametrize("kind", ["decoder", "reports"])
def test_a_column_of_texts_becomes_a_column_of_predictions(
    spark: Any, kind: str, request: pytest.FixtureRequest
) -> None:
    from fedrad.spark import predict_udf

    run, plain = request.getfixturevalue(kind), None
    plain = expected(run)
    middle = float(np.nanmedian(plain.max(axis=1))) if kind == "decoder" else 0.0
    udf = predict_udf(run, abstain_below=middle, generate=3 if kind == "decoder" else 0)
    rows = [(k, note or None) for k, note in enumerate(NOTES)]
    frame = spark.createDataFrame(rows, "id int, note string").repartition(3)
    found = frame.select("id", udf("note").alias("p")).select("id", "p.*").orderBy("id")
    labels = protocol_run.LABELS if kind == "decoder" else small.LABELS
    said = ["answer", "generated"] if kind == "decoder" else []
    assert found.columns == ["id", *said, *labels]  # the note is read and not there
    table = found.toArrow()
    assert table.column("id").to_pylist() == list(range(40))
    values = np.stack([column.to_numpy(zero_copy_only=False) for column in table.columns[1 + len(said) :]], axis=1)
    np.testing.assert_allclose(values, plain, atol=1e-5)
    assert [name for name in labels if table.column(name).null_count != 2] == []
    if kind == "decoder":
        best = np.nanmax(np.nan_to_num(plain), axis=1)
        answers = [
            labels[row.argmax()] if sure >= middle else None
            for row, sure in zip(np.nan_to_num(plain), best, strict=True)
        ]
        clear = [k for k in range(40) if abs(best[k] - middle) > 1e-4]
        assert [table.column("answer")[k].as_py() for k in clear] == [answers[k] for k in clear]
        assert 10 < table.column("answer").null_count < 30
        free = Classifier.load(run).generate([NOTES[0], NOTES[39]], 3)
        assert [table.column("generated")[k].as_py() for k in (0, 39)] == free


def test_a_worker_loads_the_model_once(spark: Any, decoder: Path) -> None:
    from pyspark.sql.functions import pandas_udf

    from fedrad import spark as module

    folder = decoder / "adapter"
    files = tuple((path.name, path.read_bytes()) for path in sorted(folder.iterdir()))
    packed, cached = module._Packed(files, None, "cpu"), module._classifier

    def loads(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for batch in batches:
            before = cached.cache_info().misses
            cached(packed)
            yield pd.Series([cached.cache_info().misses - before, *[0] * (len(batch) - 1)])

    udf = pandas_udf(loads, "long")
    found = [row[0] for row in spark.range(64).repartition(8).select(udf("id")).collect()]
    # Two workers, and one more in place of a worker that died. Without the cache: once in each of 8 tasks.
    assert 1 <= sum(found) <= 3
    assert len(found) == 64


def test_the_command_writes_what_one_process_writes(
    spark: Any, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrad.predict._SPARK_ROWS", 16)  # three rounds
    file = tmp_path / "r.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(
            [["id", "text"], *([k, f"{note} {SECRET}" if note else ""] for k, note in enumerate(NOTES))]
        )
    one, many = (
        call(decoder, file, "--generate", 3),
        call(decoder, file, tmp_path / "o.csv", "--generate", 3, "--engine", "spark"),
    )
    assert (one.exit_code, many.exit_code) == (0, 0), many.output
    assert many.stderr == one.stderr
    assert "1 of 40 rows have no text (rows 8)" in many.stderr
    left, right = (
        list(csv.reader(one.stdout.splitlines())),
        list(csv.reader((tmp_path / "o.csv").read_text().splitlines())),
    )
    assert [row[:3] for row in left] == [row[:3] for row in right]
    numbers = [np.array([row[3:] for row in rows[1:] if row[3]], dtype=float) for rows in (left, right)]
    np.testing.assert_allclose(*numbers, atol=1e-5)
    assert right[8][1:] == [""] * 7
    assert SECRET not in (tmp_path / "o.csv").read_text()
    assert (tmp_path / "o.csv").stat().st_mode & 0o077 == 0


def test_what_a_worker_can_not_do_is_said_and_no_text(spark: Any, tmp_path: Path) -> None:
    run = protocol_run.untrained(tmp_path / "run", decoder=True)
    shutil.rmtree(run / "base")
    file = tmp_path / "r.csv"
    file.write_text(f"text\n{SECRET}\n")
    shown = call(run, file, tmp_path / "o.csv", "--engine", "spark")
    assert shown.exit_code == 4
    assert "a Spark worker failed: " in shown.stderr
    assert str(run / "base") in shown.stderr
    assert SECRET not in shown.stderr
    assert not (tmp_path / "o.csv").exists()


def test_what_does_not_go_with_the_task_is_refused_before_spark_runs(reports: Path) -> None:
    from fedrad.spark import predict_udf

    with pytest.raises(ConfigError, match="are independent"):
        predict_udf(reports, abstain_below=0.5)


def test_texts_are_privatised_where_spark_holds_them(spark: Any) -> None:
    """A privatiser travels as a broadcast variable; each row has a draw of its own, whatever worker makes it."""
    from pyspark.sql.functions import pandas_udf

    from fedrad.privatise.budgets import Choice
    from fedrad.privatise.embeddings import load_table
    from fedrad.privatise.privatiser import Privatiser

    sent = spark.sparkContext.broadcast(Privatiser(load_table(), Choice(1.0, "private-both"), "chest"))

    @pandas_udf("string")
    def privatised(texts: pd.Series) -> pd.Series:
        return pd.Series(sent.value.texts(texts.tolist()))

    frame = spark.createDataFrame([("No pneumothorax, seen by Dr. Kowalska",)] * 24, "note string").repartition(4)
    found = [row[0] for row in frame.select(privatised("note")).collect()]
    assert {text.startswith("no pneumothorax, seen by") for text in found} == {True}  # what the profile keeps
    assert len(set(found)) == 24
