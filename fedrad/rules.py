"""The table of settings that exclude each other.

``Experiment`` applies it whenever one is made, all rows at once. A hospital makes its own from what the server sends,
so it refuses by the same rows and need not trust the server's. The rows of a way to run are applied where that starts
(:func:`refuse`). What only one strategy minds stands with the strategy, in ``Strategy.rules``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from fedrad.errors import ConfigError
from fedrad.installed import installed, strategy_class
from fedrad.settings import CHEST, EMBEDDED, names_in

if TYPE_CHECKING:
    from fedrad.config import Experiment

CENTRALIZED, DEPLOYED, FUSED = "fedrad centralized", "real hospitals", "--grid fused"
WAYS = (CENTRALIZED, DEPLOYED, FUSED)
"""Ways to run an experiment that not every experiment can be run in."""


class Rule(NamedTuple):
    """One row: settings that are fine alone but not together.

    Attributes:
        key: the setting to change.
        other: the setting that it contradicts, or the way to run (one of ``WAYS``) that it rules out.
        broken: whether an experiment breaks the rule.
        says: why, and what to do. ``{e.asked}`` stands for a figure of the experiment, ``{those:averaging}`` for the
            installed strategies that have this attribute.
    """

    key: str
    other: str
    broken: Callable[[Experiment], bool]
    says: str

    @property
    def name(self) -> str:
        return f"{self.key} x {self.other}"

    @property
    def documented(self) -> str:
        """``says`` without the figures of any experiment."""
        return re.sub(r"\{e\.[a-z_.]+\}", "…", self.says).format(those=_Those())

    def refusal(self, experiment: Experiment) -> str:
        return f"{self.key}: {self.says.format(e=experiment, those=_Those())}"


class _Those:
    def __format__(self, attribute: str) -> str:
        return ", ".join(name for name in installed() if getattr(strategy_class(name), attribute))


def refusals(experiment: Experiment, way: str = "", wrong: Collection[str] = ()) -> list[str]:
    """Why this experiment is refused, each with its key.

    Args:
        way: one of ``WAYS``: only its rows; empty: those that hold however it is run.
        wrong: keys that are known to be wrong by themselves: rows about them are left out.
    """
    rows = [row for row in (*RULES, *method(experiment).rules) if (row.other if row.other in WAYS else "") == way]
    return [
        row.refusal(experiment)
        for row in rows
        if row.key not in wrong and row.other not in wrong and row.broken(experiment)
    ]


def refuse(experiment: Experiment, way: str) -> None:
    """Refuses an experiment that can't be run in this way.

    Raises:
        ConfigError: with every reason.
    """
    if found := refusals(experiment, way):
        raise ConfigError(found)


def documented_rules() -> list[Rule]:
    """Every row, with those of all installed strategies."""
    return [*RULES, *(row for name in installed() for row in strategy_class(name).rules)]


def method(experiment: Experiment) -> Any:
    """The class of the strategy that the experiment names."""
    return strategy_class(experiment.strategy.name)


def _under(
    other: str, applies: Callable[[Experiment], bool], why: str, *rows: tuple[str, Callable[[Experiment], bool], str]
) -> tuple[Rule, ...]:
    """Rows that hold where ``applies`` does, and whose messages begin with ``why``."""

    def both(broken: Callable[[Experiment], bool]) -> Callable[[Experiment], bool]:
        return lambda e: applies(e) and broken(e)

    return tuple(Rule(key, other, both(broken), f"{why} {says}") for key, broken, says in rows)


def _is_set(key: str) -> Callable[[Experiment], bool]:
    """Whether ``sites.KEY``, a value for each hospital, is given."""
    return lambda e: bool(getattr(e.sites, key))


_OWN = ("epsilons", "deltas", "batches", "ranks")

RULES: tuple[Rule, ...] = (
    # Reports
    Rule(
        "data.path",
        "data.name",
        lambda e: e.data.name not in ("synthetic", "none") and not e.data.path,
        "say where the {e.data.name} reports are, e.g. data.path=/data/{e.data.name}",
    ),
    Rule(
        "data.path",
        "data.name",
        lambda e: e.data.name == "none" and bool(e.data.path),
        "data.name=none reads nothing; leave it empty",
    ),
    Rule(
        "data.classes",
        "data.name",
        lambda e: bool(e.data.classes) and (e.data.name != "none" or len(names_in(e.data.label_columns)) != 1),
        "goes with data.name=none and one column in data.label-columns",
    ),
    *_under(
        "data.name",
        lambda e: e.data.name == "table",
        "needed for",
        ("data.label-columns", lambda e: not e.data.label_columns, "a table"),
        (
            "data.site-column",
            lambda e: e.sites.partition == "by-site" and not e.data.site_column,
            "a table that is split with sites.partition=by-site",
        ),
        (
            "data.time-column",
            lambda e: e.sites.partition == "temporal" and not e.data.time_column,
            "a table that is split with sites.partition=temporal",
        ),
        (
            "data.patient-column",
            lambda e: e.privacy.unit == "patient" and not e.data.patient_column,
            "privacy.unit=patient; without it every report is its own patient",
        ),
    ),
    Rule(
        "privacy.unit",
        "data.name",
        lambda e: e.privacy.unit == "patient" and e.data.name == "openi",
        "Open-i names reports and no patients, so none can be protected as one; take privacy.unit=report",
    ),
    # Hospitals
    Rule(
        "sites.quorum",
        "sites.count",
        lambda e: e.sites.quorum > e.asked,
        "{e.sites.quorum} is more than the {e.asked} hospitals that a round asks (sites.count, sites.fraction)",
    ),
    *(
        Rule(
            f"sites.{name}",
            "sites.count",
            lambda e, name=name: len(getattr(e.sites, name)) not in (0, e.sites.count),  # type: ignore[misc]
            "give one value for each of the {e.sites.count} hospitals (sites.count), or none",
        )
        for name in _OWN
    ),
    *_under(
        "privacy.epsilon",
        lambda e: e.privacy.epsilon == 0,
        "without privacy",
        ("sites.epsilons", _is_set("epsilons"), "no hospital has a budget; leave it empty, or set privacy.epsilon"),
        (
            "strategy.weights",
            lambda e: e.strategy.weights == "inverse-variance",
            "there is no noise to weigh by; take uniform or declared",
        ),
    ),
    # Model and optimizer
    Rule(
        "model.pooling",
        "train.warm-start",
        lambda e: e.model.pooling == "cls" and e.train.warm_start == "synthetic",
        "a warm start's head reads the mean over the tokens; take mean, or train.warm-start=none",
    ),
    Rule(
        "model.revision",
        "model.name",
        lambda e: e.model.name in (EMBEDDED, CHEST) and bool(e.model.revision),
        "the embedded model has no revisions; leave it empty",
    ),
    Rule(
        "lora.freeze-a",
        "lora.targets",
        lambda e: e.lora.freeze_a and not e.lora.targets,
        "there is no A to freeze, because lora.targets is empty",
    ),
    Rule(
        "train.precision",
        "privacy.gradients",
        lambda e: e.train.precision == "bfloat16" and e.privacy.gradients == "opacus",
        "Opacus's hooks need float32; take privacy.gradients=leaf for bfloat16",
    ),
    Rule(
        "train.learning-rate",
        "train.optimizer",
        lambda e: e.train.optimizer == "adam" and e.train.learning_rate == 0,
        "is chosen automatically for momentum only; give one for adam, for instance 0.001",
    ),
    # Strategies
    *_under(
        "strategy.name",
        lambda e: True,
        "strategy.name={e.strategy.name}",
        (
            "lora.freeze-a",
            lambda e: e.lora.freeze_a and method(e).chooses_factors,
            "says itself which factors of LoRA are trained; set it to false",
        ),
        (
            "lora.targets",
            lambda e: not e.lora.targets and method(e).needs_lora,
            "needs adapted layers; name some, or take strategy.name=head",
        ),
        (
            "sites.ranks",
            lambda e: bool(e.sites.ranks) and not method(e).mixed_ranks and set(e.sites.ranks) != {e.lora.rank},
            "knows one rank, lora.rank; leave it empty, or take a strategy that mixes ranks ({those:mixed_ranks})",
        ),
    ),
    Rule(
        "lora.rank",
        "sites.ranks",
        lambda e: max(e.sites.ranks, default=0) > e.lora.rank and method(e).mixed_ranks,
        "is the server's, at least the largest of sites.ranks",
    ),
    # What the server sees: the hospital as the privacy unit, secure aggregation, shared noise
    *(
        Rule(
            "strategy.name",
            key,
            lambda e, hides=hides: hides(e) and not method(e).averaging,  # type: ignore[misc]
            f"{{e.strategy.name}} needs every hospital's update, and with {setting} nothing but the mean is seen; take"
            " one that averages ({those:averaging})",
        )
        for key, setting, hides in (
            ("privacy.unit", "privacy.unit=hospital", lambda e: e.privacy.unit == "hospital"),
            ("privacy.secure-aggregation", "privacy.secure-aggregation", lambda e: e.privacy.secure_aggregation),
        )
    ),
    *_under(
        "privacy.unit",
        lambda e: e.privacy.unit == "hospital",
        "with privacy.unit=hospital",
        ("strategy.weights", lambda e: e.strategy.weights != "uniform", "the server takes the uniform mean"),
        ("sites.epsilons", _is_set("epsilons"), "there is one budget, the server's"),
        ("sites.deltas", _is_set("deltas"), "there is one budget, the server's"),
        ("sites.ranks", _is_set("ranks"), "all hospitals must send the same shapes"),
        ("sites.count", lambda e: e.sites.count < 2, "one hospital is not hidden among others; take 2 or more"),
    ),
    *_under(
        "privacy.secure-aggregation",
        lambda e: e.privacy.secure_aggregation,
        "with secure aggregation",
        ("strategy.weights", lambda e: e.strategy.weights != "uniform", "the server takes the uniform mean"),
        (
            "privacy.unit",
            lambda e: e.privacy.unit == "hospital",
            "the server can't clip single updates, which it can't see",
        ),
        (
            "sites.count",
            lambda e: e.asked < 3,
            "a round asks 3 hospitals or more (sites.count, sites.fraction): of two, each sees the other's adapter in"
            " the sum",
        ),
        (
            "privacy.colluders",
            lambda e: e.least_quorum > e.asked,
            "{e.privacy.colluders} of {e.asked} hospitals are too many",
        ),
        (
            "sites.quorum",
            lambda e: e.sites.quorum < e.least_quorum <= e.asked,
            "the smallest sum must be stated: more than half of the {e.asked} hospitals that a round asks and"
            " {e.privacy.colluders} colluders, so {e.least_quorum} or more",
        ),
    ),
    *_under(
        "privacy.secure-aggregation",
        lambda e: not e.privacy.secure_aggregation,
        "needs",
        ("privacy.shared-noise", lambda e: e.privacy.shared_noise, "privacy.secure-aggregation"),
        ("privacy.colluders", lambda e: e.privacy.colluders > 0, "privacy.secure-aggregation"),
    ),
    *_under(
        "privacy.shared-noise",
        lambda e: e.privacy.shared_noise,
        "with privacy.shared-noise all hospitals take one plain step of the same size:",
        ("privacy.epsilon", lambda e: e.privacy.epsilon == 0, "without privacy there is no noise to share"),
        ("train.local-steps", lambda e: e.local_steps != 1, "set 1; a later step would see too little noise"),
        ("train.batch", lambda e: e.train.batch == 0, "state it, for instance 128"),
        ("train.optimizer", lambda e: e.train.optimizer != "momentum", "set momentum"),
        ("train.momentum", lambda e: e.train.optimizer == "momentum" and e.train.momentum != 0, "set 0"),
        ("train.average", lambda e: e.train.average != 0, "set 0"),
        ("train.learning-rate", lambda e: e.train.learning_rate == 0, "state it, for instance 0.5"),
        *((f"sites.{name}", _is_set(name), "leave it empty") for name in ("epsilons", "deltas", "batches")),
    ),
    # Ways to run
    Rule(
        "privacy.unit",
        CENTRALIZED,
        lambda e: e.privacy.unit == "hospital",
        "one place has no hospitals to hide; take report or patient",
    ),
    Rule(
        "privacy.secure-aggregation",
        CENTRALIZED,
        lambda e: e.privacy.secure_aggregation,
        "one place has nobody to be summed with; leave it out",
    ),
    Rule(
        "strategy.name",
        CENTRALIZED,
        lambda e: method(e).server_state,
        "{e.strategy.name} is an optimizer of the server's, and one place has no server; take another",
    ),
    *(
        Rule(f"sites.{name}", way, _is_set(name), f"for simulated hospitals only, and {why}; leave it empty")
        for way, why in (
            (CENTRALIZED, "one place has no hospitals"),
            (DEPLOYED, "a real hospital sets its own in its node configuration"),
        )
        for name in _OWN
    ),
    Rule(
        "privacy.secure-aggregation",
        FUSED,
        lambda e: e.privacy.secure_aggregation,
        "hospitals that mask train one by one; use --grid inprocess",
    ),
    Rule(
        "privacy.gradients",
        FUSED,
        lambda e: e.privacy.gradients != "leaf",
        "Opacus's engine knows one adapter at a time; take leaf, or --grid inprocess",
    ),
)
