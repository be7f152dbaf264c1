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
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import ConfigError, place_of
from fedrad.model.adapter import LoRASpec
from fedrad.settings import Strategy as Settings

Tensors = Mapping[str, Tensor]


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
        number: counted from 1.
        seed: ``train.seed``, for whatever a strategy draws anew; it needs no secrecy.
        lora: rank and alpha at the server. A hospital of rank r scales its product by ``lora.alpha / r``.
    """

    number: int
    seed: int
    lora: LoRASpec


class Strategy(ABC):
    """Base of all strategies.

    Guarantee: ``aggregate``, ``for_rank`` and ``export`` see tensors that were noised at the hospitals, and public
    values. So whatever they do is post-processing and costs no privacy.

    Attributes:
        averaging: the next state is a function of the weighted mean of what was sent, so that a server which learns the
            sum alone can follow it (secure aggregation, hospital-level privacy).
        mixed_ranks: hospitals may have ranks of their own.
        keeps_moments: the optimizer's moments of a hospital still mean something after the aggregation.
        keeps_average: iterates of different rounds may be averaged: they are in the same coordinates.
    """

    averaging: ClassVar[bool] = False
    mixed_ranks: ClassVar[bool] = False
    keeps_moments: ClassVar[bool] = True
    keeps_average: bool = True  # may depend on the settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def problems(self, experiment: Experiment) -> list[str]:
        """What in this configuration the strategy can't work with, each with its key. Subclasses add their own."""
        server, largest = experiment.lora.rank, max(experiment.sites.ranks, default=0)
        if largest and not self.mixed_ranks and set(experiment.sites.ranks) != {server}:
            return [
                f"sites.ranks: under strategy.name={experiment.strategy.name} every hospital has the rank of lora.rank;"
                " leave it empty, or take strategy.name=flexlora or flora"
            ]
        if largest > server:
            return [f"lora.rank: is the server's, at least the largest of sites.ranks; set it to {largest}"]
        return []

    def shape(self, lora: LoRASpec) -> LoRASpec:
        """The adapter's structure under this strategy: what it freezes, how it initialises."""
        return lora

    def turns(self, names: Collection[str], round: int) -> tuple[frozenset[str], ...]:
        """Which tensors the local steps of a round train: step i takes turn i modulo their number.

        What any turn trains is what a hospital sends.

        Args:
            names: all tensors that the structure lets train.
            round: counted from 1.
        """
        return (frozenset(names),)

    def sent(self, names: Collection[str], round: int) -> frozenset[str]:
        """The names of what a hospital sends in a round."""
        return frozenset().union(*self.turns(names, round))

    @abstractmethod
    def aggregate(self, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
        """The whole next state from the present one and what the hospitals sent, which is sorted by site."""

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
        mean[name] = total.to(torch.float32)
    return mean


def strategy_of(experiment: Experiment) -> Strategy:
    """The strategy that the configuration names.

    Raises:
        ConfigError: there is none of that name, or it can't work with the configuration (all reasons at once).
    """
    name = experiment.strategy.name
    found = {entry.name: entry for entry in entry_points(group="fedrad.strategies")}
    if name not in found:
        raise ConfigError(f"strategy.name: no strategy {name!r} is installed; there are {', '.join(sorted(found))}")
    strategy = _loaded(found[name])(experiment.strategy)
    if not isinstance(strategy, Strategy):
        raise ConfigError(f"strategy.name: {name!r} is no fedrad.training.strategy.Strategy")
    problems = list(strategy.problems(experiment))
    privacy = experiment.privacy
    hides = {"unit=hospital": privacy.unit == "hospital", "secure-aggregation": privacy.secure_aggregation}
    for key in (key for key, applies in hides.items() if applies):
        if not isinstance(strategy, AveragingStrategy):
            problems.append(
                f"strategy.name: {name} needs every hospital's update, and with privacy.{key} nothing but the mean is"
                " seen; take one that averages (fedavg, ffa, rolora, fedsb, refactor or head)"
            )
    if problems:
        raise ConfigError(problems)
    return strategy


def _loaded(entry: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        ConfigError: it can't be imported, or lies in a package that hides the one of this name that fedrad brings.
    """
    package = entry.module.partition(".")[0]
    ours = package == "strategies" and entry.dist is not None and entry.dist.name == "fedrad"
    try:
        found = import_module(package)
        if ours and vars(found).get("OF") != "fedrad":
            raise ConfigError(
                "strategy.name: Python finds another package 'strategies' than the one that comes with fedrad:"
                f" {found.__file__}. If it lies in the working directory, rename it or start elsewhere; if it is"
                " installed, uninstall it and install fedrad again."
            )
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"strategy.name: {entry.name!r} ({entry.value}) can't be imported: {type(error).__name__} at"
            f" {place_of(error)}"
        ) from None
