"""What private training is expected to gain: from public figures alone, and only about the runs that were measured."""

from __future__ import annotations

import pytest

from fedrad.config import Experiment
from fedrad.planning.expected_gain import HEAD, LAST_LAYER, ExpectedGain, curve_of, expected_gain
from fedrad.training.setup import plan_for

OPENI = {"data.name": "openi", "data.path": "/none"}


def expected(epsilon: float, declared: int) -> ExpectedGain:
    experiment = Experiment.from_flat({**OPENI, "privacy.epsilon": epsilon})
    found = expected_gain(experiment, plan_for(experiment, declared))
    assert found is not None
    return found


def gain(epsilon: float, declared: int = 2000) -> float:
    return expected(epsilon, declared).new


def test_more_budget_and_more_reports_gain_more() -> None:
    gains = [gain(epsilon) for epsilon in (0.01, 0.1, 1.0, 10.0)]
    assert gains == sorted(gains)
    assert gains[0] < 0.005 < gains[-1]
    assert gain(1.0, 500) < gain(1.0, 2000) < gain(1.0, 8000)


def test_a_start_as_good_is_called_so() -> None:
    found = expected(0.01, 500)
    assert not found.worthwhile
    assert "the start is as good" in str(found)


@pytest.mark.parametrize(
    "change",
    [
        {"privacy.epsilon": 0},
        {"train.warm-start": "none"},
        {"lora.targets": "query,value"},
        {"train.learning-rate": 4.0},
        {"train.momentum": 0.0},
        {"train.optimizer": "adam", "train.learning-rate": 0.001},
        {"model.name": "prajjwal1/bert-small"},
        {"privacy.unit": "hospital"},
    ],
)
def test_no_figure_is_stated_of_runs_that_were_not_measured(change: dict[str, object]) -> None:
    assert curve_of(Experiment.from_flat(OPENI)) is HEAD
    assert curve_of(Experiment.from_flat({**OPENI, **change})) is None


@pytest.mark.parametrize(
    ("declared", "epsilon", "lora"), [(1000, 1.0, True), (10_000, 0.1, True), (999, 8.0, False), (0, 8.0, False)]
)
def test_auto_trains_lora_where_the_stated_size_is_large_enough_for_the_budget(
    declared: int, epsilon: float, lora: bool
) -> None:
    experiment = Experiment.from_flat({**OPENI, "data.declared-size": declared, "privacy.epsilon": epsilon})
    assert experiment.adapted.targets == (("all-linear",) if lora else ())
    assert (experiment.local_steps, experiment.expected_batch(5000)) == ((12, 256) if lora else (6, 1250))
    assert curve_of(experiment) is (LAST_LAYER if lora else HEAD)


def test_auto_keeps_the_head_alone_where_lora_was_not_measured() -> None:
    for change in ({"privacy.unit": "patient"}, {"strategy.name": "head"}):
        known = {"data.name": "mimic-cxr", "data.path": "/none", "data.declared-size": 100_000}
        experiment = Experiment.from_flat({**known, **change})
        assert experiment.adapted.targets == ()
