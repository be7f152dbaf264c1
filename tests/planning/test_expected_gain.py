"""What private training is expected to gain: from public figures alone, and only about the runs that were measured."""

from __future__ import annotations

import pytest

from fedrad.config import Experiment
from fedrad.planning.expected_gain import expected_gain, measured_for
from fedrad.training.recipe import Recipe
from fedrad.training.setup import plan_for

OPENI = {"data.name": "openi", "data.path": "/none"}


def gain(epsilon: float, declared: int = 2000) -> float:
    experiment = Experiment.from_flat({**OPENI, "privacy.epsilon": epsilon})
    recipe = Recipe.of(experiment, single_label=False, warm=True)
    return expected_gain(recipe, plan_for(experiment, declared)).new


def test_more_budget_and_more_reports_gain_more() -> None:
    gains = [gain(epsilon) for epsilon in (0.01, 0.1, 1.0, 10.0)]
    assert gains == sorted(gains)
    assert gains[0] < 0.005 < gains[-1]
    assert gain(1.0, 500) < gain(1.0, 2000) < gain(1.0, 8000)


def test_a_start_as_good_is_called_so() -> None:
    experiment = Experiment.from_flat({**OPENI, "privacy.epsilon": 0.01})
    recipe = Recipe.of(experiment, single_label=False, warm=True)
    found = expected_gain(recipe, plan_for(experiment, 500))
    assert not found.worthwhile
    assert "the start is as good" in str(found)


@pytest.mark.parametrize(
    "change",
    [
        {"privacy.epsilon": 0},
        {"train.warm-start": "none"},
        {"lora.targets": "query,value"},
        {"train.learning-rate": 4.0},
        {"train.optimizer": "adam", "train.learning-rate": 0.001},
        {"model.name": "prajjwal1/bert-small"},
        {"privacy.unit": "hospital"},
    ],
)
def test_no_figure_is_stated_of_runs_that_were_not_measured(change: dict[str, object]) -> None:
    assert measured_for(Experiment.from_flat(OPENI))
    assert not measured_for(Experiment.from_flat({**OPENI, **change}))
