"""What a user is told: about a plan before it costs anything, and about a result that isn't worth what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from fedrad.config import Experiment
from fedrad.corpora import CT_RATE
from fedrad.planning.noise_to_signal import Noise, noise_to_signal_of_steps
from fedrad.planning.notes import after_training, before_training, notes_on_plan
from fedrad.privacy.plan import PrivacyPlan
from fedrad.tasks.metrics import Comparison, Scores
from fedrad.training.setup import plan_for
from fedrad.training.strategy import strategy_of
from tests import small

TABLE = {
    "data__name": "table",
    "data__path": "/data/mine.csv",
    "data__label_columns": "effusion,cardiomegaly",
    "privacy__noise": "system",
    "privacy__delta": 1e-5,
    "privacy__epsilon": 3.0,
    "train__rounds": 5,
    "train__local_steps": 6,
    "train__batch": 128,
    "train__learning_rate": 0.0,
}
NAMES = ("effusion", "cardiomegaly")


def experiment(**changes: object) -> Experiment:
    return small.experiment(**{**TABLE, **changes})


def plan(declared: int = 3200, **changes: object) -> PrivacyPlan:
    return plan_for(experiment(**changes), declared)


def early(
    names: tuple[str, ...] = NAMES,
    *,
    plans: tuple[PrivacyPlan, ...] | None = None,
    positives: Mapping[str, int] | None = None,
    reports: int = 800,
    trainable: int = 770,
    **changes: object,
) -> tuple[str, ...]:
    """Notes on a run in which nothing is odd but what is passed."""
    return before_training(
        experiment(**changes),
        names,
        noise=Noise((plan(),) if plans is None else plans, averaged=1),
        trainable=trainable,
        row=385,
        positives=dict.fromkeys(names, 200) if positives is None else positives,
        reports=reports,
    )


KNOWN = ("Pleural Effusion", "Cardiomegaly")


def test_a_plan_in_order_needs_no_note() -> None:
    assert early(KNOWN) == ()


# Labels


def test_a_label_that_the_warm_start_does_not_know_is_named_with_the_one_it_may_mean() -> None:
    (note,) = early()

    assert note.startswith("The warm start does not know effusion, so that label starts cold.")
    assert 'If effusion is meant as "Pleural Effusion", rename the column so, in the file and in label-columns.' in note


def test_if_it_knows_none_the_run_starts_cold_and_says_what_there_is() -> None:
    (note,) = early(("oddity", "rarity"))

    assert "does not know oddity, rarity, so the run starts cold." in note
    assert "It knows Atelectasis, Cardiomegaly," in note


def test_a_label_is_not_offered_twice() -> None:
    (note,) = early(("effusion", "Pleural_Effusion"))

    assert "meant as" not in note


def test_labels_of_chest_ct_are_offered_where_the_others_are_of_it() -> None:
    (note,) = early(tuple(name if name != "Bronchiectasis" else "Bronchiectases" for name in CT_RATE))

    assert 'If Bronchiectases is meant as "Bronchiectasis", rename the column so' in note


def test_a_published_corpus_s_labels_are_known_and_nobody_is_asked_to_rename_them() -> None:
    assert early(CT_RATE, data__name="ct-rate") == ()
    (note,) = early((*CT_RATE, "Scar"), data__name="ct-rate")  # should one be added

    assert note == "The warm start does not know Scar, so that label starts cold."


@pytest.mark.parametrize("changes", [{"train__warm_start": "none"}, {"data__name": "synthetic"}])
def test_without_a_warm_start_its_labels_are_no_matter(changes: dict[str, object]) -> None:
    assert early(**changes) == ()


# Noise


def test_three_reports_do_not_train_quietly() -> None:
    (note,) = early(KNOWN, plans=(plan(3),), positives={"Pleural Effusion": 30, "Cardiomegaly": 30}, reports=30)[:1]

    assert note.startswith("Noise-dominated: with 3 declared reports the noise is ")
    assert "privacy.epsilon" in note


def test_a_label_with_too_few_positives_is_named_with_what_it_would_take() -> None:
    noise = Noise((plan(),), averaged=1)
    needed = math.ceil(noise.to_signal(385) * 128)
    share = needed / 128

    def rare(factor: float) -> tuple[str, ...]:
        count = round(100_000 * share * factor)
        return early(KNOWN, positives={"Pleural Effusion": count, "Cardiomegaly": 90_000}, reports=100_000)

    assert rare(1.02) == ()
    (note,) = rare(0.9 * (needed - 1) / needed)
    assert note.startswith("Too few positives to be learnt at this noise: Pleural Effusion (about ")
    assert f"needs about {needed} positives in a step of 128" in note
    assert "Cardiomegaly" not in note


def test_noise_beside_a_label_s_signal_is_what_a_simulation_of_it_finds() -> None:
    """rho of a label, against the drawn noise and the most that its drawn positives can add."""
    noise, row, share = Noise((plan(),), averaged=1), 40, 0.05
    steps, sigma = noise.plans[0].steps, noise.plans[0].noise_multiplier
    generator = np.random.default_rng(0)
    drawn = generator.normal(0, sigma, (200, steps, row)).sum(axis=1)
    positives = generator.poisson(128 * share, (200, steps)).sum(axis=1)
    measured = np.sqrt((drawn**2).sum(axis=1).mean()) / positives.mean()

    assert noise.to_signal(row) / share == pytest.approx(measured, rel=0.05)


def test_more_hospitals_are_less_noise_and_shared_noise_counts_as_what_each_adds() -> None:
    one = plan()

    assert Noise((one,) * 4, averaged=4).to_signal(385) == pytest.approx(Noise((one,), averaged=1).to_signal(385) / 2)
    assert Noise((one,), averaged=1).to_signal(385) == noise_to_signal_of_steps(
        385, noise_multiplier=one.noise_multiplier, batch=128, steps=30, hospitals=1
    )


def test_without_privacy_there_is_no_noise_to_speak_of() -> None:
    public = plan(3, privacy__epsilon=0.0)

    assert early(KNOWN, plans=(public,), privacy__epsilon=0.0) == ()


# The test set


def test_scores_of_few_reports_are_called_so() -> None:
    (note,) = early(KNOWN, positives=dict.fromkeys(KNOWN, 9), reports=12)

    assert note.startswith("Scores are of 12 reports only")


def test_a_label_that_no_evaluated_report_has_is_named() -> None:
    (note,) = early(KNOWN, positives={"Pleural Effusion": 0, "Cardiomegaly": 200})

    assert note.startswith("No evaluated report is positive for Pleural Effusion: F1 is 0 there")


def test_no_positive_at_all_is_said_too() -> None:
    (note,) = early(KNOWN, positives=dict.fromkeys(KNOWN, 0))

    assert note.startswith("No evaluated report is positive for any label: F1 is 0 whatever is predicted.")


def test_nobody_is_told_to_leave_out_every_label() -> None:
    (some,) = early(KNOWN, positives={"Pleural Effusion": 1, "Cardiomegaly": 400})
    (all_,) = early(KNOWN, positives=dict.fromkeys(KNOWN, 1))

    assert all(note.startswith("Too few positives to be learnt") for note in (some, all_))
    assert some.endswith("Take more reports or a larger privacy.epsilon, or leave it out.")
    assert all_.endswith("Take more reports or a larger privacy.epsilon.")


def test_without_a_test_set_nothing_is_said_of_it() -> None:
    assert early(KNOWN, positives={}, reports=0) == ()


def test_a_run_s_own_figures_are_put_together() -> None:
    ready = small.ready(small.experiment(train__warm_start="synthetic"))
    strategy = strategy_of(ready.experiment)
    notes = notes_on_plan(ready.experiment, ready.setup, strategy, Noise((ready.plan,), 1), ready.inputs)

    assert any("does not know Something that the generator does not know" in note for note in notes)
    assert notes == notes_on_plan(
        ready.experiment, ready.setup, strategy, Noise((ready.plan,), 1), replace(ready.inputs, pad_id=1)
    )
    assert not any(
        "Scores are of" in note
        for note in notes_on_plan(ready.experiment, ready.setup, strategy, Noise((ready.plan,), 1), None)
    )


# The result


def scores(weighted: float, **positives: int) -> Scores:
    return Scores({"weighted F1": weighted}, {"a": weighted}, positives or {"a": 30})


def late(
    before: float, after: float, prior: float = 0.1, changed: int = 9, epsilon: float = 2.9912, *, warm: bool = True
) -> tuple[str, ...]:
    compared = Comparison(scores(before), scores(prior), reports=80, changed=changed)
    return after_training(experiment(), scores(after), compared, epsilon=epsilon, warm=warm)


def test_a_result_that_is_worth_something_needs_no_note() -> None:
    assert late(0.4, 0.6) == ()


def test_a_phase_that_changed_no_decision_says_so() -> None:
    (note,) = late(0.4, 0.4, changed=0)

    assert note.startswith(
        "The private phase changed nothing: all decisions on the 80 evaluated reports are the same as before it."
        " Epsilon 2.992 was spent for nothing. After a warm start the step size falls"
    )
    assert "After a warm start" not in late(0.4, 0.4, changed=0, warm=False)[0]


@pytest.mark.parametrize("after", [0.4, 0.39])
def test_a_phase_that_gained_nothing_says_so(after: float) -> None:
    (note,) = late(0.4, after)

    assert note.startswith(
        f"The private phase gained nothing: weighted F1 went from 0.4000 before training to {after:.4f}."
    )


@pytest.mark.parametrize("changed", [1, 4, 5])
def test_a_gain_of_a_few_decisions_is_called_chance(changed: int) -> None:
    notes = late(0.4, 0.45, changed=changed)

    assert (notes == ()) == (changed == 5)
    assert all(
        "What the private phase changed may be chance: of the decisions on the 80 evaluated reports, only"
        f" {changed} differ from those before it." in note
        for note in notes
    )


@pytest.mark.parametrize("prior", [0.6, 0.7])
def test_a_result_no_better_than_the_prior_is_called_useless(prior: float) -> None:
    (note,) = late(0.4, 0.6, prior)

    assert f"no better than the label prior, which reads no text (weighted F1 0.6000 against {prior:.4f})" in note


def test_without_privacy_nothing_private_is_blamed() -> None:
    (note,) = late(0.4, 0.4, changed=0, epsilon=math.inf)

    assert note.startswith("Training changed nothing")
    assert "psilon" not in note
