"""The public choices of the optimisation: what is configured, and the step size that follows from public figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fedrad.config import Experiment
from fedrad.model.encoder import is_head
from fedrad.privacy.noise_share import SharedNoiseTerms
from fedrad.privacy.plan import PrivacyPlan

# Chosen on generated and public reports (benchmarks/utility.py); nothing private decides them.
LARGEST_REACH = 40.0
RATE_WITHOUT_PRIVACY = 0.5

LORA_SHARE, LORA_SCALE = 0.06, 0.3
COLD_WALK, WARM_WALK = 1.0, 0.3
LARGEST_WARM_REACH = 20.0


@dataclass(frozen=True)
class Recipe:
    """The public choices of the optimisation.

    Attributes:
        total_steps: noisy steps of the whole run (rounds x local steps); fixes where averaging starts.
        average: share of the last iterates whose mean is the result, in [0, 1). Averaging noised iterates is
            post-processing and costs no privacy (De et al. 2022, arXiv 2204.13650).
        learning_rate: 0 lets ``automatic_learning_rate`` choose.
        sites: hospitals whose adapters are averaged; 1 if the training is centralized.
        warm: whether the run starts from a warmed adapter.
        restarts: the momentum starts anew after so many steps, since nothing is kept of a masked round; 0: never.
    """

    optimizer: Literal["momentum", "adam"]
    learning_rate: float
    momentum: float
    average: float
    gradients: Literal["leaf", "opacus"]
    seed: int
    total_steps: int
    sites: int = 1
    warm: bool = False
    restarts: int = 0

    @staticmethod
    def of(experiment: Experiment, *, sites: int = 1, warm: bool = False) -> Recipe:
        train = experiment.train
        return Recipe(
            optimizer="adam" if train.optimizer == "adam" else "momentum",
            learning_rate=train.learning_rate,
            momentum=train.momentum,
            average=train.average,
            gradients="opacus" if experiment.privacy.gradients == "opacus" else "leaf",
            seed=train.seed,
            total_steps=train.rounds * experiment.local_steps,
            sites=sites,
            warm=warm,
            restarts=experiment.local_steps if experiment.privacy.secure_aggregation else 0,
        )

    @property
    def built_up(self) -> float:
        """How far momentum gets between restarts, of what it comes to without: root mean square of 1 - momentum^j over
        the steps j = 1, ..., ``restarts``."""
        if not self.restarts or self.optimizer != "momentum":
            return 1.0
        steps = np.arange(1, self.restarts + 1)
        return float(np.sqrt(np.mean((1 - self.momentum**steps) ** 2)))

    @property
    def averages_from(self) -> int:
        """The first step (counted from 0) whose result enters the mean."""
        return self.total_steps - round(self.average * self.total_steps)

    def averages(self, step: int) -> bool:
        """Whether the result of this step (counted from 0) enters the mean: none does after the run's last one."""
        return self.averages_from <= step < self.total_steps


def automatic_learning_rate(recipe: Recipe, plan: PrivacyPlan) -> float:
    """A step size from public quantities only.

    With s = noise_multiplier * clip / (divisor * sqrt(sites)), the standard deviation of one step's mean gradient:

    Noise alone moves a coordinate of the head by about lr / (1 - momentum) * s * sqrt(T), and the rate keeps this
    random walk at a fixed length. A cold start has far to go and nothing to lose, and takes a longer one than a warm
    start, whose walk is so short that the noise does not undo the start, however small epsilon is.

    What a gradient moves in all, its reach lr / (1 - momentum), is the same with momentum or without. It is bounded
    where there is little noise.

    This is for momentum that has built up. Where it starts anew in every round, steps are shorter, and the rate is
    larger by that factor.

    Without privacy there is neither noise nor clipping, and the rate is a plain constant.
    """
    if not plan.private:
        return RATE_WITHOUT_PRIVACY
    noise = plan.noise_multiplier * plan.clip / (plan.divisor * recipe.sites**0.5)
    walk, largest = (WARM_WALK, LARGEST_WARM_REACH) if recipe.warm else (COLD_WALK, LARGEST_REACH)
    reach = min(largest, walk / (noise * recipe.total_steps**0.5))
    return reach * (1 - recipe.momentum) / recipe.built_up


def learning_rate(recipe: Recipe, plan: PrivacyPlan) -> float:
    """The step size of a site with this plan: as configured, or chosen from public figures."""
    return recipe.learning_rate or automatic_learning_rate(recipe, plan)


def torch_optimizer(parameters: Mapping[str, torch.nn.Parameter], recipe: Recipe, rate: float) -> torch.optim.Optimizer:
    """The optimizer under the noise: momentum SGD or Adam over exactly these parameters, by name.

    Under momentum the LoRA matrices take ``LORA_SHARE`` of the head's rate: at the head's own rate they diverge, with
    noise or without. In the joint clipping they have the scale ``LORA_SCALE`` (`PrivateOptimizer`). Under Adam both are
    treated alike.
    """
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters.items(), lr=rate, betas=(recipe.momentum, 0.999))
    head = [(name, parameter) for name, parameter in parameters.items() if is_head(name)]
    lora = [(name, parameter) for name, parameter in parameters.items() if not is_head(name)]
    groups = [{"params": head, "lr": rate}, {"params": lora, "lr": LORA_SHARE * rate, "scale": LORA_SCALE}]
    return torch.optim.SGD([group for group in groups if group["params"]], lr=rate, momentum=recipe.momentum)


def step_scales(terms: SharedNoiseTerms, names: Collection[str]) -> dict[str, float]:
    """Learning rate x clip / divisor of each tensor by ``torch_optimizer``, under which the head has the whole rate."""
    scale = terms.step_scales[0]
    lora = LORA_SHARE / LORA_SCALE  # the clipped sum of LoRA is divided by its scale
    return {name: scale if is_head(name) else lora * scale for name in names}
