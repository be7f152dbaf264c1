"""Before any training: how loud the noise of a run will be beside its signal, and what could be trained instead.

Nothing here is a privacy claim. Epsilon is the accountant's (``accounting.py``); the Gaussian-DP parameter mu below
under-reports subsampled steps, and serves to compare noise with signal only.

The ratio: a run of T steps moves a trainable vector by the sum of T averaged gradients, at most C long each, and adds T
times noise of standard deviation sigma C / B in each of d coordinates, averaged over m hospitals. So noise over the
largest signal is

    rho = sqrt(d T / m) (sigma C / B) / (T C) = sigma sqrt(d) / (B sqrt(T m)).

For many steps and large noise sigma is about B sqrt(T) / (mu N), with mu the Gaussian-DP parameter of (epsilon, delta)
(Dong et al., arXiv 1905.02383; exact for B = N), and steps and batch cancel:

    rho = sqrt(d) / (mu N sqrt(m)).

It is a worst case: noise in all directions against a gradient that always has the same one. Gradients that lie in few
directions do better (Li et al., arXiv 2110.05679), gradients far below the clip norm worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scipy import optimize, stats

from fedrad.errors import PlanError
from fedrad.training.strategy import Strategy, numbers_of

if TYPE_CHECKING:  # it needs torch, and the report on a ledger does not
    from fedrad.model.adapter import LoRASpec

# Below the first the noise is a nuisance, above the second it is most of what is trained.
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
    """rho by the planning formula: what a run comes to whose batches are large.

    Args:
        trainable: d, the numbers that a step trains and therefore noises.
        declared_size: N, units of one hospital.
        hospitals: m, those averaged in a round.
        shared: the hospitals share one hospital's noise under secure aggregation (sigma / sqrt(m) each), which is
            sound for one noisy step in a round only.
    """
    averaged = hospitals**2 if shared else hospitals
    return math.sqrt(trainable) / (gdp_mu(epsilon, delta) * declared_size * math.sqrt(averaged))


def noise_to_signal_of_steps(
    trainable: int, *, noise_multiplier: float, batch: int, steps: int, hospitals: int
) -> float:
    """rho of these very steps: never much below the formula's, and far above it for small batches at large epsilon."""
    return noise_multiplier * math.sqrt(trainable) / (batch * math.sqrt(steps * hospitals))


def noise_to_signal_of_label(share: float, whole: float) -> float:
    """rho of one label among several: infinite for a label without a positive.

    A step holds q n_pos = B n_pos / N positives of a label on average. They move the label's own row of the head, d_l
    numbers, by q n_pos C at most, under noise of standard deviation sigma C in each. Over T steps and m hospitals

        rho_l = sigma sqrt(d_l) / (q n_pos sqrt(T m)) = rho(d_l) / share,    share = n_pos / N.

    It is a best case, unlike rho of the whole: every positive has a gradient of full clip norm, all of it for this
    label. At rho_l >= ``DOMINATED`` even that is no louder than the noise.

    Args:
        share: of the reports that are positive, from public text or a declared figure, in [0, 1].
        whole: rho(d_l) by ``noise_to_signal_of_steps`` for the numbers of the label's row.
    """
    return whole / share if share > 0 else math.inf


def noise_per_step(noise_multiplier: float, clip: float, batch: int) -> float:
    """Standard deviation of the noise in each coordinate of the averaged gradient."""
    return noise_multiplier * clip / batch


def verdict(rho: float) -> str:
    """``fine``, ``borderline`` or ``noise-dominated``."""
    return "fine" if rho < BORDERLINE else "borderline" if rho < DOMINATED else "noise-dominated"


def trainable_numbers(strategy: Strategy, lora: LoRASpec, layers: Layers, head: int) -> int:
    """d: how many numbers one noisy step trains; where factors take turns, the larger ones. What rests takes no noise.

    Args:
        lora: as the configuration has it.
        head: numbers of the classification head, labels x (hidden + 1).
    """
    numbers = {"head": head, **numbers_of(strategy.shape(lora), layers)}
    blocks = [block for round in (1, 2) for block in strategy.blocks(numbers, round)]
    return max(sum(numbers[name] for name in block) for block in blocks)


@dataclass(frozen=True)
class Choice:
    """A strategy with a rank; ``rank`` is 0 for the head alone.

    Attributes:
        trainable: d.
        rho: its noise-to-signal.
    """

    strategy: str
    rank: int
    trainable: int
    rho: float


def choices(
    layers: Layers, head: int, rho: Callable[[int], float], strategies: Sequence[Strategy], lora: LoRASpec
) -> tuple[Choice, ...]:
    """What could be trained, and how noisy each is; the strategies that train least stand first.

    Args:
        layers: the layers that would be adapted; without any there is only the head.
        rho: noise-to-signal of d trainable numbers.
        lora: the structure, of which each of ``RANKS`` is tried that fits into every layer.
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
    """The choice with most trainable numbers whose rho is below the threshold; if none is, the one with fewest."""
    quiet = [choice for choice in offered if choice.rho < threshold]
    if quiet:
        return max(quiet, key=lambda choice: choice.trainable)
    return min(offered, key=lambda choice: choice.trainable)
