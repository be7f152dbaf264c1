"""Before any training: the noise-to-signal ratio of a run, and what could be trained instead.

Nothing here is a privacy claim. ``accounting.py`` computes epsilon. The Gaussian-DP parameter mu below under-reports
subsampled steps; it is used only to compare noise with signal.

The ratio: a run of T steps moves a trainable vector by the sum of T averaged gradients, at most C long each, and adds T
times noise of standard deviation sigma C / B in each of d coordinates, averaged over m hospitals. So noise over the
largest signal is

    rho = sqrt(d T / m) (sigma C / B) / (T C) = sigma sqrt(d) / (B sqrt(T m)).

For many steps and large noise sigma is about B sqrt(T) / (mu N), with mu the Gaussian-DP parameter of (epsilon, delta)
(Dong et al., arXiv 1905.02383; exact for B = N), and steps and batch cancel:

    rho = sqrt(d) / (mu N sqrt(m)).

It is a worst case: noise in all directions against a gradient that always points the same way. Low-rank gradients do
better (Li et al., arXiv 2110.05679); gradients far below the clip norm do worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scipy import optimize, stats

from fedrad.errors import PlanError
from fedrad.privacy.plan import PrivacyPlan
from fedrad.training.strategy import Strategy, numbers_of

if TYPE_CHECKING:  # it needs torch, and the report on a ledger does not
    from fedrad.model.adapter import LoRASpec

# Below the first, noise costs little; above the second, the result is mostly noise.
BORDERLINE, DOMINATED = 0.3, 1.0

RANKS = (1, 2, 4, 8)
_HUGE = 1e10

Layers = Sequence[tuple[int, int]]
"""(inputs, outputs) of each adapted linear layer."""


def gdp_mu(epsilon: float, delta: float) -> float:
    """The mu whose Gaussian mechanism is exactly (epsilon, delta)-DP (Dong et al., corollary 1). For planning only.

    Raises:
        PlanError: epsilon is not positive and finite, or delta not between 0 and 1.
    """
    if not (math.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
        raise PlanError(f"There is no Gaussian mechanism with epsilon {epsilon} and delta {delta}.")
    if epsilon > _HUGE:  # the second term of ``excess`` moves mu by 1/sqrt(2 epsilon) at most
        z = float(stats.norm.ppf(delta))
        return z + math.hypot(z, math.sqrt(2) * math.sqrt(epsilon))

    def excess(mu: float) -> float:
        spent = stats.norm.cdf(mu / 2 - epsilon / mu)
        return float(spent - math.exp(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu)) - delta)

    # Phi(mu/2 - epsilon/mu) alone must exceed delta: at mu = sqrt(2 epsilon) + 2 z it does, for every delta below
    # Phi(z).
    high = math.sqrt(2 * epsilon) + 2 * (abs(float(stats.norm.ppf(delta))) + 10)
    return float(optimize.brentq(excess, 1e-9, high, xtol=1e-14, rtol=1e-12))


def noise_to_signal(
    trainable: int, *, epsilon: float, delta: float, declared_size: int, hospitals: int, shared: bool = False
) -> float:
    """rho by the planning formula: the limit for large batches.

    Args:
        trainable: d, how many numbers a step trains.
        declared_size: N, declared units of one hospital.
        hospitals: m, how many a round averages.
        shared: the hospitals share one hospital's noise under secure aggregation (sigma / sqrt(m) each), which is
            sound for one noisy step a round only.
    """
    averaged = hospitals**2 if shared else hospitals
    return math.sqrt(trainable) / (gdp_mu(epsilon, delta) * declared_size * math.sqrt(averaged))


def noise_to_signal_of_steps(
    trainable: int, *, noise_multiplier: float, batch: int, steps: int, hospitals: int
) -> float:
    """rho of exactly these steps: never much below the formula, far above it for small batches at large epsilon."""
    return noise_multiplier * math.sqrt(trainable) / (batch * math.sqrt(steps * hospitals))


@dataclass(frozen=True)
class Noise:
    """The noise of the hospitals' plans against the largest possible signal. All of it is public.

    Attributes:
        plans: one for each hospital, all with the same number of steps.
        averaged: m, how many hospitals' adapters a round averages.
    """

    plans: Sequence[PrivacyPlan]
    averaged: int

    @property
    def private(self) -> bool:
        """Whether every plan is private."""
        return all(plan.private for plan in self.plans)

    @property
    def batch(self) -> float:
        """Expected units in a hospital's step, averaged over the hospitals."""
        return sum(plan.expected_batch for plan in self.plans) / len(self.plans)

    @property
    def declared(self) -> int:
        """Declared units of all hospitals."""
        return sum(plan.declared_size for plan in self.plans)

    def to_signal(self, trainable: int) -> float:
        """rho for this many trained numbers, with the hospitals' mean noise power."""
        each = [plan.own_noise_multiplier / plan.expected_batch for plan in self.plans]
        power = math.sqrt(sum(noise**2 for noise in each) / len(each))
        return noise_to_signal_of_steps(
            trainable, noise_multiplier=power, batch=1, steps=self.plans[0].steps, hospitals=self.averaged
        )


