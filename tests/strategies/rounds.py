"""Rounds on made-up adapters: states, what hospitals send, and the matrices that they stand for, multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fedrad.model.adapter import LoRASpec
from fedrad.settings import Strategy as Settings
from fedrad.training.strategy import Contribution, Round, Strategy, Tensors
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedex import FedEx
from strategies.fedsb import FedSB
from strategies.ffa import FFA
from strategies.flexlora import FlexLoRA
from strategies.flora import FLoRA
from strategies.head import Head
from strategies.refactor import Refactor
from strategies.rolora import RoLoRA

NAMES = ("first.query", "second.value")
STRATEGIES: dict[str, Strategy] = {
    "fedavg": FedAvg(Settings(name="fedavg")),
    "fedavgm": FedAvgM(Settings(name="fedavgm")),
    "fedadam": FedAdam(Settings(name="fedadam")),
    "ffa": FFA(Settings(name="ffa")),
    "rolora": RoLoRA(Settings(name="rolora")),
    "rolora by step": RoLoRA(Settings(name="rolora", alternate="step")),
    "fedsb": FedSB(Settings(name="fedsb")),
    "refactor": Refactor(Settings(name="refactor")),
    "refactor at 1/2": Refactor(Settings(name="refactor", tau=0.5)),
    "fedex": FedEx(Settings(name="fedex")),
    "flora": FLoRA(Settings(name="flora")),
    "flexlora": FlexLoRA(Settings(name="flexlora")),
    "head": Head(Settings(name="head")),
}
SAME_BITS = ("fedavg", "ffa", "rolora", "rolora by step", "fedsb", "fedex", "head")
EXACT = ("ffa", "rolora", "fedsb", "refactor", "refactor at 1/2", "fedex", "flora")


@dataclass(frozen=True)
class Case:
    """Layers that are not square, alpha / rank that is not 1, weights that are not equal."""

    out: int
    inputs: int
    rank: int
    alpha: float
    weights: tuple[float, ...]
    seed: int

    @property
    def lora(self) -> LoRASpec:
        return LoRASpec(self.rank, self.alpha, ("query", "value"))

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) by layer; the second lies on its side."""
        return {NAMES[0]: (self.out, self.inputs), NAMES[1]: (self.inputs, self.out)}

    def round(self, strategy: Strategy, number: int = 1) -> Round:
        return Round(number, self.seed, strategy.shape(self.lora))


@st.composite
def cases(draw: Any, most: int = 5, fewest: int = 1, ranks: tuple[int, int] = (1, 3)) -> Case:
    rank = draw(st.integers(*ranks))
    out = draw(st.integers(rank, 9))
    inputs = draw(st.integers(rank, 9).filter(lambda n: n != out))
    sizes = draw(st.lists(st.integers(1, 5000), min_size=fewest, max_size=most))
    return Case(
        out=out,
        inputs=inputs,
        rank=rank,
        alpha=draw(st.sampled_from([0.5, 1.0, 3.0, 8.0])),
        weights=tuple(size / sum(sizes) for size in sizes),
        seed=draw(st.integers(0, 2**31)),
    )


def generator(*seeds: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash(seeds) % 2**63)


def first_state(case: Case, strategy: Strategy, *, warm: bool = True) -> dict[str, Tensor]:
    """A state under the strategy's structure. ``warm``: B and R are not zero."""
    random, spec = generator(case.seed), strategy.shape(case.lora)
    state = {"head.weight": torch.randn(3, 4, generator=random), "head.bias": torch.randn(3, generator=random)}
    state |= {"centre": torch.randn(4, generator=random), "scale": torch.ones(4)}
    for layer, (out, inputs) in case.shapes.items() if spec.targets else ():
        for part, shape in (("A", (spec.rank, inputs)), ("B", (out, spec.rank))):
            state[f"{layer}.lora_{part}"] = torch.randn(shape, generator=random)
        if spec.core:
            state[f"{layer}.lora_R"] = torch.randn(spec.rank, spec.rank, generator=random)
        if not warm:
            state[f"{layer}.lora_{'R' if spec.core else 'B'}"].zero_()
    return state


def trainable(state: Tensors, spec: LoRASpec) -> frozenset[str]:
    """What the structure lets train."""
    frozen = {"centre", "scale"}
    frozen |= {name for name in state if ".base_" in name}
    frozen |= {name for name in state if name.endswith(".lora_A") and (spec.freeze_a or spec.core)}
    frozen |= {name for name in state if name.endswith(".lora_B") and (spec.freeze_b or spec.core)}
    return frozenset(state) - frozen


def contributions(
    case: Case,
    strategy: Strategy,
    state: Tensors,
    number: int = 1,
    *,
    step: float = 0.5,
    ranks: Sequence[int] = (),
    same: bool = False,
) -> list[Contribution]:
    """What the hospitals send after moving what is trained by random steps; ``same``: by the same ones."""
    sent = []
    round = case.round(strategy, number)
    for i, weight in enumerate(case.weights):
        rank = ranks[i] if ranks else case.rank
        start = strategy.for_rank(state, rank, round)
        names = strategy.sent(trainable(start, round.lora), number)
        random = generator(case.seed, number, 0 if same else i + 1)
        moved = {n: start[n] + step * torch.randn(start[n].shape, generator=random) for n in sorted(names)}
        sent.append(Contribution(moved, weight, rank))
    return sent


def advanced(strategy: Strategy, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
    """The next state of a server that remembers nothing yet."""
    return strategy.advance(state, {}, sent, round)[0]


def matrix(state: Tensors, layer: str, lora: LoRASpec, rank: int = 0) -> Tensor:
    """What LoRA and residual add to W0, [out, in] in float64."""
    B, A = state[f"{layer}.lora_B"].double(), state[f"{layer}.lora_A"].double()
    core = f"{layer}.lora_R"
    product = B @ state[core].double() @ A if core in state else B @ A
    return residual(state, layer) + lora.alpha / (rank or lora.rank) * product


def residual(state: Tensors, layer: str) -> Tensor:
    """The base residual of a layer, [out, in] in float64."""
    total = torch.zeros(state[f"{layer}.lora_B"].shape[0], state[f"{layer}.lora_A"].shape[1], dtype=torch.float64)
    for name in state:
        if name.startswith(f"{layer}.base_A."):
            total += state[name.replace(".base_A.", ".base_B.")].double() @ state[name].double()
    return total


def mean_matrix(
    case: Case, strategy: Strategy, state: Tensors, sent: Sequence[Contribution], layer: str, number: int = 1
) -> Tensor:
    """The mean of what the hospitals' models add to W0: what an exact strategy arrives at."""
    round = case.round(strategy, number)
    return sum(
        c.weight * matrix({**strategy.for_rank(state, c.rank, round), **c.adapter}, layer, round.lora, c.rank)
        for c in sent
    )  # type: ignore[return-value]


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Within the rounding of float32, by the norms."""
    return bool((one - other).norm() <= tolerance * (1 + max(one.norm(), other.norm())))


def permuted(case: Case, order: Sequence[int]) -> Case:
    return replace(case, weights=tuple(case.weights[i] for i in order))
