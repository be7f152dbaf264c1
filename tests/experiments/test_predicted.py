"""What runs keep of their test set: enough to score it again, and to see whether two runs can be paired."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedrad
from fedrad.evidence.paired import patient_counts, weighted_f1
from fedrad.evidence.predictions import Predictions, read_predictions
from fedrad.experiments.predicted import Predicted, predicted
from fedrad.simulation import centralized
from fedrad.training.corpus import read_corpus
from tests import small


def made_up(task: str, reports: int = 6) -> tuple[Predictions, Predicted]:
    draw = np.random.default_rng(0)
    kept = Predictions(
        rows=np.arange(reports) * 3,
        patients=[str(number) for number in np.arange(reports) // 2],
        names=("Edema", "Fracture"),
        labels=draw.integers(-1, 2, (reports, 2)).astype(np.int8),
        probabilities=draw.random((reports, 2)),
    )
    return kept, predicted(kept, task)


def test_the_task_decides() -> None:
    kept, several = made_up("multi-label")
    _, one = made_up("single-label")

    assert np.array_equal(several.decisions, kept.probabilities > 0.5)
    assert several.prior.all()
    assert np.array_equal(one.decisions.argmax(axis=1), kept.probabilities.argmax(axis=1))
    assert (one.decisions.sum(axis=1) == 1).all()
    assert (one.prior.sum(axis=1) == 1).all()
    assert np.array_equal(several.known, kept.labels >= 0)
    assert several.correct[~several.known].all()


def test_a_test_set_is_its_reports_patients_and_labels() -> None:
    _, one = made_up("multi-label")
    others = [
        replace(one, rows=one.rows + 1),
        replace(one, patients=np.arange(len(one))),
        replace(one, truth=~one.truth),
        replace(one, known=~one.known),
        replace(one, names=("Edema", "other")),
    ]

    assert replace(one, decisions=~one.decisions).test_set == one.test_set
    assert replace(one, patients=np.char.add("p", one.patients)).test_set == one.test_set  # their names do not matter
    assert all(other.test_set != one.test_set for other in others)


@pytest.mark.slow
def test_a_run_keeps_what_scores_it_again(tmp_path: Path) -> None:
    settings = {"data__bank": "chest-xray-icu", "data__reports": 200, "data__uncertain": "ignore"}
    settings |= {"lora__targets": "", "run__predictions": True, "run__out": str(tmp_path / "run")}
    experiment = small.experiment(**settings)
    _, run = centralized.train(experiment)
    result, corpus = json.loads((run / "result.json").read_text()), read_corpus(experiment)

    for name, figure in (("predictions", result), ("predictions-before", result["before"])):
        file = run / f"{name}.parquet"
        found = predicted(read_predictions(file), "multi-label")
        counts = patient_counts(found.decisions, found.truth, found.known, found.patients)
        assert weighted_f1(counts.sum(axis=0)) == pytest.approx(figure["weighted_f1"])
        assert np.array_equal(found.rows, corpus.test + 1)
        assert not found.known.all()  # masked labels are there
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    reports = corpus.reports.select(corpus.test)
    assert len(set(reports["patient"])) == len(set(found.patients.tolist())) < len(found)
    assert not set(reports["patient"]) & set(found.patients.tolist())  # numbers, not names
    last = read_predictions(run / "predictions.parquet")
    assert np.allclose(fedrad.Classifier.load(run).predict(reports["text"]), last.probabilities, atol=1e-5)


@pytest.mark.slow
def test_a_run_keeps_nothing_unless_asked(tmp_path: Path) -> None:
    _, run = centralized.train(
        small.experiment(data__bank="chest-xray", lora__targets="", run__out=str(tmp_path / "run"))
    )
    assert not list(run.glob("*.parquet"))
