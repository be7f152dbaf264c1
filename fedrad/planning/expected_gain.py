"""What private training is expected to change, where it starts from a public base.

Measured on generated stand-ins for a hospital (`benchmarks/private_phase.py`), which are public, so that asking costs
no privacy: one has words and label rules that the base has never seen, the other is what the base was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrad.config import Experiment
from fedrad.installed import strategy_class
from fedrad.privacy.plan import PrivacyPlan
from fedrad.settings import CHEST, Lora, Train
from fedrad.training.recipe import Recipe, learning_rate


@dataclass(frozen=True)
class Curve:
    """The mean change of weighted F1 by the length of the walk, rate x steps / (1 - momentum), over sizes, epsilons,
    numbers of hospitals and seeds whose automatic rate gives about that length.

    Attributes:
        lengths: increasing.
        new: where the hospital's words and label rules are new to the base.
        known: where they are the base's own.
    """

    lengths: tuple[float, ...]
    new: tuple[float, ...]
    known: tuple[float, ...]

    def at(self, length: float) -> tuple[float, float]:
        """(new, known), between the measured lengths by their logarithms."""
        x, xs = np.log(length), np.log(self.lengths)
        return float(np.interp(x, xs, self.new)), float(np.interp(x, xs, self.known))


HEAD = Curve(
    lengths=(0.43, 1.95, 5.42, 12.5, 36.1, 87.5, 216.0, 570.0),
    new=(-0.001, 0.002, 0.012, 0.028, 0.067, 0.109, 0.127, 0.143),
    known=(-0.001, -0.001, -0.001, -0.001, -0.001, -0.001, -0.001, 0.0),
)
# One hospital, one seed. Where all is known, two lengths were measured: 78 (0.000) and 478 (0.001).
LAST_LAYER = Curve(
    lengths=(9.73, 29.0, 85.0, 216.0, 488.0, 846.0, 1200.0),
    new=(0.024, 0.073, 0.124, 0.146, 0.160, 0.167, 0.172),
    known=(0.0, 0.0, 0.0, 0.0, 0.001, 0.001, 0.001),
)
SMALL = 0.005


@dataclass(frozen=True)
class ExpectedGain:
    """Changes of weighted F1 by the private phase.

    Attributes:
        rate: the step size that the figures are for.
        new: where the hospital's words and label rules are new to the base.
        known: where they are the base's own, so that noise can only do harm.
    """

    rate: float
    new: float
    known: float

    @property
    def worthwhile(self) -> bool:
        """Whether there is more to gain than F1 moves by itself."""
        return self.new >= SMALL

    def __str__(self) -> str:
        says = (
            f"at step size {self.rate:.3g} private training changed weighted F1 of generated stand-ins by"
            f" {self.new:+.3f} where words and label rules were new to the public base, and by {self.known:+.3f} where"
            " they were its own"
        )
        return says if self.worthwhile else f"{says}; the start is as good, and costs no epsilon"


def curve_of(experiment: Experiment) -> Curve | None:
    """The figures about such a run: the head alone, or LoRA with it on all linear layers of the last layer, from the
    public base that comes with fedrad, by the default momentum at the automatic step size. With other settings
    the noise is not what it was: None."""
    train, privacy, lora = experiment.train, experiment.privacy, experiment.adapted
    method = strategy_class(experiment.strategy.name)
    measured = (
        experiment.base_name == CHEST
        and experiment.warm_start == "synthetic"
        and not (method.needs_lora or method.server_state)
        and train.optimizer == "momentum"
        and train.momentum == Train().momentum
        and train.learning_rate == 0
        and privacy.epsilon > 0
        and privacy.unit != "hospital"
    )
    if not measured:
        return None
    if not lora.targets:
        return HEAD
    return LAST_LAYER if lora.targets == ("all-linear",) and (lora.layers, lora.rank) == (1, Lora().rank) else None


def expected_gain(curve: Curve, recipe: Recipe, plan: PrivacyPlan) -> ExpectedGain:
    """From public figures alone: the plan and the recipe of a warm start."""
    rate = learning_rate(recipe, plan)
    new, known = curve.at(rate * recipe.total_steps / (1 - recipe.momentum))
    return ExpectedGain(rate, new, known)
