"""What private training is expected to change, where it starts from a public base.

The figures were measured on two generated corpora (`benchmarks/private_phase.py`), so looking them up costs no privacy:
the wording and label rules of one are new to the base; the other is what the base was trained on.
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
    """Mean change of weighted F1 against the distance trained, rate x steps / (1 - momentum).

    Each point is a mean over the shard sizes, epsilons, numbers of hospitals and seeds whose automatic rate gives about
    this distance.

    Attributes:
        lengths: the distances, increasing.
        new: the change where the hospital's wording and label rules are new to the base.
        known: the change where they are those of the base's training data.
    """

    lengths: tuple[float, ...]
    new: tuple[float, ...]
    known: tuple[float, ...]

    def at(self, length: float) -> tuple[float, float]:
        """(new, known), interpolated between the measured distances on a logarithmic scale."""
        x, xs = np.log(length), np.log(self.lengths)
        return float(np.interp(x, xs, self.new)), float(np.interp(x, xs, self.known))


HEAD = Curve(
    lengths=(0.43, 1.95, 5.42, 12.5, 36.1, 87.5, 216.0, 570.0),
    new=(-0.001, 0.002, 0.012, 0.028, 0.067, 0.109, 0.127, 0.143),
    known=(-0.001, -0.001, -0.001, -0.001, -0.001, -0.001, -0.001, 0.0),
)
# One hospital, one seed. For `known` only two distances were measured: 78 (0.000) and 478 (0.001).
LAST_LAYER = Curve(
    lengths=(9.73, 29.0, 85.0, 216.0, 488.0, 846.0, 1200.0),
    new=(0.024, 0.073, 0.124, 0.146, 0.160, 0.167, 0.172),
    known=(0.0, 0.0, 0.0, 0.0, 0.001, 0.001, 0.001),
)
SMALL = 0.005


@dataclass(frozen=True)
class ExpectedGain:
    """Expected change of weighted F1 at step size ``rate``; ``new`` and ``known`` as in `Curve`."""

    rate: float
    new: float
    known: float

    @property
    def worthwhile(self) -> bool:
        """Whether the expected gain is larger than the random variation of F1."""
        return self.new >= SMALL

    def __str__(self) -> str:
        says = (
            f"at step size {self.rate:.3g} private training changed weighted F1 on generated reports by"
            f" {self.new:+.3f} where wording and label rules were new to the public base, and by {self.known:+.3f}"
            " where the base was trained on them"
        )
        return says if self.worthwhile else f"{says}; the start is as good, and costs no epsilon"


def curve_of(experiment: Experiment) -> Curve | None:
    """The measured curve for these settings, or None where they were not measured.

    Measured were the head alone, and the head with LoRA on all linear modules of the last layer; both start from the
    public base that comes with fedrad and use the default momentum and the automatic step size.
    """
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


def expected_gain(experiment: Experiment, plan: PrivacyPlan, hospitals: int = 1) -> ExpectedGain | None:
    """The gain of a warm start with this plan, averaged over ``hospitals``; None where it was not measured."""
    curve = curve_of(experiment)
    if curve is None:
        return None
    recipe = Recipe.of(experiment, sites=hospitals, warm=True)
    rate = learning_rate(recipe, plan)
    new, known = curve.at(rate * recipe.total_steps / (1 - recipe.momentum))
    return ExpectedGain(rate, new, known)
