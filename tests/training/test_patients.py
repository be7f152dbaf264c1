"""Patients as the unit, through the training loop: what a patient can change, and that both loops agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.batches import Tokenized
from fedrad.errors import ConfigError, PrivacyError
from fedrad.model.buckets import micro_batches
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import declared_size
from fedrad.privacy.units import Units
from fedrad.simulation.centralized import train
from fedrad.training import inputs, local, warm_start
from fedrad.training.corpus import read_corpus
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import TrainingState, run_steps
from fedrad.training.setup import Setup, plan_for, set_up, units_in
from fedrad.training.together import Member, run_steps_together
from tests import small
from tests.model import tiny


def of_patients(patients: Sequence[int], seed: int = 0) -> Tokenized:
    return replace(small.tokens(len(patients), seed=seed), patients=np.array(patients, dtype=np.int64))


def experiment(**changes: object) -> Experiment:
    return small.experiment(**{"privacy__unit": "patient", "privacy__reports_per_patient": 3, **changes})


def run(here: small.Ready, steps: int = 3) -> TrainingState:
    return run_steps(here.setup.classifier, here.inputs, here.plan, here.recipe, here.state, steps, site="site-000")


# What a patient can change


def summed(exp: Experiment, reports: Tokenized, declared: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The sum of a step in which everybody is sampled, before its noise."""
    sums: list[Tensor] = []

    class Watched(PrivateOptimizer):
        def add_noise(self) -> None:
            sums.extend(p.summed_grad.flatten().clone() for p in self.params)
            super().add_noise()

    monkeypatch.setattr(local, "PrivateOptimizer", Watched)
    here = small.ready(exp, reports, declared)
    assert here.plan.sampling_rate == 1.0
    run(here, 1)
    return torch.cat(sums)


def patient_moves(unit: str, many: int, engine: str = "leaf", clip: float = 0.05) -> float:
    """Change of the sum by a patient with so many reports, at a hospital that has four others with six reports."""
    exp = small.experiment(
        privacy__unit=unit,
        privacy__reports_per_patient=50,
        privacy__clip=clip,
        privacy__gradients=engine,
        train__batch=100,
    )
    reports = of_patients([0, 1, 1, 2, 2, 3, *[4] * many])
    # Their reports are copies, as follow-ups are: the worst case.
    copies = reports.select(np.array([*range(6), *[6] * many]))
    with pytest.MonkeyPatch.context() as patch:
        declared = 5 if unit == "patient" else len(copies)  # public, the same with and without the patient
        full, without = (summed(exp, r, declared, patch) for r in (copies, copies.select(np.arange(6))))
    return float((full - without).norm()) / clip


@pytest.mark.parametrize("engine", ["leaf", "opacus"])
@pytest.mark.parametrize("many", [1, 2, 50])
def test_a_whole_patient_changes_the_sum_by_at_most_the_clip_norm(many: int, engine: str) -> None:
    # the kept hidden states of the others differ by float32 rounding
    assert patient_moves("patient", many, engine) <= 1 + 1e-4


def test_negative_control_report_by_report_they_change_it_by_far_more() -> None:
    assert patient_moves("report", 1) <= 1 + 1e-4
    assert patient_moves("report", 50) > 40


# One computation, however it is cut


@pytest.mark.parametrize("micro_tokens", [1, 60, 100_000])
def test_micro_batches_change_nothing_but_rounding(micro_tokens: int) -> None:
    reports = of_patients(np.random.default_rng(0).integers(0, 12, 40).tolist())
    ends = [
        run(small.ready(experiment(train__micro_tokens=tokens, train__batch=6), reports, 12)).adapter
        for tokens in (128, micro_tokens)
    ]
    assert small.distance(*ends) < 1e-5


