"""Mechanisms that draw from the vocabulary itself, instead of moving a vector: the exponential mechanism's family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrad.privacy.randomness import Stream
from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.mechanisms import CHORD, Guarantee, blocks, unit_rows
from fedrad.privatise.sphere import Floats


@dataclass(frozen=True)
class SanText:
    """SanText (Yue et al., Findings of ACL 2021), on unit vectors: Pr[v] proportional to ``exp(-epsilon ||u-v|| / 2)``.

    Under a profile that keeps all tokens without identifiers it is what they call SanText+, without their chance of
    replacing a kept token.

    Guarantee:
        Numerator and normaliser each change by at most ``exp(epsilon ||u - u'|| / 2)``: rate epsilon in the chordal
        distance. The answer is drawn by inverting the distribution at a uniform number of 53 bits.
    """

    table: Table
    name: ClassVar[str] = "santext"

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """As in ``Mechanism``."""
        answers = np.empty_like(tokens)
        for part in blocks(len(tokens)):
            weights = np.exp(-epsilon[part, None] / 2 * _chords(self.table, tokens[part]))
            answers[part] = self.table.outputs[_pick(weights, stream)]
        return answers

    def guarantee(self, epsilon: float) -> Guarantee:
        """As in ``Mechanism``."""
        return Guarantee(epsilon, CHORD, 2.0)


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
        answers = np.empty_like(tokens)
        for part in blocks(len(tokens)):
            scores = np.minimum(_chords(self.table, tokens[part]), self.radius)
            answers[part] = self.table.outputs[_pick(np.exp(-epsilon[part, None] / 2 * scores), stream)]
        return answers

    def guarantee(self, epsilon: float) -> Guarantee:
        """As in ``Mechanism``."""
        return Guarantee(epsilon, CHORD, 2.0)


def _chords(table: Table, tokens: Ids) -> Floats:
    """Chordal distances to all outputs, [n, K]."""
    cosines = table.cosines(unit_rows(table, tokens)).astype(np.float64)
    return np.sqrt(np.maximum(2 - 2 * cosines, 0))


def _pick(weights: Floats, stream: Stream) -> Ids:
    """One column of each row of weights [n, K], with probability in proportion."""
    sums = np.cumsum(weights, axis=1)
    wanted = stream.uniform(len(weights)) * sums[:, -1]
    found = np.array([np.searchsorted(row, x, side="right") for row, x in zip(sums, wanted, strict=True)])
    return np.minimum(found, weights.shape[1] - 1)
