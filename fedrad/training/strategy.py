"""A strategy: what is trained in a round, what travels, how the hospitals' adapters become the next one.

Pure functions over tensors by name; Flower appears only in ``fedrad.federation``. Implementations are found by name
through the entry points "fedrad.strategies" (the package ``strategies`` holds ours), so anybody may add one.

A state is all public tensors of a run: ``<layer>.lora_A`` [r, in], ``<layer>.lora_B`` [out, r], ``<layer>.lora_R``
[r, r] where the strategy has a core, ``head.weight``, ``head.bias``, the constants ``centre`` and ``scale``, and the
base residual of strategies that have one: ``<layer>.base_A.<k>`` [m, in] and ``<layer>.base_B.<k>`` [out, m], which
mean that the frozen weight of the layer is W0 + sum_k base_B.k base_A.k.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from fedrad.config import Experiment
from fedrad.installed import strategy_class
from fedrad.rules import Rule
from fedrad.settings import Strategy as Settings

if TYPE_CHECKING:  # the configuration asks a strategy's class about itself, and is read without torch
    from torch import Tensor

    from fedrad.model.adapter import LoRASpec

Tensors: TypeAlias = "Mapping[str, Tensor]"


@dataclass(frozen=True)
class Contribution:
    """What one hospital sent in a round.

    Attributes:
        adapter: the tensors that travel in this round, noised.
        weight: public; the weights of a round sum to 1.
        rank: of its LoRA matrices.
    """

    adapter: Tensors
    weight: float
    rank: int


@dataclass(frozen=True)
class Round:
    """The public facts of a round.

    Attributes:
        number: counted from 1; every round before it was aggregated.
        seed: ``train.seed``, for whatever a strategy draws anew; it needs no secrecy.
        lora: rank and alpha at the server. A hospital of rank r scales its product by ``lora.alpha / r``.
    """

    number: int
    seed: int
    lora: LoRASpec


class Strategy(ABC):
    """Base of all strategies.

    Guarantee: ``advance``, ``for_rank`` and ``export`` see tensors that were noised at the hospitals (or, where the
    hospital is the unit, at the server before), and public values. So whatever they do is post-processing and costs no
    privacy.

    Attributes:
        averaging: the next state is a function of the weighted mean of what was sent, so that a server which learns the
            sum alone can follow it (secure aggregation, hospital-level privacy).
        mixed_ranks: hospitals may have ranks of their own.
        needs_lora: there must be adapted layers.
        chooses_factors: it says itself which factors of LoRA are trained, so ``lora.freeze-a`` must be false.
        server_state: the server keeps tensors from round to round (``advance``).
        offered: ``fedrad plan`` offers it.
        keeps_moments: the optimizer's moments of a hospital still mean something after the aggregation.
        keeps_average: iterates of different rounds may be averaged: they are in the same coordinates.
    """

    averaging: ClassVar[bool] = False
    mixed_ranks: ClassVar[bool] = False
    needs_lora: ClassVar[bool] = True
    chooses_factors: ClassVar[bool] = False
    server_state: ClassVar[bool] = False
    offered: ClassVar[bool] = False
    keeps_moments: ClassVar[bool] = True
    keeps_average: bool = True  # may depend on the settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def rules(experiment: Experiment) -> list[Rule]:
        """Settings that exclude each other under this strategy alone."""
        return []

    def shape(self, lora: LoRASpec) -> LoRASpec:
        """The adapter's structure under this strategy: what it freezes, how it initialises."""
        return lora

    def blocks(self, names: Collection[str], round: int) -> tuple[frozenset[str], ...]:
        """The blocks of tensors that a round's steps train in turn, as in block coordinate descent: step i trains
        block i modulo their number.

        A hospital sends the tensors of all blocks.

        Args:
            names: all tensors that the structure lets train.
            round: counted from 1.
        """
        return (frozenset(names),)

    def sent(self, names: Collection[str], round: int) -> frozenset[str]:
        """The names of what a hospital sends in a round."""
        return frozenset().union(*self.blocks(names, round))

    @abstractmethod
    def aggregate(self, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
        """The whole next state from the present one and what the hospitals sent, which is sorted by site."""

    def advance(
        self, state: Tensors, memory: Tensors, sent: Sequence[Contribution], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The next state, and what the server alone remembers: the moments of an optimizer, for instance.

        The memory is checkpointed with the run. It is in no message and no export; neither ``for_rank`` nor ``export``
        gets it.

        Args:
            memory: what the round before returned; empty in the first.
        """
        return self.aggregate(state, sent, round), {}

    def for_rank(self, state: Tensors, rank: int, round: Round) -> dict[str, Tensor]:
        """The state as a hospital of this rank gets it."""
        return dict(state)

    def export(self, state: Tensors, lora: LoRASpec) -> tuple[dict[str, Tensor], LoRASpec]:
        """The final state as plain LoRA on the unchanged base model: no core, no residual, maybe of higher rank."""
        return dict(state), lora


class AveragingStrategy(Strategy):
    """Every tensor that travels becomes its weighted mean; then ``after_mean``."""

    averaging: ClassVar[bool] = True

    def aggregate(self, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
        return self.after_mean(state, weighted_mean([c.adapter for c in sent], [c.weight for c in sent]), round)

    def after_mean(self, state: Tensors, mean: Tensors, round: Round) -> dict[str, Tensor]:
        """The next state from the present one and the mean of what was sent."""
        return {**state, **mean}


def weighted_mean(adapters: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """sum_i w_i theta_i for each tensor, in the order given.

    One adapter with weight 1.0 comes back bit for bit, since 1.0 * x = x; written as theta_0 + sum w_i (theta_i -
    theta_0) it would not. The order of the sum is the caller's: floating-point addition is not associative.

    Guarantee: post-processing of tensors that were noised before they arrived; the weights must be public.

    Args:
        adapters: tensors by name, the same names and shapes in each.
        weights: public, non-negative, summing to 1.
    """
    mean: dict[str, Tensor] = {}
    for name in adapters[0]:
        total = adapters[0][name] * weights[0]
        for adapter, weight in zip(adapters[1:], weights[1:], strict=True):
            total = total + adapter[name] * weight
        mean[name] = total.float()
    return mean


def numbers_of(lora: LoRASpec, layers: Sequence[tuple[int, int]]) -> dict[str, int]:
    """How many numbers the tensors have that this structure lets train, by name; the head is not among them.

    Args:
        lora: as ``Strategy.shape`` makes it.
        layers: (inputs, outputs) of each adapted layer.
    """
    numbers = {}
    for k, (inputs, outputs) in enumerate(layers if lora.targets else ()):
        if lora.core:
            numbers[f"{k}.lora_R"] = lora.rank**2
        if not (lora.core or lora.freeze_a):
            numbers[f"{k}.lora_A"] = lora.rank * inputs
        if not (lora.core or lora.freeze_b):
            numbers[f"{k}.lora_B"] = lora.rank * outputs
    return numbers


def strategy_of(experiment: Experiment) -> Strategy:
    """The strategy that the configuration names.

    Raises:
        ConfigError: it can't be imported.
    """
    strategy: Strategy = strategy_class(experiment.strategy.name)(experiment.strategy)
    return strategy