def test_with_one_report_each_patients_are_reports_to_the_bit() -> None:
    apart = of_patients(np.random.default_rng(1).permutation(40).tolist())
    ends = [run(small.ready(exp, apart)) for exp in (experiment(), small.experiment())]
    assert small.same(ends[0].adapter, ends[1].adapter)
    assert small.same(ends[0].moments, ends[1].moments)
    together = run(small.ready(experiment(), of_patients([i // 2 for i in range(40)]), 40))
    assert not small.same(together.adapter, ends[0].adapter)  # control: it would see a difference


def test_both_gradient_engines_agree() -> None:
    reports = of_patients([i % 9 for i in range(40)])
    ends = [run(small.ready(experiment(privacy__gradients=engine), reports, 16)) for engine in ("leaf", "opacus")]
    assert small.distance(ends[0].adapter, ends[1].adapter) < 1e-5


# Which reports are used


def test_every_step_draws_a_patient_s_reports_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[NDArray[np.int64]] = []

    def spy(
        lengths: NDArray[np.int64], rows: NDArray[np.int64], max_tokens: int, units: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        drawn.append(rows)
        found = micro_batches(lengths, rows, max_tokens, units=units)
        assert len({int(u) for batch in found for u in set(units[batch].tolist())}) == sum(
            len(set(units[batch].tolist())) for batch in found
        )
        return found

    monkeypatch.setattr(local, "micro_batches", spy)
    patients = np.array([i % 4 for i in range(40)])  # ten reports each, three used
    here = small.ready(experiment(train__batch=4), of_patients(patients.tolist()), 4)
    run(here, 6)
    assert [np.bincount(patients[rows]).tolist() for rows in drawn] == [[3, 3, 3, 3]] * 6
    assert len({tuple(rows.tolist()) for rows in drawn}) == 6


def test_without_patients_there_is_no_patient_level() -> None:
    here = small.ready(experiment())
    assert here.inputs.tokens.patients is None
    with pytest.raises(PrivacyError, match="patient of every report"):
        run(here, 1)


# All hospitals in one pass


@settings(max_examples=6, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 14), min_size=1, max_size=4),
    patients=st.integers(1, 8),
    seed=st.integers(0, 99),
    optimizer=st.sampled_from(["momentum", "adam"]),
)
def test_every_hospital_gets_what_it_gets_alone(sizes: list[int], patients: int, seed: int, optimizer: str) -> None:
    together, alone = both_ways(sizes, patients, seed, optimizer)
    for one, other in zip(together, alone, strict=True):
        assert small.distance(one.adapter, other.adapter) < (5e-3 if optimizer == "adam" else 2e-4)


def both_ways(
    sizes: list[int], patients: int, seed: int, optimizer: str
) -> tuple[list[TrainingState], list[TrainingState]]:
    exp = experiment(train__optimizer=optimizer, train__learning_rate=0.01, train__batch=4)
    setup = set_up(exp, small.TASK)
    classifier = tiny.randomise(setup.classifier)
    start = TrainingState({name: p.detach().clone() for name, p in classifier.adapter().items()})
    recipe = small.ready(exp).recipe
    generator = np.random.default_rng(seed)
    # The same numbers at every hospital: they are other people.
    shards = [of_patients(generator.integers(0, patients, n).tolist(), seed + i) for i, n in enumerate(sizes)]
    plan = plan_for(exp, 8)
    ends = np.cumsum([0, *sizes])
    members = [Member(f"site-{i:03}", int(ends[i]), int(ends[i + 1]), plan, start) for i in range(len(sizes))]
    together = run_steps_together(common(setup, shards), members, recipe, 3)
    alone = [
        run_steps(classifier, prepare(setup, own), plan, recipe, start, 3, site=member.site)
        for own, member in zip(shards, members, strict=True)
    ]
    return together, alone


def common(setup: Setup, shards: Sequence[Tokenized]) -> Inputs:
    lengths = np.concatenate([own.lengths for own in shards])
    joined = Tokenized(
        ids=np.concatenate([own.ids for own in shards]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.concatenate([own.labels for own in shards]),
        mask=np.concatenate([own.mask for own in shards]),
        patients=np.concatenate([own.patients for own in shards if own.patients is not None]),
    )
    return prepare(setup, joined)


def test_negative_control_a_loop_that_forgets_the_patients_gives_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, right = both_ways([14, 9], 3, 0, "momentum")
    monkeypatch.setattr(inputs, "units_of", lambda unit, n, patients: Units(np.arange(n), n))
    wrong, _ = both_ways([14, 9], 3, 0, "momentum")
    assert small.distance(wrong[0].adapter, right[0].adapter) > 2e-3


# A whole run


def test_a_centralized_run_counts_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", 40)
    exp = experiment(train__batch=8, run__out=str(tmp_path / "out"), data__reports=90)
    corpus = read_corpus(exp)
    patients = units_in(exp, corpus.reports, corpus.train)
    assert patients == len({corpus.reports[int(row)]["patient"] for row in corpus.train}) < len(corpus.train)
    result, directory = train(exp)
    figures = json.loads((directory / "result.json").read_text())
    assert figures["unit"] == "patient"
    assert figures["reports"]["declared"] == {"site-000": declared_size(patients)}
    assert "patient-level" in figures["statement"]
    assert 0 < result.epsilon_max <= 8.0


def test_a_table_without_a_patient_column_is_refused() -> None:
    """Every report would be a patient of its own, and the claim a report-level one under another name."""
    table = {"data__name": "table", "data__path": "/reports.csv", "data__label_columns": "a,b"}
    with pytest.raises(ConfigError, match=r"data\.patient-column: needed for privacy\.unit=patient"):
        experiment(**table)
    assert experiment(**table, data__patient_column="person").privacy.unit == "patient"
    assert experiment(**table, privacy__unit="report").data.patient_column == ""
