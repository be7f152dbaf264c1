"""``fedrad plan``: the noise, epsilon and noise-to-signal ratio of a configuration, before any report is read.

No private number is used: the size is the declared one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fedrad.config import Experiment
from fedrad.errors import PlanError
from fedrad.installed import installed, strategy_class
from fedrad.model.adapter import LoRASpec
from fedrad.model.shapes import shapes_of
from fedrad.planning import noise_to_signal as planning
from fedrad.planning.expected_gain import ExpectedGain, expected_gain
from fedrad.planning.noise_to_signal import Choice, Noise
from fedrad.planning.questions import check_told
from fedrad.privacy import accounting
from fedrad.privacy.hospital_unit import hospital_plan
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.public_base.build import AXES
from fedrad.training.setup import plan_for, terms_of
from fedrad.training.strategy import Strategy, strategy_of


@dataclass(frozen=True)
class Outlook:
    """What is known of a run before its first step. All of it is public.

    Attributes:
        plan: the plan of a hospital with the declared size, exactly as the run would make it.
        epsilon: of all planned steps, by PLD; ``math.inf`` without privacy.
        rdp: the same by Renyi DP, an independent upper bound.
        hospitals: how many hospitals a round asks.
        present: the configured strategy and rank, with the rho of exactly these steps.
        alone: its rho with a single hospital, as in centralized training.
        formula: its rho by the planning formula, the limit for large batches; 0 without privacy.
        formula_shared: the same if the hospitals shared one hospital's noise under secure aggregation.
        offered: what could be trained instead.
        advised: `noise_to_signal.richest` of ``offered``.
        enough: the declared size x sqrt(hospitals) at which the head alone gets below ``BORDERLINE``, by the formula; 0
            for a decoder, which has no head.
        notes: what the reader should know about these figures.
        expected: the expected gain of a run that starts from a public base, where it was measured.
    """

    plan: PrivacyPlan
    epsilon: float
    rdp: float
    hospitals: int
    present: Choice
    alone: float
    formula: float
    formula_shared: float
    offered: tuple[Choice, ...]
    advised: Choice
    enough: int
    notes: tuple[str, ...]
    expected: ExpectedGain | None = None

    @property
    def noise_per_step(self) -> float:
        """Standard deviation in each coordinate of a hospital's averaged gradient."""
        if not self.plan.private:
            return 0.0
        return planning.noise_per_step(self.plan.noise_multiplier, self.plan.clip, self.plan.divisor)

    @property
    def verdict(self) -> str:
        """``fine``, ``borderline`` or ``noise-dominated``."""
        return planning.verdict(self.present.rho)


def outlook_of(experiment: Experiment, *, declared: int | None = None, labels: int | None = None) -> Outlook:
    """Plans a run.

    Args:
        declared: the size that a hospital declares, in units of ``privacy.unit``; None: ``data.declared-size``, or for
            generated reports the size that a simulated hospital would declare.
        labels: number of outputs of the head; None: the number of labels of the corpus.

    Raises:
        ConfigError: the size or the number of labels is not known.
        ModelError: the base model's configuration is not on this machine, or has no such layers.
        PlanError: no noise multiplier meets the budget, or the plan contradicts itself.
    """
    if experiment.privacy.unit == "hospital" and experiment.privacy.epsilon:
        raise _at_the_server(experiment)
    notes: list[str] = []
    check_told(experiment, declared, labels)
    size = _declared(experiment, notes) if declared is None else declared
    outputs = len(experiment.stated_labels[0]) if labels is None else labels
    plan = plan_for(experiment, size)
    lora, strategy = experiment.adapted, strategy_of(experiment)
    spec = LoRASpec(lora.rank, lora.alpha, lora.targets, lora.layers, lora.freeze_a)
    shapes = shapes_of(experiment.base_name, experiment.model.revision, spec)
    head = 0 if experiment.causal else outputs * (features_of(experiment, shapes.hidden, outputs) + 1)
    trainable = planning.trainable_numbers(strategy, spec, shapes.adapted, head)
    around = replace(spec, rank=1, targets=spec.targets or ("query", "value"), freeze_a=False)
    layers = shapes_of(experiment.base_name, experiment.model.revision, around).adapted
    rho = Noise((plan,), experiment.asked).to_signal
    able = [each for each in _offered(experiment) if head or each.shape(around).targets]
    offered = planning.choices(layers, head, rho, able, around)
    notes += _notes(experiment, plan)

    def formula(numbers: int, hospitals: int, shared: bool = False) -> float:
        if not plan.private:
            return 0.0
        epsilon, delta, size = plan.epsilon, plan.delta, plan.declared_size
        return planning.noise_to_signal(
            numbers, epsilon=epsilon, delta=delta, declared_size=size, hospitals=hospitals, shared=shared
        )

    return Outlook(
        plan=plan,
        epsilon=accounting.epsilon([plan.event(plan.steps)], plan.delta),
        rdp=accounting.rdp_epsilon([plan.event(plan.steps)], plan.delta),
        hospitals=experiment.asked,
        present=Choice(strategy.settings.name, lora.rank if trainable > head else 0, trainable, rho(trainable)),
        alone=Noise((plan,), 1).to_signal(trainable),
        formula=formula(trainable, experiment.asked),
        formula_shared=formula(trainable, experiment.asked, shared=True),
        offered=offered,
        advised=planning.richest(offered),
        enough=math.ceil(formula(head, 1) * plan.declared_size / planning.BORDERLINE),
        notes=tuple(notes),
        expected=expected_gain(experiment, plan, experiment.asked),
    )


