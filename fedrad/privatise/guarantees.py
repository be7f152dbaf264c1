"""What an observer of an answer learns at most: the figures of every mechanism, known without a table or a text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

Kappa = Literal["paper", "code"]
CHORD: Final = "chordal distance, the Euclidean distance of unit vectors, from 0 to 2"
LENGTH_SHARE: Final = 0.1
"""Of ``full-polar``'s budget, for the length."""


@dataclass(frozen=True)
class Guarantee:
    """What an observer of one answer, who knows mechanism and table, learns at most.

    The log-ratio of the answer's probabilities under two tokens is at most ``rate * distance``.

    Attributes:
        rate: per unit of the distance.
        metric: the distance, in words.
        diameter: its largest value over all pairs.
    """

    rate: float
    metric: str
    diameter: float

    @property
    def worst(self) -> float:
        """The bound of the log-ratio over all pairs of tokens: the epsilon of pure local differential privacy."""
        return self.rate * self.diameter


def guarantee_of(mechanism: str, epsilon: float, kappa: Kappa = "paper") -> Guarantee:
    """What an answer at this budget gives away at most; each mechanism's docstring says why."""
    match mechanism:
        case "polar":
            return Guarantee(epsilon * per_epsilon(kappa), CHORD, 2.0)
        case "full-polar":
            direction = (1 - LENGTH_SHARE) * per_epsilon(kappa)
            metric = f"{direction:.3g} x chordal distance + {LENGTH_SHARE:.3g} x difference of lengths / their range"
            return Guarantee(epsilon, metric, 2 * direction + LENGTH_SHARE)
        case "coordinate-laplace":
            return Guarantee(epsilon, "L1 distance of embeddings / the table's total range, from 0 to 1", 1.0)
        case "laplace" | "santext" | "tem":
            return Guarantee(epsilon, CHORD, 2.0)
    raise ValueError(mechanism)


def per_epsilon(kappa: Kappa) -> float:
    """kappa for an epsilon of 1."""
    return 1.0 if kappa == "paper" else 1 / math.pi