def noise_to_signal_of_label(prevalence: float, whole: float) -> float:
    """rho of one label among several; infinite for a label without positives.

    On average a step holds q n_pos = B n_pos / N positives of a label. They move the label's own row of the head, d_l
    numbers, by q n_pos C at most, under noise of standard deviation sigma C in each number. Over T steps and m
    hospitals

        rho_l = sigma sqrt(d_l) / (q n_pos sqrt(T m)) = rho(d_l) / prevalence,    prevalence = n_pos / N.

    Unlike rho of the whole adapter this is a best case: it assumes that every positive has a gradient of full clip
    norm, all of it for this label. At rho_l >= ``DOMINATED`` even that is no larger than the noise.

    Args:
        prevalence: fraction of the reports that are positive, from public text or a declared figure, in [0, 1].
        whole: rho(d_l) by ``noise_to_signal_of_steps`` for the numbers of the label's row.
    """
    return whole / prevalence if prevalence > 0 else math.inf


def noise_per_step(noise_multiplier: float, clip: float, batch: int) -> float:
    """Standard deviation of the noise in each coordinate of the averaged gradient."""
    return noise_multiplier * clip / batch


def verdict(rho: float) -> str:
    """``fine``, ``borderline`` or ``noise-dominated``."""
    return "fine" if rho < BORDERLINE else "borderline" if rho < DOMINATED else "noise-dominated"


def trainable_numbers(strategy: Strategy, lora: LoRASpec, layers: Layers, head: int) -> int:
    """d: how many numbers one noisy step trains.

    Args:
        lora: as the configuration has it.
        head: numbers of the classification head, labels x (hidden + 1).
    """
    return most_at_once(strategy, {"head": head, **numbers_of(strategy.shape(lora), layers)})


def most_at_once(strategy: Strategy, numbers: Mapping[str, int]) -> int:
    """d from the size of every tensor. Where blocks of tensors are trained alternately, it is that of the largest."""
    blocks = [block for round in (1, 2) for block in strategy.blocks(numbers, round)]
    return max(sum(numbers[name] for name in block) for block in blocks)


@dataclass(frozen=True)
class Choice:
    """A strategy with a rank (0: the head alone), its ``trainable`` numbers d and its noise-to-signal ratio ``rho``."""

    strategy: str
    rank: int
    trainable: int
    rho: float


def choices(
    layers: Layers, head: int, rho: Callable[[int], float], strategies: Sequence[Strategy], lora: LoRASpec
) -> tuple[Choice, ...]:
    """What could be trained, and how noisy each choice is; strategies that train fewest numbers come first.

    Args:
        layers: the layers that would be adapted; without any there is only the head.
        rho: noise-to-signal ratio of d trainable numbers.
        lora: the structure, tried with each of ``RANKS`` that fits into every layer.
    """
    widest = min((min(layer) for layer in layers), default=0)
    found = []
    for strategy in strategies:
        for rank in [r for r in RANKS if r <= widest] if strategy.shape(lora).targets else [0]:
            d = trainable_numbers(strategy, replace(lora, rank=rank), layers, head)
            found.append(Choice(strategy.settings.name, rank, d, rho(d)))
    least = {choice.strategy: choice.trainable for choice in reversed(found)}
    return tuple(sorted(found, key=lambda choice: least[choice.strategy]))


def richest(offered: Sequence[Choice], threshold: float = BORDERLINE) -> Choice:
    """The choice with the most trainable numbers among those with rho below the threshold, else the smallest choice."""
    quiet = [choice for choice in offered if choice.rho < threshold]
    if quiet:
        return max(quiet, key=lambda choice: choice.trainable)
    return min(offered, key=lambda choice: choice.trainable)
