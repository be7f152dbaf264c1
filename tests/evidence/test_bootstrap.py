"""The figures under weights against sklearn, and that intervals cover and know patients."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from fedrad.evidence.bootstrap import Judged, bins_of, figures_of, interval, resampled


def judged(n: int = 300, labels: int = 4, seed: int = 0, patients: int = 0, ties: bool = False) -> Judged:
    """Made-up predictions that are somewhat right, some entries masked, some scores equal."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, labels)) < np.linspace(0.1, 0.5, labels)).astype(np.int8)
    probabilities = 1 / (1 + np.exp(-(1.5 * truth - 1 + rng.normal(size=(n, labels)))))
    probabilities = np.round(probabilities, 1) if ties else probabilities
    truth[rng.random((n, labels)) < 0.1] = -1
    who = np.unique(rng.integers(patients, size=n), return_inverse=True)[1] if patients else np.arange(n)
    return Judged(truth, probabilities, probabilities > 0.5, who)


@pytest.mark.parametrize("ties", [False, True])
def test_every_figure_is_sklearns_under_any_weights(ties: bool) -> None:
    case = judged(patients=120, ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, size=(3, case.count)).astype(float)
    found = figures_of(case, weights)
    for r, weight in enumerate(weights[:, case.patients]):
        for k in range(case.labels.shape[1]):
            kept = case.labels[:, k] >= 0
            truth, said, score, w = (
                a[kept] for a in (case.labels[:, k], case.decided[:, k], case.probabilities[:, k], weight)
            )
            assert found.precision[r, k] == pytest.approx(precision_score(truth, said, sample_weight=w))
            assert found.recall[r, k] == pytest.approx(recall_score(truth, said, sample_weight=w))
            assert found.f1[r, k] == pytest.approx(f1_score(truth, said, sample_weight=w))
            assert found.auroc[r, k] == pytest.approx(roc_auc_score(truth, score, sample_weight=w))
            assert found.average_precision[r, k] == pytest.approx(
                average_precision_score(truth, score, sample_weight=w)
            )
            off = sum(abs(np.sum((w * (score - truth))[bins_of(score) == b])) for b in range(10)) / w.sum()
            assert found.ece[r, k] == pytest.approx(off)


def test_the_overall_figures_are_sklearns() -> None:
    case = judged()
    case = Judged(np.abs(case.labels), case.probabilities, case.decided, case.patients)
    found = figures_of(case, np.ones((1, case.count)))
    for average in ("weighted", "micro", "macro"):
        expected = f1_score(case.labels, case.decided, average=average)
        assert vars(found)[f"{average}_f1"][0] == pytest.approx(expected)


def test_what_is_undefined_is_nan() -> None:
    labels = np.array([[0, 1, -1], [0, 1, -1]], dtype=np.int8)
    case = Judged(labels, np.full((2, 3), 0.4), np.zeros((2, 3), dtype=bool), np.arange(2))
    found = figures_of(case, np.ones((1, 2)))
    assert np.isnan(found.auroc).all()
    assert np.isnan(found.average_precision).tolist() == [[True, False, True]]
    assert np.isnan(found.f1).tolist() == [[True, False, True]]
    assert found.macro_f1.tolist() == [0]
    low, high = interval(found.auroc)
    assert np.isnan([low, high]).all()


def recall_of(truth: NDArray[np.bool_], patients: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """The interval of the recall of a label that all reports have, found where ``truth``."""
    labels = np.ones((len(truth), 1), dtype=np.int8)
    case = Judged(labels, np.full(labels.shape, 0.5), truth[:, None], patients)
    low, high = interval(resampled(case, 400, seed).recall)
    return float(low[0]), float(high[0])


def test_intervals_cover_a_known_answer_as_often_as_they_say() -> None:
    """Patients of 1 to 6 reports, in which the model is always right or always wrong: recall is 0.7. By patient, the
    95% interval covers it in about 95% of experiments; by report it is too short, and covers less."""
    rng = np.random.default_rng(5)
    by_patient = by_report = 0
    for experiment in range(200):
        patients = np.repeat(np.arange(80), rng.integers(1, 7, size=80))
        truth = (rng.random(80) < 0.7)[patients]
        low, high = recall_of(truth, patients, experiment)
        by_patient += low <= 0.7 <= high
        low, high = recall_of(truth, np.arange(len(truth)), experiment)
        by_report += low <= 0.7 <= high
    assert 180 <= by_patient <= 198  # 190 expected, standard deviation 3; percentile intervals fall a little short
    assert by_report < 170


def test_copies_of_a_patients_reports_are_no_evidence() -> None:
    case, twice = judged(patients=100), np.tile(np.arange(300), 2)
    copied = Judged(case.labels[twice], case.probabilities[twice], case.decided[twice], case.patients[twice])
    alone = Judged(*(a[twice] for a in (case.labels, case.probabilities, case.decided)), patients=np.arange(600))
    for name in ("f1", "auroc", "average_precision", "ece", "precision", "recall"):
        once, again, unaware = (vars(resampled(c, 500, 3))[name] for c in (case, copied, alone))
        assert np.allclose(once, again)
        width = np.subtract(*interval(once)[::-1]).mean()
        assert np.subtract(*interval(unaware)[::-1]).mean() < 0.85 * width  # control: by report they would shrink


def test_a_resample_without_the_few_positives_of_a_label_does_not_count_as_a_miss() -> None:
    labels = np.zeros((60, 2), dtype=np.int8)
    labels[:2, 0] = labels[:30, 1] = 1
    case = Judged(labels, labels.astype(float), labels == 1, np.arange(60))  # all is right
    drawn = resampled(case, 400, 0)
    assert np.isnan(drawn.f1[:, 0]).any()  # control: there are such resamples
    assert np.concatenate(interval(drawn.f1)).tolist() == [1, 1, 1, 1]
    assert (drawn.macro_f1 == 1).all()


def test_resampling_is_repeatable_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    case = judged(n=50)
    assert np.array_equal(resampled(case, 60, 1).f1, resampled(case, 60, 1).f1)
    assert not np.array_equal(resampled(case, 60, 1).f1, resampled(case, 60, 2).f1)
    whole = resampled(case, 60, 1).f1
    monkeypatch.setattr("fedrad.evidence.bootstrap._AT_ONCE", 7)
    assert np.array_equal(whole, resampled(case, 60, 1).f1)
