"""What a plan says before training is what the run then does."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from fedrad.config import Experiment
from fedrad.errors import ConfigError, PlanError
from fedrad.federation.hospital_unit import central_plan
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec
from fedrad.model.shapes import shapes_of
from fedrad.planning import noise_to_signal as planning
from fedrad.planning.outlook import Outlook, outlook_of
from fedrad.settings import Strategy
from fedrad.training.setup import plan_for
from tests import small
from tests.model import tiny

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STRATEGIES = PROJECT["entry-points"]["fedrad.strategies"]


def outlook(declared: int | None = 900, labels: int | None = 14, **changes: object) -> Outlook:
    """Of the small experiment at an ordinary delta."""
    return outlook_of(
        small.experiment(**{"privacy__delta": 1e-5, "privacy__noise": "system", **changes}),
        declared=declared,
        labels=labels,
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_planner_counts_what_the_strategy_really_trains(name: str) -> None:
    module, _, kind = STRATEGIES[name].partition(":")
    strategy = getattr(import_module(module), kind)(Strategy())
    lora = LoRASpec(rank=3, alpha=8.0, targets=("all-linear",), layers=2)
    spec = ModelSpec(small.model_folder(), "", "mean")
    classifier = build(load_base(small.model_folder()), spec, strategy.shape(lora), len(small.LABELS), 0)
    sizes = {tensor_name: tensor.numel() for tensor_name, tensor in classifier.adapter().items()}

    trained = max(
        sum(sizes[tensor_name] for tensor_name in block)
        for number in (1, 2)
        for block in strategy.blocks(sizes, number)
    )
    shapes = shapes_of(small.model_folder(), "", lora)
    head = len(small.LABELS) * (shapes.hidden + 1)
    assert planning.trainable_numbers(strategy, lora, shapes.adapted, head) == trained


def test_a_decoder_has_no_head_to_train_alone(tmp_path: Path) -> None:
    base = tiny.save_decoder(tmp_path / "base", "llama")
    told = {"model__task": "causal-lm", "model__instruction": "x", "model__name": base, "data__name": "protocol"}
    seen = outlook(labels=None, lora__targets="query,value", **told)
    shapes = shapes_of(base, "", LoRASpec(2, 8.0, ("query", "value"), 2))
    assert seen.present.trainable == sum(2 * (rows + columns) for rows, columns in shapes.adapted)
    assert "head" not in {choice.strategy for choice in seen.offered}
    assert min(choice.trainable for choice in seen.offered) > 0
    assert "head" in {choice.strategy for choice in outlook().offered}  # control: of an encoder


def test_the_plan_is_the_one_that_the_run_would_make() -> None:
    seen = outlook()
    experiment = small.experiment(privacy__delta=1e-5, privacy__noise="system")

    assert seen.plan == plan_for(experiment, 900)
    assert seen.epsilon <= experiment.privacy.epsilon < seen.rdp
    assert seen.noise_per_step == seen.plan.noise_multiplier * seen.plan.clip / 16
    assert (seen.present.strategy, seen.present.rank) == ("fedavg", 2)
    assert seen.present.trainable == 2 * 4 * (32 + 32) + 14 * 33  # two layers, query and value
    assert seen.formula == planning.noise_to_signal(
        seen.present.trainable, epsilon=8.0, delta=1e-5, declared_size=900, hospitals=4
    )
    assert seen.formula_shared == pytest.approx(seen.formula / 2)
    assert seen.present.rho > seen.formula


def test_noise_is_counted_for_the_hospitals_that_a_round_asks() -> None:
    whole, half = outlook(), outlook(sites__fraction=0.5)

    assert half.hospitals == 2
    assert half.present.rho == pytest.approx(whole.present.rho * 2**0.5)
    assert half.plan == whole.plan  # a hospital may be in every round
    assert any("2 of 4 hospitals" in note for note in half.notes)


def test_a_noise_dominated_run_is_told_what_to_train_instead() -> None:
    loud = outlook(privacy__epsilon=0.05, train__batch=900)
    assert loud.verdict == "noise-dominated"
    assert loud.advised.strategy == "head"
    assert loud.advised.trainable == min(choice.trainable for choice in loud.offered)

    # With so many declared reports the head alone is at the threshold.
    enough = -(-loud.enough // 2)  # four hospitals: sqrt(4)
    there = outlook(declared=enough, privacy__epsilon=0.05, train__batch=enough, train__local_steps=20)
    assert there.advised.rho == pytest.approx(planning.BORDERLINE, rel=0.02)

    quiet = outlook(privacy__epsilon=8.0, train__batch=900)
    assert quiet.verdict == "fine"
    assert quiet.advised.trainable == max(choice.trainable for choice in quiet.offered)


def test_frozen_factors_and_no_targets_are_counted_as_they_are() -> None:
    def trained(**changes: object) -> tuple[int, int]:
        present = outlook(privacy__epsilon=8.0, **changes).present
        return present.trainable, present.rank

    head = 14 * 33
    assert trained(lora__freeze_a=True) == (2 * 4 * 32 + head, 2)
    assert trained(lora__targets="") == (head, 0)
    assert trained(strategy__name="head") == (head, 0)
    # What could be trained instead is then counted around the usual layers.
    offered = [c.strategy for c in outlook(lora__targets="").offered]
    assert list(dict.fromkeys(offered)) == ["head", "fedsb", "ffa", "rolora", "fedavg"]


def test_without_privacy_there_is_no_noise_and_no_promise() -> None:
    free = outlook(privacy__epsilon=0.0)

    assert (free.plan.private, free.noise_per_step, free.present.rho, free.formula) == (False, 0.0, 0.0, 0.0)
    assert free.epsilon == free.rdp == float("inf")


def test_the_size_comes_from_what_is_public() -> None:
    assert outlook(declared=None, data__declared_size=700).plan.declared_size == 700
    generated = outlook(declared=None, data__reports=3000)
    assert generated.plan.declared_size == 600
    assert any("about what each simulated hospital gets" in note for note in generated.notes)
    with pytest.raises(ConfigError, match="--reports: say how many reports"):
        outlook(declared=None, data__name="openi", data__path="/nowhere")
    with pytest.raises(ConfigError, match="--reports: say how many patients"):
        outlook(declared=None, privacy__unit="patient")
    with pytest.raises(ConfigError, match="--reports: a hospital declares 1 or more"):
        outlook(declared=0)


def test_patients_are_planned_as_units() -> None:
    seen = outlook(privacy__unit="patient")

    assert seen.plan.unit == "patient"
    assert seen.plan.noise_multiplier == outlook().plan.noise_multiplier


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({}, 14),
        ({"data.bank": "chest-ct"}, 18),
        ({"data.name": "ct-rate", "data.path": "/nowhere"}, 18),
        ({"data.name": "table", "data.path": "/nowhere", "data.label-columns": "a, b,c"}, 3),
    ],
)
def test_the_labels_are_those_of_the_corpus(settings: dict[str, object], labels: int) -> None:
    experiment = Experiment.from_flat({"model.name": small.model_folder(), "strategy.name": "head", **settings})

    assert outlook_of(experiment, declared=900).present.trainable == labels * 33
    assert outlook_of(experiment, declared=900, labels=5).present.trainable == 5 * 33


def test_labels_that_only_the_data_know_must_be_said() -> None:
    table = {"data__name": "table", "data__path": "/nowhere", "data__label_columns": "kind"}
    with pytest.raises(ConfigError, match="--labels: say how many classes"):
        outlook(labels=None, **table)
    with pytest.raises(ConfigError, match="--labels: a head has 1 or more"):
        outlook(labels=0)


def test_what_the_figures_do_not_say_is_noted() -> None:
    def notes(**changes: object) -> str:
        return " ".join(outlook(**changes).notes)

    assert notes() == ""
    assert "every step takes all" in notes(train__batch=5000)
    own = notes(sites__epsilons="1,2,3,8")
    assert "sites.epsilons" in own
    sigmas = [float(text) for text in own.split("noise multipliers ")[1].split(". ")[0].rstrip(".").split(", ")]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-1] == pytest.approx(outlook().plan.noise_multiplier, rel=1e-3)
    shared = {"privacy__secure_aggregation": True, "sites__quorum": 4}
    assert "changes no figure" in notes(**shared)
    shared |= {"privacy__shared_noise": True, "train__local_steps": 1, "train__momentum": 0.0, "train__average": 0.0}
    assert "1/sqrt(4) of it, and a single adapter is not private" in notes(**shared, train__learning_rate=0.5)
    assert "protects nobody" in notes(privacy__noise="seeded")


def test_a_plan_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(PlanError, match="must be below 1/declared size"):
        outlook(privacy__delta=0.5)


def test_for_whole_hospitals_it_says_what_the_servers_noise_would_be() -> None:
    with pytest.raises(PlanError, match=r"server noises the mean of 4 updates") as said:
        outlook(privacy__unit="hospital", privacy__delta=1e-3)
    experiment = small.experiment(privacy__unit="hospital", privacy__delta=1e-3)
    assert f"noise multiplier {central_plan(experiment).noise_multiplier:.4g}" in str(said.value)
