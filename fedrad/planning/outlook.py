"""``fedrad plan``: what a configuration comes to before any report is read: noise, epsilon, and noise beside signal.

No private number enters: the size is the declared one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

from fedrad.config import Experiment
from fedrad.errors import PlanError
from fedrad.installed import installed, strategy_class
from fedrad.model.adapter import LoRASpec
from fedrad.model.shapes import shapes_of
from fedrad.planning import noise_to_signal as planning
from fedrad.planning.expected_gain import ExpectedGain, curve_of, expected_gain
from fedrad.planning.noise_to_signal import Choice
from fedrad.planning.questions import check_told
from fedrad.privacy import accounting
from fedrad.privacy.hospital_unit import hospital_plan
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.public_base.build import AXES
from fedrad.training.recipe import Recipe
from fedrad.training.setup import plan_for, terms_of
from fedrad.training.strategy import Strategy, strategy_of


@dataclass(frozen=True)
class Outlook:
    """What is known of a run before its first step. All of it is public.

    Attributes:
        plan: of a hospital with the declared size, exactly as the run would make it.
        epsilon: of all planned steps, by PLD; ``math.inf`` without privacy.
        rdp: the same by Renyi DP, an independent upper bound.
        hospitals: those that a round asks.
        present: the configured strategy and rank, with rho of these very steps.
        alone: its rho if there were a single hospital, as in centralized training.
        formula: its rho by the planning formula, which large batches come to; 0 without privacy.
        formula_shared: the same if the hospitals shared one hospital's noise under secure aggregation.
        offered: what could be trained instead.
        advised: the richest of them whose rho is below ``planning.BORDERLINE``, or the quietest.
        enough: declared size x sqrt(hospitals) from which on the head alone is below it, by the formula.
        notes: what the reader should know about these figures.
        expected: what private training of the head changes where it starts from a public base.
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
            generated reports what a simulated hospital would.
        labels: outputs of the head; None: those of the corpus that ``data.name`` names.

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
    head = outputs * (features_of(experiment, shapes.hidden, outputs) + 1)
    trainable = planning.trainable_numbers(strategy, spec, shapes.adapted, head)
    around = replace(spec, rank=1, targets=spec.targets or ("query", "value"), freeze_a=False)
    layers = shapes_of(experiment.base_name, experiment.model.revision, around).adapted
    rho = partial(_rho_of_steps, plan, experiment.asked)
    offered = planning.choices(layers, head, rho, _offered(experiment), around)
    notes += _notes(experiment, plan)
    return Outlook(
        plan=plan,
        epsilon=accounting.epsilon([plan.event(plan.steps)], plan.delta),
        rdp=accounting.rdp_epsilon([plan.event(plan.steps)], plan.delta),
        hospitals=experiment.asked,
        present=Choice(strategy.settings.name, lora.rank if trainable > head else 0, trainable, rho(trainable)),
        alone=_rho_of_steps(plan, 1, trainable),
        formula=_formula(plan, trainable, experiment.asked),
        formula_shared=_formula(plan, trainable, experiment.asked, shared=True),
        offered=offered,
        advised=planning.richest(offered),
        enough=math.ceil(_formula(plan, head, 1) * plan.declared_size / planning.BORDERLINE),
        notes=tuple(notes),
        expected=_expected(experiment, plan),
    )


def _offered(experiment: Experiment) -> list[Strategy]:
    """The installed strategies that a plan offers, with the settings of the experiment."""
    classes = {name: strategy_class(name) for name in installed()}
    return [kind(replace(experiment.strategy, name=name)) for name, kind in classes.items() if kind.offered]


def _expected(experiment: Experiment, plan: PrivacyPlan) -> ExpectedGain | None:
    curve = curve_of(experiment)
    if curve is None:
        return None
    return expected_gain(curve, Recipe.of(experiment, sites=experiment.asked, warm=True), plan)


def features_of(experiment: Experiment, hidden: int, outputs: int) -> int:
    """Features that the head reads: the directions of a warm start, and as many more as it has outputs, or all."""
    directions = min(AXES, experiment.model.directions) if experiment.warm_start == "synthetic" else 0
    return min(hidden, directions + outputs) if directions else hidden


def _at_the_server(experiment: Experiment) -> PlanError:
    """What can be said where the server noises whole updates: the table is about hospitals' own steps."""
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
        f" times that of the largest update: as large as it from d = {math.ceil(1 / each**2)} on. There is no table for"
        " this unit; more hospitals and fewer rounds are what helps."
    )


def _rho_of_steps(plan: PrivacyPlan, hospitals: int, trainable: int) -> float:
    return planning.noise_to_signal_of_steps(
        trainable,
        noise_multiplier=plan.noise_multiplier,
        batch=plan.expected_batch,
        steps=plan.steps,
        hospitals=hospitals,
    )


def _formula(plan: PrivacyPlan, trainable: int, hospitals: int, *, shared: bool = False) -> float:
    if not plan.private:
        return 0.0
    return planning.noise_to_signal(
        trainable,
        epsilon=plan.epsilon,
        delta=plan.delta,
        declared_size=plan.declared_size,
        hospitals=hospitals,
        shared=shared,
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
            " one takes the share of its max-sampling-rate at most, by default half, and plans for that.)"
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
        shares = sites.quorum - privacy.colluders
        notes.append(
            f"hospitals share the noise: {plan.noise_multiplier:.4g} is that of the sum of {shares} of them. Each adds"
            f" {plan.noise_multiplier / math.sqrt(shares):.4g}, 1/sqrt({shares}) of it, and a single adapter is not"
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
