from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, multilabel_confusion_matrix

from fedrad.errors import DataError
from fedrad.evidence.bootstrap import Judged
from fedrad.evidence.predictions import Predictions, read_predictions, write_predictions
from fedrad.evidence.scores import best_thresholds, scores
from tests.evidence.test_bootstrap import judged

NAMES = ("a", "b", "c", "d")


def test_counts_curves_and_intervals() -> None:
    case = judged(patients=150)
    whole = Judged(np.abs(case.labels), case.probabilities, case.decided, case.patients)
    found = scores(NAMES, whole, thresholds=[0.5] * 4, resamples=300)
    for k, label in enumerate(found.labels):
        cells = [[label.tn, label.fp], [label.fn, label.tp]]
        assert cells == multilabel_confusion_matrix(whole.labels, whole.decided)[k].tolist()
        assert label.f1.value == pytest.approx(f1_score(whole.labels[:, k], whole.decided[:, k]))
        share, mean = calibration_curve(whole.labels[:, k], whole.probabilities[:, k], n_bins=10)
        assert [b.share_positive for b in label.reliability] == pytest.approx(share)
        assert [b.mean_probability for b in label.reliability] == pytest.approx(mean)
        for figure in (label.precision, label.recall, label.f1, label.auroc, label.average_precision):
            assert figure.low < figure.value < figure.high
    assert found.weighted_f1.low < found.weighted_f1.value < found.weighted_f1.high
    assert found.weighted_f1.value == pytest.approx(f1_score(whole.labels, whole.decided, average="weighted"))


def test_without_positives_or_patients_there_is_no_figure() -> None:
    labels = np.array([[0, -1], [0, -1]], dtype=np.int8)
    found = scores(
        ("a", "b"), Judged(labels, np.full((2, 2), 0.6), labels == 0, np.zeros(2, int)), thresholds=[0.5, 0.5]
    )
    assert (found.resamples, found.patients) == (0, 1)
    assert found.labels[0].auroc.value is None
    assert (found.labels[0].fp, found.labels[0].precision.value, found.labels[0].f1.low) == (2, 0, None)
    assert (found.labels[1].reports, found.labels[1].f1.value, found.labels[1].reliability) == (0, None, ())


def test_the_best_threshold_is_the_best_of_all() -> None:
    case = judged(ties=True)
    chosen = best_thresholds(case.labels, case.probabilities)
    for k, threshold in enumerate(chosen):
        kept = case.labels[:, k] >= 0
        truth, predicted = case.labels[kept, k], case.probabilities[kept, k]
        every = [f1_score(truth, predicted > t) for t in np.linspace(0, 1, 201)]
        assert f1_score(truth, predicted > threshold) == pytest.approx(max(every))


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_predictions_are_read_back(tmp_path: Path, name: str) -> None:
    labels = np.array([[1, 0], [-1, 1]], dtype=np.int8)
    names = ('odd, "name"', "b")
    written = Predictions(np.array([1, 7]), ("007", "x,y"), names, labels, np.array([[0.1, 1 / 3], [1e-9, 1.0]]))
    write_predictions(written, tmp_path / name)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    found = read_predictions(tmp_path / name)
    assert (found.names, list(found.patients), found.rows.tolist()) == (names, ["007", "x,y"], [1, 7])
    assert np.array_equal(found.labels, labels)
    assert np.array_equal(found.probabilities, written.probabilities)
    with pytest.raises(DataError, match="exists already"):
        write_predictions(written, tmp_path / name)
    (tmp_path / "other.csv").write_text("text\nzyzzyva\n")
    with pytest.raises(DataError, match="is no file of predictions") as error:
        read_predictions(tmp_path / "other.csv")
    assert "zyzzyva" not in str(error.value)
