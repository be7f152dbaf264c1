"""How many numbers a hospital sends and receives in a round, computed from shapes.

A number is a float32 (four bytes). Names, shapes and Flower's envelope are not counted. Downward, only what changed is
counted, for a hospital that took part in all earlier rounds. The initial state is not counted either; strategies differ
in it only by the structure of LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import Strategy, numbers_of


@dataclass(frozen=True)
class Shapes:
    """The sizes that traffic depends on.

    Attributes:
        layers: (out, in) of every adapted layer.
        head: numbers of the head, labels (d + 1).
    """

    layers: tuple[tuple[int, int], ...]
    head: int


@dataclass(frozen=True)
class Traffic:
    """Numbers per hospital and round: ``up`` to the server, ``down`` from it after the round's aggregation."""

    up: int
    down: int


def traffic(
    strategy: Strategy, lora: LoRASpec, shapes: Shapes, ranks: Sequence[int], hospital: int, round: int
) -> Traffic:
    """The traffic of one hospital in one round. Except for three strategies, it is the same in both directions.

    Residuals (fedex, flora) are counted at full rank; they may be smaller if products are rank-deficient.

    Args:
        lora: the server's, as ``Strategy.shape`` makes it.
        ranks: of all hospitals, each of which takes part in every round.
        hospital: which of them.
        round: counted from 1.
    """
    r = ranks[hospital]
    numbers = numbers_of(replace(lora, rank=r), [(inputs, outputs) for outputs, inputs in shapes.layers])
    up = down = sum(numbers[name] for name in strategy.sent(numbers, round))
    a = sum(r * inputs for _, inputs in shapes.layers)
    match strategy.settings.name:
        case "refactor" if round % strategy.settings.every == 0:
            down += a
        case "fedex":
            down += _residual(shapes, (len(ranks) - 1) * r, round)
        case "flora":
            down = a + _residual(shapes, sum(ranks), round)
    return Traffic(up + shapes.head, down + shapes.head)


def _residual(shapes: Shapes, rank: int, round: int) -> int:
    """The numbers of this round's residual, if every round adds ``rank``.

    Once the total rank exceeds that of the layer, every round sends it as one pair (``strategies.residual``).
    """
    sizes = [(min(layer), sum(layer)) for layer in shapes.layers]
    return sum((most if rank * round > most else rank) * both for most, both in sizes)
