"""How many numbers a hospital sends and is sent in a round, from shapes alone.

A number is a float32: four bytes. Names, shapes and Flower's envelope come on top. What is counted down is what
changed: a hospital that took part in all rounds before has the rest. The first state is not counted; no strategy
differs in it but by the structure of its LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrad.model.adapter import LoRASpec
from fedrad.settings import Strategy as Settings


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
    settings: Settings, lora: LoRASpec, shapes: Shapes, ranks: Sequence[int], hospital: int, round: int
) -> Traffic:
    """The traffic of one hospital in one round, for the strategies of this package.

    Residuals (fedex, flora) are counted with full rank: they may be less where products are rank-deficient.

    Args:
        lora: the server's. Its ``freeze_a`` and ``freeze_b`` matter for fedavg, since the other strategies say
            themselves what they train.
        ranks: of all hospitals, each of which takes part in every round.
        hospital: which of them.
        round: counted from 1.

    Raises:
        ValueError: a strategy that is not of this package.
    """
    r = ranks[hospital]
    a = sum(r * inputs for _, inputs in shapes.layers)
    b = sum(r * outputs for outputs, _ in shapes.layers)
    match settings.name:
        case "fedavg":
            both = (0 if lora.freeze_a else a) + (0 if lora.freeze_b else b)
            up, down = both, both
        case "ffa":
            up, down = b, b
        case "rolora" if settings.alternate == "round":
            up = down = b if round % 2 else a
        case "rolora" | "flexlora":
            up, down = a + b, a + b
        case "fedsb":
            up = down = r * r * len(shapes.layers)
        case "refactor":
            up, down = b, b + (0 if round % settings.every else a)
        case "fedex":
            up, down = a + b, a + b + _residual(shapes, (len(ranks) - 1) * r, round)
        case "flora":
            up, down = a + b, a + _residual(shapes, sum(ranks), round)
        case "head":
            up, down = 0, 0
        case name:
            raise ValueError(f"no formula for the strategy {name!r}")
    return Traffic(up + shapes.head, down + shapes.head)


def _residual(shapes: Shapes, rank: int, round: int) -> int:
    """Numbers of the residual of this round, if every round adds ``rank``.

    As soon as that is more than a layer can have, every round makes all of it one pair (``strategies.residual``).
    """
    sizes = [(min(layer), sum(layer)) for layer in shapes.layers]
    return sum((most if rank * round > most else rank) * both for most, both in sizes)