def _offered(experiment: Experiment) -> list[Strategy]:
    """The installed strategies that a plan offers, with the settings of the experiment."""
    classes = {name: strategy_class(name) for name in installed()}
    return [kind(replace(experiment.strategy, name=name)) for name, kind in classes.items() if kind.offered]


def features_of(experiment: Experiment, hidden: int, outputs: int) -> int:
    """How many features the head reads: after a warm start its directions plus one for each output, otherwise all."""
    directions = min(AXES, experiment.model.directions) if experiment.warm_start == "synthetic" else 0
    return min(hidden, directions + outputs) if directions else hidden


def _at_the_server(experiment: Experiment) -> PlanError:
    """What to tell where the server adds the noise to whole updates: the table is about the hospitals' own steps."""
    privacy, hospitals, rounds = experiment.privacy, experiment.asked, experiment.train.rounds
    plan = hospital_plan(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        hospitals=hospitals,
        rounds=rounds,
        clip=privacy.clip,
        noise=privacy.noise,
    )
    each = plan.noise_multiplier / hospitals
    return PlanError(
        f"privacy.unit=hospital: the server noises the mean of {hospitals} updates in each of {rounds} rounds, with"
        f" noise multiplier {plan.noise_multiplier:.4g}. For d trainable numbers the noise has norm {each:.3g} sqrt(d)"
        f" times that of the largest update: as large as the update from d = {math.ceil(1 / each**2)} on. There is no"
        " table for this unit. More hospitals and fewer rounds help."
    )


def _declared(experiment: Experiment, notes: list[str]) -> int:
    data = experiment.data
    if data.declared_size:
        return data.declared_size
    size = declared_size(round(data.reports * (1 - data.test_fraction) / experiment.sites.count))
    notes.append(
        f"declared size {size}: about what each simulated hospital gets of {data.reports} generated reports; give a "
        "real one with --reports."
    )
    return size


def _notes(experiment: Experiment, plan: PrivacyPlan) -> list[str]:
    sites, notes = experiment.sites, []
    if plan.expected_batch < experiment.train.batch:
        notes.append(
            f"train.batch {experiment.train.batch} is more than a hospital has: every step takes all. (A real"
            " hospital takes no more than its max-sampling-rate allows, by default half, and plans for that.)"
        )
    if experiment.asked < sites.count:
        notes.append(
            f"a round asks {experiment.asked} of {sites.count} hospitals; the noise is made for a hospital that is in "
            "all rounds, so nobody exceeds the budget, and most stay below it."
        )
    own = [f"sites.{name}" for name in ("epsilons", "deltas", "batches", "ranks") if vars(sites)[name]]
    if own:
        noise = [
            plan_for(experiment, plan.declared_size, terms_of(experiment, index)).noise_multiplier
            for index in range(sites.count)
        ]
        notes.append(
            f"hospitals have settings of their own ({', '.join(own)}); this is one with the common settings. Theirs, at"
            f" this size: noise multipliers {', '.join(f'{sigma:.4g}' for sigma in noise[:12])}"
            + (" ..." if len(noise) > 12 else ".")
        )
    privacy = experiment.privacy
    if privacy.shared_noise:
        certain = sites.quorum - privacy.colluders
        notes.append(
            f"hospitals share the noise: {plan.noise_multiplier:.4g} is that of the sum of {certain} of them. Each adds"
            f" {plan.noise_multiplier / math.sqrt(certain):.4g}, 1/sqrt({certain}) of it, and a single adapter is not"
            " private. The strategies below are judged by noise that is not shared."
        )
    elif privacy.secure_aggregation:
        notes.append("secure aggregation hides single adapters and changes no figure here.")
    method = strategy_class(experiment.strategy.name)
    head_alone = experiment.warm_start == "synthetic" and not method.chooses_factors and not experiment.adapted.targets
    if head_alone and experiment.lora_pays(plan.declared_size):
        notes.append(
            f"with {plan.declared_size} reports and epsilon {plan.epsilon:g} LoRA in the last layer is expected to end"
            f" above the head alone; --set data.declared-size={plan.declared_size} trains it (docs/utility.md)."
        )
    if plan.private and plan.noise == "seeded":
        notes.append("noise seeded: simulation only, protects nobody.")
    return notes
