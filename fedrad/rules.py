"""The table of settings that exclude each other.

Constructing an ``Experiment`` checks all rows at once. A hospital constructs its own from what the server sends, so it
applies the same rows and need not trust the server's check. Rows about a way to run are checked where it starts
(:func:`refuse`). Rows that concern one strategy only are in its ``Strategy.rules``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from fedrad.corpora import label_columns
from fedrad.errors import ConfigError
from fedrad.installed import installed, strategy_class
from fedrad.settings import ANSWER, CHEST, EMBEDDED, SMOLLM2

if TYPE_CHECKING:
    from fedrad.config import Experiment

CENTRALIZED, DEPLOYED, FUSED = "fedrad centralized", "real hospitals", "--grid fused"
AUDITED = "fedrad audit"
FEDERATED = "a federation"
WAYS = (CENTRALIZED, FEDERATED, DEPLOYED, FUSED, AUDITED)
"""Ways to run that exclude some experiments."""


class Rule(NamedTuple):
    """One row: two settings that are valid alone but not together.

    Attributes:
        key: the setting to change.
        other: the setting that it contradicts, or the way to run (one of ``WAYS``) that it excludes.
        broken: whether the given experiment violates the rule.
        says: why, and what to do. ``{e.asked}`` stands for a figure of the experiment, ``{those:averaging}`` for the
            installed strategies with this attribute.
    """

    key: str
    other: str
    broken: bool
    says: str

    @property
    def name(self) -> str:
        return f"{self.key} x {self.other}"

    @property
    def documented(self) -> str:
        """``says`` without the figures of an experiment."""
        return re.sub(r"\{e\.[a-z_.]+\}", "…", self.says).format(those=_Those())


class _Those:
    def __format__(self, attribute: str) -> str:
        return ", ".join(name for name in installed() if getattr(strategy_class(name), attribute))


def refusals(experiment: Experiment, way: str = "", wrong: Collection[str] = ()) -> list[str]:
    """The reasons why this experiment is refused, each with its key.

    Args:
        way: one of ``WAYS`` for the rows about it; empty for the rows about settings alone.
        wrong: keys whose values are already reported; rows about them are skipped.
    """
    rows = [*table(experiment), *strategy_class(experiment.strategy.name).rules(experiment)]
    return [
        f"{row.key}: {row.says.format(e=experiment, those=_Those())}"
        for row in rows
        if row.broken and (row.other if row.other in WAYS else "") == way and not {row.key, row.other} & set(wrong)
    ]


def refuse(experiment: Experiment, way: str) -> None:
    """Refuses an experiment that can't be run in this way.

    Raises:
        ConfigError: with every reason.
    """
    if found := refusals(experiment, way):
        raise ConfigError(found)


def documented_rules(experiment: Experiment) -> list[Rule]:
    """Every row, including those of all installed strategies."""
    return [*table(experiment), *(row for name in installed() for row in strategy_class(name).rules(experiment))]


def table(e: Experiment) -> list[Rule]:
    """All rows except those of single strategies."""
    return [*_reports(e), *_hospitals(e), *_training(e), *_strategies(e), *_hidden(e), *_shared_noise(e), *_ways(e)]


def _under(other: str, applies: bool, why: str, *rows: tuple[str, bool, str]) -> list[Rule]:
    """Rows that can be broken only if ``applies`` is true. Their messages begin with ``why``."""
    return [Rule(key, other, applies and broken, f"{why} {says}") for key, broken, says in rows]


def _reports(e: Experiment) -> list[Rule]:
    data, partition, corpus = e.data, e.sites.partition, e.corpus
    absent, patients = data.name == "none", e.privacy.unit == "patient"
    where = "say where the {e.data.name} reports are, e.g. data.path=/data/{e.data.name}"
    columns = absent or (corpus is not None and corpus.columns)
    one_column = columns and len(label_columns(data.label_columns)) == 1
    unlabelled = absent and not data.label_columns and not data.classes
    split = "a table that is split with sites.partition="
    alone = "privacy.unit=patient; without it every report is its own patient"
    nameless = "{e.corpus.title} has no patient ids, so patients can't be the unit; take privacy.unit=report"
    labels = "needed with data.name=none: the labels of the hospitals; `chexpert` stands for MIMIC-CXR's 14"
    private, unit = data.privatise != "none", data.privatise_epsilon
    needed = "is needed: the unit of the profile's budgets, for instance 100 (docs/privatise.md has what that leaves)"
    return [
        Rule("data.path", "data.name", corpus is not None and not (corpus.generated or data.path), where),
        Rule("data.path", "data.name", absent and bool(data.path), "data.name=none reads nothing; leave it empty"),
        Rule(
            "data.classes",
            "data.name",
            bool(data.classes) and not one_column,
            "goes with data.name=table or none, and one column in data.label-columns",
        ),
        Rule("data.label-columns", "data.name", unlabelled, labels),
        *_under(
            "data.name",
            corpus is not None and corpus.columns,
            "needed for",
            ("data.label-columns", not data.label_columns, "a table"),
            ("data.site-column", partition == "by-site" and not data.site_column, f"{split}by-site"),
            ("data.time-column", partition == "temporal" and not data.time_column, f"{split}temporal"),
            ("data.patient-column", patients and not data.patient_column, alone),
        ),
        Rule("privacy.unit", "data.name", patients and corpus is not None and not corpus.patients, nameless),
        Rule("data.privatise-epsilon", "data.privatise", private and unit == 0, needed),
        Rule(
            "data.privatise-epsilon", "data.privatise", unit > 0 and not private, "privatises nothing; name a profile"
        ),
    ]


def _lists(e: Experiment) -> dict[str, tuple[float, ...]]:
    """The settings with one value for each simulated hospital."""
    return {f"sites.{name}": getattr(e.sites, name) for name in ("epsilons", "deltas", "batches", "ranks")}


def _hospitals(e: Experiment) -> list[Rule]:
    count, quorum, alone = e.sites.count, e.sites.quorum, e.sites.alone
    more = "{e.sites.quorum} is more than the {e.asked} hospitals that a round asks (sites.count, sites.fraction)"
    each = "give one value for each of the {e.sites.count} hospitals (sites.count), or none"
    budgets = "no hospital has a budget; leave it empty, or set privacy.epsilon"
    by_noise = e.strategy.weights == "inverse-variance"
    return [
        Rule("sites.quorum", "sites.count", quorum > e.asked, more),
        Rule("sites.alone", "sites.count", alone > count, "there are {e.sites.count} hospitals (sites.count)"),
        *(Rule(key, "sites.count", len(given) not in (0, count), each) for key, given in _lists(e).items()),
        *_under(
            "privacy.epsilon",
            e.privacy.epsilon == 0,
            "without privacy",
            ("sites.epsilons", bool(e.sites.epsilons), budgets),
            ("strategy.weights", by_noise, "there is no noise to weigh by; take uniform or declared"),
        ),
    ]


def _training(e: Experiment) -> list[Rule]:
    model, lora, train = e.model, e.lora, e.train
    reads_mean = "a warm start's head reads the mean over the tokens; take mean, or train.warm-start=none"
    revised = model.name in (EMBEDDED, CHEST, SMOLLM2) and bool(model.revision)
    unstated = train.optimizer == "adam" and train.learning_rate == 0
    rate = "is chosen automatically for momentum only; give one for adam, for instance 0.001"
    leaf = "take privacy.gradients=leaf"
    written = "is what a decoder learns of a text; leave it"
    no_a = "there is no A to freeze, because lora.targets is empty"
    cls = model.pooling == "cls" and train.warm_start == "synthetic"
    return [
        Rule("model.pooling", "train.warm-start", cls, reads_mean),
        Rule("model.pooling", "model.task", e.causal and model.pooling != "mean", "a decoder pools nothing; leave it"),
        Rule("model.shots", "model.task", not e.causal and model.shots > 0, "only a decoder reads examples; take 0"),
        Rule("lora.targets", "model.task", e.causal and not lora.targets, "a decoder has no head to train; name some"),
        Rule("model.loss", "model.task", not e.causal and model.loss != ANSWER, written),
        Rule("model.quantize", "model.task", not e.causal and model.quantize != "none", "is for decoders; take none"),
        *_under(
            "privacy.gradients",
            e.privacy.gradients == "opacus",
            "Opacus's hooks",
            ("model.quantize", model.quantize != "none", f"need layers that are not quantised; {leaf}"),
            ("train.precision", train.precision == "bfloat16", f"need float32; {leaf}"),
            ("train.checkpointing", train.checkpointing, f"can't follow layers that are computed twice; {leaf}"),
        ),
        Rule("model.revision", "model.name", revised, "this model has no revisions; leave it empty"),
        Rule("lora.freeze-a", "lora.targets", lora.freeze_a and not lora.targets, no_a),
        Rule("train.learning-rate", "train.optimizer", unstated, rate),
    ]


def _strategies(e: Experiment) -> list[Rule]:
    lora, ranks, method = e.lora, set(e.sites.ranks), strategy_class(e.strategy.name)
    chosen = "says itself which factors of LoRA are trained; set it to false"
    one_rank = "knows one rank, lora.rank; leave it empty, or take a strategy that mixes ranks ({those:mixed_ranks})"
    no_lora = "needs adapted layers; name some, or take strategy.name=head"
    beyond = method.mixed_ranks and max(ranks, default=0) > lora.rank
    return [
        *_under(
            "strategy.name",
            True,
            "strategy.name={e.strategy.name}",
            ("lora.freeze-a", lora.freeze_a and method.chooses_factors, chosen),
            ("lora.targets", method.needs_lora and not lora.targets, no_lora),
            ("sites.ranks", not method.mixed_ranks and not ranks <= {lora.rank}, one_rank),
        ),
        Rule("lora.rank", "sites.ranks", beyond, "is the server's, at least the largest of sites.ranks"),
    ]


def _hidden(e: Experiment) -> list[Rule]:
    """The hospital as the privacy unit, and secure aggregation: with either, only the mean of the updates is known."""
    privacy, quorum, least = e.privacy, e.sites.quorum, e.least_quorum
    weights = ("strategy.weights", e.strategy.weights != "uniform", "the server takes the uniform mean")
    averages = (
        "strategy.name",
        not strategy_class(e.strategy.name).averaging,
        "only the mean is known, and {e.strategy.name} needs every hospital's update; take a strategy that averages"
        " ({those:averaging})",
    )
    one_budget = "there is one budget, the server's"
    of_two = "a round must ask 3 hospitals or more (sites.count, sites.fraction): of two, each can compute the other's"
    smallest = (
        "the smallest sum must be stated: more than half of the {e.asked} hospitals that a round asks plus"
        " {e.privacy.colluders} colluders, so {e.least_quorum} or more"
    )
    unseen = "the server can't clip single updates, because it can't see them"
    too_many = "{e.privacy.colluders} of {e.asked} hospitals are too many"
    secure = "privacy.secure-aggregation"
    return [
        *_under(
            "privacy.unit",
            privacy.unit == "hospital",
            "with privacy.unit=hospital",
            averages,
            weights,
            ("sites.epsilons", bool(e.sites.epsilons), one_budget),
            ("sites.deltas", bool(e.sites.deltas), one_budget),
            ("sites.ranks", bool(e.sites.ranks), "all hospitals must send the same shapes"),
            ("sites.count", e.sites.count < 2, "one hospital is not hidden among others; take 2 or more"),
        ),
        *_under(
            secure,
            privacy.secure_aggregation,
            "with secure aggregation",
            averages,
            weights,
            ("privacy.unit", privacy.unit == "hospital", unseen),
            ("sites.count", e.asked < 3, f"{of_two} adapter from the sum"),
            ("privacy.colluders", least > e.asked, too_many),
            ("sites.quorum", quorum < least <= e.asked, smallest),
        ),
        Rule(
            "privacy.shared-noise", secure, privacy.shared_noise and not privacy.secure_aggregation, f"needs {secure}"
        ),
        Rule("privacy.colluders", secure, privacy.colluders > 0 and not privacy.secure_aggregation, f"needs {secure}"),
    ]


def _shared_noise(e: Experiment) -> list[Rule]:
    train, momentum = e.train, e.train.optimizer == "momentum"
    return _under(
        "privacy.shared-noise",
        e.privacy.shared_noise,
        "with privacy.shared-noise all hospitals take one plain step of the same size:",
        ("privacy.epsilon", e.privacy.epsilon == 0, "without privacy there is no noise to share"),
        ("train.local-steps", e.local_steps != 1, "set 1; a later step would have too little noise"),
        ("train.batch", train.batch == 0, "state it, for instance 128"),
        ("train.optimizer", not momentum, "set momentum"),
        ("train.momentum", momentum and train.momentum != 0, "set 0"),
        ("train.average", train.average != 0, "set 0"),
        ("train.learning-rate", train.learning_rate == 0, "state it, for instance 0.5"),
        *((key, bool(given), "leave it empty") for key, given in _lists(e).items() if key != "sites.ranks"),
    )


def _ways(e: Experiment) -> list[Rule]:
    secure, lists = e.privacy.secure_aggregation, _lists(e).items()
    whole = "centralized training has no hospitals; take report or patient"
    at_server = "{e.strategy.name} runs an optimizer at the server, and centralized training has none; take another"
    one_adapter = "Opacus's engine handles one adapter at a time; take leaf, or --grid inprocess"
    masks = "hospitals that mask train one by one; use --grid inprocess"
    somewhere = "name the directory of the unfinished run"
    alone, own = "centralized training has no hospitals", "a real hospital sets its own in its node configuration"
    return [
        Rule("run.out", "run.resume", e.run.resume and not e.run.out, somewhere),
        Rule("data.privatise", AUDITED, e.data.privatise != "none", "its canaries are not privatised; take none"),
        Rule(
            "data.privatise",
            DEPLOYED,
            e.data.privatise != "none",
            "a real hospital decides for itself, in its node configuration: each draw that a server could ask for"
            " would add to the last; take none",
        ),
        Rule("privacy.unit", CENTRALIZED, e.privacy.unit == "hospital", whole),
        Rule("privacy.secure-aggregation", CENTRALIZED, secure, "centralized training has no sum; leave it out"),
        Rule("strategy.name", CENTRALIZED, strategy_class(e.strategy.name).server_state, at_server),
        *(
            Rule(key, way, bool(given), f"for simulated hospitals only, and {why}; leave it empty")
            for way, why in ((CENTRALIZED, alone), (DEPLOYED, own))
            for key, given in lists
        ),
        Rule("sites.alone", FEDERATED, e.sites.alone > 0, "for `fedrad centralized`: one hospital is no federation"),
        Rule("privacy.secure-aggregation", FUSED, secure, masks),
        Rule("privacy.gradients", FUSED, e.privacy.gradients != "leaf", one_adapter),
    ]
