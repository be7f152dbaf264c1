"""What private training of the head is expected to change, where it starts from a public base.

Measured on generated stand-ins for a hospital (`benchmarks/private_phase.py`), which are public, so that asking costs
no privacy: one has words and label rules that the base has never seen, the other is what the base was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrad.config import Experiment
from fedrad.privacy.plan import PrivacyPlan
from fedrad.settings import CHEST
from fedrad.training.recipe import Recipe, learning_rate

# By the length of the walk, rate x steps / (1 - momentum): the mean change of weighted F1 over sizes, epsilons, numbers
# of hospitals and seeds whose automatic rate gives about that length.
LENGTHS = (0.43, 1.95, 5.42, 12.5, 36.1, 87.5, 216.0, 570.0)
WHERE_WORDS_ARE_NEW = (-0.001, 0.002, 0.012, 0.028, 0.067, 0.109, 0.127, 0.143)
WHERE_ALL_IS_KNOWN = (-0.001, -0.001, -0.001, -0.001, -0.001, -0.001, -0.001, 0.0)
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


def measured_for(experiment: Experiment) -> bool:
    """Whether the figures are about such a run: the head alone, from the public base that comes with fedrad, by
    momentum at the automatic step size. At another step size the noise is not what it was."""
    train, privacy = experiment.train, experiment.privacy
    return (
        experiment.base_name == CHEST
        and experiment.warm_start == "synthetic"
        and not experiment.adapted.targets
        and train.optimizer == "momentum"
        and train.learning_rate == 0
        and privacy.epsilon > 0
        and privacy.unit != "hospital"
    )


def expected_gain(recipe: Recipe, plan: PrivacyPlan) -> ExpectedGain:
    """From public figures alone: the plan and the recipe of a warm start."""
    rate = learning_rate(recipe, plan)
    length = np.log(rate * recipe.total_steps / (1 - recipe.momentum))
    known, new = (
        float(np.interp(length, np.log(LENGTHS), values)) for values in (WHERE_ALL_IS_KNOWN, WHERE_WORDS_ARE_NEW)
    )
    return ExpectedGain(rate, new, known)
