"""Mechanisms that draw from the vocabulary itself, instead of moving a vector: the exponential mechanism's family.

``mechanism_named`` finds all mechanisms by name, also those of ``mechanisms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrad.privacy.randomness import Stream
from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.guarantees import Kappa
from fedrad.privatise.mechanisms import (
    CoordinateLaplace,
    FullPolar,
    Laplace,
    Mechanism,
    Polar,
    blocks,
    unit_rows,
)
from fedrad.privatise.sphere import Floats


@dataclass(frozen=True)
class SanText:
    """SanText (Yue et al., Findings of ACL 2021), on unit vectors: Pr[v] proportional to ``exp(-epsilon ||u-v|| / 2)``.

    Under a profile that keeps all tokens without identifiers it is what they call SanText+, without their chance of
    replacing a kept token.

    Guarantee:
        Numerator and normaliser each change by at most ``exp(epsilon ||u - u'|| / 2)``: rate epsilon in the chordal
        distance. Distances are computed in float32, wrong by up to 5e-4, and the answer is drawn by inverting the
        distribution at a uniform number of 53 bits.
    """

    table: Table
    name: ClassVar[str] = "santext"

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """As in ``Mechanism``."""
        return _exponential(self.table, 2.0, tokens, epsilon, stream)


@dataclass(frozen=True)
class TruncatedExponential:
    """TEM (Carvalho et al., 2021), on unit vectors: the exponential mechanism with all far outputs taken as one.

    Outputs within ``radius`` weigh ``exp(-epsilon ||u-v|| / 2)``. The n others share a weight of
    ``n exp(-epsilon radius / 2)``: one of them is drawn uniformly.

    Guarantee:
        An output's score, ``min(||u - v||, radius)``, changes by at most ``||u - u'||`` between two tokens, and so do
        numerator and normaliser: rate epsilon in the chordal distance.
    """

    table: Table
    radius: float = 1.0
    name: ClassVar[str] = "tem"

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """As in ``Mechanism``."""
        return _exponential(self.table, self.radius, tokens, epsilon, stream)


def mechanism_named(name: str, table: Table, kappa: Kappa) -> Mechanism:
    """One of ``budgets.MECHANISMS`` on a table; only the polar ones have a kappa."""
    match name:
        case "polar":
            return Polar(table, kappa)
        case "full-polar":
            return FullPolar(table, kappa)
        case "laplace":
            return Laplace(table)
        case "coordinate-laplace":
            return CoordinateLaplace(table)
        case "santext":
            return SanText(table)
        case "tem":
            return TruncatedExponential(table)
    raise ValueError(name)


def _exponential(table: Table, radius: float, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
    """Outputs v with probability proportional to ``exp(-epsilon min(||u-v||, radius) / 2)``.

    Texts repeat their tokens, so each distribution is computed once.
    """
    pairs, which = np.unique(np.stack((tokens, epsilon)), axis=1, return_inverse=True)
    distinct, budgets = pairs[0].astype(np.int64), pairs[1]
    uniform = stream.uniform(len(tokens))
    answers = np.empty_like(tokens)
    which = which.ravel()
    order = np.argsort(which, kind="stable")
    ends = np.searchsorted(which[order], np.arange(len(distinct)), side="right")
    for part in blocks(len(distinct)):
        cosines = table.cosines(unit_rows(table, distinct[part])).astype(np.float64)
        chords = np.sqrt(np.maximum(2 - 2 * cosines, 0))
        sums = np.cumsum(np.exp(-budgets[part, None] / 2 * np.minimum(chords, radius)), axis=1)
        for row, k in zip(sums, range(part.start, part.stop), strict=True):
            mine = order[ends[k - 1] if k else 0 : ends[k]]
            found = np.searchsorted(row, uniform[mine] * row[-1], side="right")
            answers[mine] = table.outputs[np.minimum(found, len(row) - 1)]
    return answers
