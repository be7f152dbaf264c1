"""Files of predictions: what a run keeps of its test set, and that it is enough to score it again."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fedrad
from fedrad.errors import DataError
from fedrad.evidence.paired import patient_counts, weighted_f1
from fedrad.evidence.predictions import SINGLE_LABEL, Predictions, read_predictions, write_predictions
from fedrad.simulation import centralized
from fedrad.training.corpus import read_corpus
from tests import small


def made_up(reports: int = 5) -> Predictions:
    draw = np.random.default_rng(0)
    return Predictions(
        rows=np.arange(reports) * 3,
        patients=np.arange(reports) // 2,
        names=("Edema", "Lung: opacity"),
        truth=draw.random((reports, 2)) < 0.5,
        known=draw.random((reports, 2)) < 0.8,
        probabilities=draw.random((reports, 2)).astype(np.float32),
    )


def test_a_file_reads_back(tmp_path: Path) -> None:
    before = made_up()
    write_predictions(tmp_path / "p.parquet", before)
    after = read_predictions(tmp_path / "p.parquet")

    assert stat.S_IMODE((tmp_path / "p.parquet").stat().st_mode) == 0o600
    assert pq.read_table(tmp_path / "p.parquet").column_names == [
        "row",
        "patient",
        *("label:Edema", "label:Lung: opacity"),
        *("probability:Edema", "probability:Lung: opacity"),
    ]
    for name in ("rows", "patients", "known", "probabilities", "decisions", "correct"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert (after.names, after.task) == (before.names, before.task)
    assert np.array_equal(after.truth, before.truth & before.known)  # what is masked has no label


def test_the_task_decides() -> None:
    several = made_up()
    one = replace(several, task=SINGLE_LABEL)

    assert np.array_equal(several.decisions, several.probabilities > 0.5)
    assert (one.decisions.sum(axis=1) == 1).all()


def test_a_test_set_is_its_reports_patients_and_labels() -> None:
    one = made_up()
    others = [
        replace(one, rows=one.rows + 1),
        replace(one, patients=one.patients[::-1].copy()),
        replace(one, truth=~one.truth),
        replace(one, known=~one.known),
        replace(one, names=("Edema", "other")),
    ]

    assert replace(one, probabilities=1 - one.probabilities).test_set == one.test_set
    assert replace(one, patients=one.patients + 7).test_set == one.test_set  # their names do not matter
    assert all(other.test_set != one.test_set for other in others)


@pytest.mark.parametrize("missing", ["row", "patient", "probability:Edema", "label:Edema"])
def test_a_file_that_lacks_a_column_is_refused(tmp_path: Path, missing: str) -> None:
    columns = {"row": [0], "patient": [0], "label:Edema": [True], "probability:Edema": [0.5]}
    pq.write_table(pa.table({k: v for k, v in columns.items() if k != missing}), tmp_path / "p.parquet")

    with pytest.raises(DataError, match=missing.replace("Edema", "(Edema|NAME)")):
        read_predictions(tmp_path / "p.parquet")
    with pytest.raises(DataError, match="predictions=true"):
        read_predictions(tmp_path / "nothing.parquet")


@pytest.mark.slow
def test_a_run_keeps_what_scores_it_again(tmp_path: Path) -> None:
    settings = {
        "data__bank": "chest-xray-icu",
        "data__reports": 200,
        "data__uncertain": "ignore",
        "run__predictions": True,
    }
    experiment = small.experiment(**settings, lora__targets="", run__out=str(tmp_path / "run"))
    _, run = centralized.train(experiment)
    result, corpus = json.loads((run / "result.json").read_text()), read_corpus(experiment)

    for name, figure in (("predictions", result), ("predictions-before", result["before"])):
        found = read_predictions(run / f"{name}.parquet")
        counts = patient_counts(found.decisions, found.truth, found.known, found.patients)
        assert weighted_f1(counts.sum(axis=0)) == pytest.approx(figure["weighted_f1"])
        assert np.array_equal(found.rows, corpus.test)
        assert not found.known.all()  # masked labels are there
    reports = corpus.reports.select(corpus.test)
    assert len(set(reports["patient"])) == len(set(found.patients.tolist())) < len(found)
    last = read_predictions(run / "predictions.parquet")
    assert np.allclose(fedrad.Classifier.load(run).predict(reports["text"]), last.probabilities, atol=1e-5)


@pytest.mark.slow
def test_a_run_keeps_nothing_unless_asked(tmp_path: Path) -> None:
    _, run = centralized.train(
        small.experiment(data__bank="chest-xray", lora__targets="", run__out=str(tmp_path / "run"))
    )
    assert not list(run.glob("*.parquet"))
