"""The attacks find what is there to find, and nothing where there is nothing; attack risk is the known one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedrad.audit import risk
from fedrad.audit.membership import attack_membership, confidence_of, offline_scores, success
from fedrad.audit.retrieval import attack_round, gradients_of, top_one
from fedrad.audit.subsets import Pool, losses_of, part_of, plan_at, pool_of, trained_on
from fedrad.errors import ConfigError
from fedrad.privacy.accounting import Event, epsilon
from fedrad.training.inputs import prepare
from fedrad.training.setup import set_up
from tests import small
from tests.audit.stages import of_decoder


@pytest.fixture(scope="module")
def pool() -> Pool:
    changes = {"data__reports": 200, "train__learning_rate": 0.0, "train__warm_start": "none", "sites__count": 1}
    return pool_of(small.experiment(**changes, privacy__delta=1e-5, train__local_steps=30), 150, at_least=40)


def test_a_model_s_confidence_is_the_logit_of_the_labels_probability() -> None:
    probability = np.array([0.01, 0.5, 0.99])
    assert confidence_of(-np.log(probability)) == pytest.approx(np.log(probability / (1 - probability)))
    assert np.isfinite(confidence_of(np.array([0.0, 100.0]))).all()


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_membership_is_found_as_far_as_confidence_tells_it(shift: float) -> None:
    """Confidence is N(a report's own mean, 1), and higher by ``shift`` where the model was trained on it."""
    generator = np.random.default_rng(0)
    members = generator.random((16, 400)) < 0.5
    confidences = 5 * generator.normal(size=400) + shift * members + generator.normal(size=members.shape)
    found = success(offline_scores(confidences, members), members)
    # The mean of about 7.5 others is known with an error of 1 / sqrt(7.5).
    best = stats.norm.cdf(shift / np.sqrt(2) / np.sqrt(1 + 1 / 7.5))
    assert found["AUC"] == pytest.approx(best, abs=0.03)
    # Control: the confidence alone, without shadow models, tells far less, since reports differ.
    assert success(confidences, members)["AUC"] < 0.5 + (best - 0.5) / 2 + 0.02


def test_a_report_that_too_few_others_are_without_has_no_score() -> None:
    members = np.array([[True, True], [True, False], [False, False], [False, False]])
    scores = offline_scores(np.arange(8.0).reshape(4, 2), members)
    assert np.isnan(scores).tolist() == [[False, False], [False, False], [True, False], [True, False]]


@pytest.mark.slow
def test_training_without_privacy_tells_more_than_training_with_it() -> None:
    """Random tokens with random labels can only be learnt by heart."""
    changes = {"train__local_steps": 30, "train__learning_rate": 0.5, "train__batch": 12, "train__micro_tokens": 4000}
    experiment = small.experiment(privacy__delta=1e-5, lora__targets="", **changes)
    setup = set_up(experiment, small.TASK)
    pool = Pool(experiment, setup, setup.classifier.state(), prepare(setup, small.tokens(24)))
    bare, private = (attack_membership(pool, epsilon, models=8) for epsilon in (0.0, 0.5))
    assert (bare["epsilon"], private["epsilon"]) == (None, 0.5)
    assert private["AUC"] < 0.65 < 0.8 < bare["AUC"]
    bare, private = (attack_round(pool, epsilon, shard=4, candidates=10, repeats=6) for epsilon in (0.0, 0.5))
    assert private["top-1"] < 0.3 < 0.5 < bare["top-1"]


def test_the_candidate_with_the_largest_similarity_is_taken() -> None:
    similarity, shard = np.linspace(0, 1, 50), np.array([48, 49])
    assert top_one(similarity, shard, 10, seed=0) == 1.0
    assert top_one(-similarity, shard, 10, seed=0) == 0.0
    chance = [top_one(np.random.default_rng(k).random(50), np.arange(10), 10, seed=k) for k in range(200)]
    assert np.mean(chance) == pytest.approx(0.1, abs=0.03)


def test_a_part_of_a_pool_is_its_reports(pool: Pool) -> None:
    """Of ragged hidden states and of pooled vectors."""
    pool.setup.classifier.load_state(pool.state)
    rows = np.array([3, 7, 149])
    assert pool.inputs.kept is not None
    assert losses_of(part_of(pool.inputs, rows)) == pytest.approx(losses_of(pool.inputs)[rows], rel=1e-5)
    assert losses_of(part_of(replace(pool.inputs, kept=None), rows)) == pytest.approx(
        losses_of(pool.inputs)[rows], rel=1e-4
    )


def test_other_units_and_too_few_reports_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.unit=report"):
        pool_of(small.experiment(privacy__unit="patient"), 10, at_least=1)
    with pytest.raises(ConfigError, match="needs 500 training reports"):
        pool_of(small.experiment(), 10, at_least=500)


def test_the_risk_of_gaussian_noise_is_the_known_one() -> None:
    """Dong, Roth and Su: advantage 2 Phi(mu/2) - 1, true positive rate Phi(Phi^-1(alpha) + mu)."""
    pytest.importorskip("riskcal")
    for mu in (0.3, 1.0, 2.0):
        found = risk.attack_risk([Event(1.0, 2 / mu, 1), Event(1.0, 2 / mu, 3)])  # four quarters of mu^2
        assert found["advantage"] == pytest.approx(2 * stats.norm.cdf(mu / 2) - 1, rel=5e-3)
        for rate, name in ((0.01, "TPR at 1.0% FPR"), (0.001, "TPR at 0.1% FPR")):
            assert found[name] == pytest.approx(stats.norm.cdf(stats.norm.ppf(rate) + mu), rel=2e-2)


def test_the_profile_agrees_with_the_accountant(pool: Pool) -> None:
    plan = plan_at(pool, 100, 2.0)
    events = [plan.event(plan.steps)]
    spent = epsilon(events, plan.delta)
    assert risk.profile(events, [spent])[f"delta at epsilon {spent:g}"] == pytest.approx(plan.delta, rel=0.02)


def test_without_riskcal_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fedrad\[audit\]'"):
        risk.require_riskcal()


def test_a_decoder_s_notes_are_attacked_by_the_loss_of_their_answers() -> None:
    pool = pool_of(of_decoder(), 40, at_least=40)
    before, rows = losses_of(pool.inputs), np.arange(20)
    assert gradients_of(pool).norm(dim=1).numpy() == pytest.approx(np.ones(40), rel=1e-5)
    pool.setup.classifier.load_adapter(trained_on(pool, rows, 0.0, seed=0))
    assert (before - losses_of(pool.inputs))[rows].mean() > 0
