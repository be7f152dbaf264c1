"""Settings that exclude each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedrad.config import Experiment, _unchecked
from fedrad.errors import ConfigError
from fedrad.keys import KEYS, SECTIONS, parse_overrides
from fedrad.rules import WAYS, documented_rules
from tests.settings_given import problems


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.name=openi"], "data.path"),
        (["sites.epsilons=1,2"], "sites.epsilons"),
        (["privacy.epsilon=0", "sites.epsilons=1,1,1,1"], "sites.epsilons"),
        (["sites.fraction=0.5", "sites.quorum=3"], "sites.quorum"),
        (["privacy.epsilon=0", "strategy.weights=inverse-variance"], "strategy.weights"),
        (["privacy.unit=hospital", "strategy.weights=declared"], "strategy.weights"),
        (["data.name=table", "data.path=x.csv"], "data.label-columns"),
        (["data.name=none"], "data.label-columns"),
        (["data.name=table", "data.path=x.csv", "data.label-columns=a", "sites.partition=by-site"], "data.site-column"),
        (
            ["data.name=table", "data.path=x.csv", "data.label-columns=a", "sites.partition=temporal"],
            "data.time-column",
        ),
        (["sites.count=3", "sites.quorum=4"], "sites.quorum"),
        (["lora.targets=[]", "lora.freeze-a=true"], "lora.freeze-a"),
        (["model.revision=abc"], "model.revision"),
        (["data.name=openi", "data.path=/x", "privacy.unit=patient"], "privacy.unit"),
        (["strategy.name=fedavgg"], "strategy.name"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], key: str) -> None:
    (found,) = problems(*overrides)

    assert found.startswith(key)


BROKEN = (
    "run.resume=true",
    "sites.alone=5",
    "data.name=openi",
    "data.name=none data.path=/x",  # and no labels
    "data.classes=a,b",
    "data.privatise=drop",
    "data.privatise-epsilon=5",
    "data.name=table sites.partition=by-site privacy.unit=patient",
    "data.name=table sites.partition=temporal",
    "data.name=openi privacy.unit=patient",
    "sites.quorum=9",
    "sites.epsilons=1 sites.deltas=1e-5 sites.batches=4 sites.ranks=2 privacy.epsilon=0",
    "strategy.weights=inverse-variance privacy.epsilon=0",
    "model.pooling=cls train.warm-start=synthetic model.revision=abc",
    "model.task=causal-lm model.pooling=cls train.warm-start=synthetic lora.targets=",
    "model.quantize=nf4 model.shots=8 model.loss=text privacy.gradients=opacus train.checkpointing=true",
    "lora.targets= lora.freeze-a=true strategy.name=rolora",
    "train.precision=bfloat16 privacy.gradients=opacus train.optimizer=adam",
    "sites.ranks=2,4 lora.rank=2 strategy.name=flora privacy.unit=hospital",
    "sites.count=1 sites.epsilons=1 sites.deltas=1e-5 strategy.weights=declared privacy.unit=hospital",
    "privacy.secure-aggregation=true privacy.unit=hospital sites.count=2 strategy.name=fedex strategy.weights=declared",
    "privacy.secure-aggregation=true privacy.colluders=3",
    "privacy.secure-aggregation=true sites.quorum=2",
    "privacy.shared-noise=true privacy.colluders=1 sites.epsilons=1 sites.deltas=1e-5 sites.batches=4",
    "privacy.shared-noise=true privacy.epsilon=0 train.optimizer=adam",
    "strategy.name=fedavgm",
    "strategy.name=refactor strategy.every=9",
    "strategy.name=rolora strategy.alternate=step train.local-steps=1",
)


def test_every_rule_has_an_experiment_that_breaks_it_and_none_is_broken_by_the_defaults() -> None:
    met = set()
    for text in BROKEN:
        sections = {name: section() for name, section in SECTIONS.items()}
        for name, value in parse_overrides(text.split(" ")).items():
            key = KEYS[name]
            sections[key.section] = replace(sections[key.section], **{key.attribute: key.read(value)})
        rules = documented_rules(_unchecked(sections))
        met |= {number for number, rule in enumerate(rules) if rule.broken}

    assert [rule.name for number, rule in enumerate(rules) if number not in met] == []
    assert [rule.name for rule in documented_rules(Experiment()) if rule.broken] == []
    named = {word for rule in rules for word in (rule.key, rule.other)}
    assert named <= {*KEYS, *WAYS}
    assert all("{" not in rule.documented for rule in rules)


def test_a_value_that_is_wrong_raises_no_second_complaint() -> None:
    assert len(problems("data.name=opni")) == 1  # and not also that data.path is missing
    assert len(problems("data.name=openi", "data.path=3.5", "lora.rank=0")) == 1


def test_replacing_a_section_is_checked_too() -> None:
    exp = Experiment()

    with pytest.raises(ConfigError, match=r"privacy\.clip"):
        replace(exp, privacy=replace(exp.privacy, clip=-1.0))
