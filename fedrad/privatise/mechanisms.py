"""Mechanisms: each replaces a token by a random one, so that near tokens are hard to tell apart by the answer.

What they guarantee is *metric* local differential privacy: whatever set S of answers is looked at,

    Pr[M(w) in S] <= exp(rate * distance(w, w')) * Pr[M(w') in S]        for all tokens w, w'

which says much for tokens that are close and little for those that are far. None of it is differential privacy in the
usual sense, and nothing here calls it that. ``guarantees`` has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from fedrad.privacy.randomness import Stream
from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.guarantees import LENGTH_SHARE, Kappa, per_epsilon
from fedrad.privatise.sphere import Floats, around, euclidean_laplace, laplace

_ROWS = 256  # tokens at a time: bounds the matrix of their scores


class Mechanism(Protocol):
    """A mechanism on a table."""

    name: ClassVar[str]

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """An answer for each token [n], at budgets [n] that are positive and finite."""
        ...


@dataclass(frozen=True)
class Polar:
    """The normalised polar mechanism of STAMP (arXiv 2603.12237): only the direction is perturbed.

    The token's unit vector u gets a von Mises-Fisher sample around it; the answer is the output of largest cosine.

    Guarantee:
        The density ratio for two tokens is ``exp(kappa (u - u').y)``, at most ``exp(kappa ||u - u'||)``: rate kappa in
        the chordal distance, and so also in the angle, which is never smaller. The answer is post-processing. Over all
        pairs the log-ratio is at most 2 kappa. Protects one token against everybody who sees its answer; assumes that
        the real sampler is exact (see ``sphere``).

    Attributes:
        kappa: "paper": kappa = epsilon, as in the paper's theorem 3. "code": kappa = epsilon / pi, as the authors' code
            has it: there epsilon bounds the log-ratio over the whole sphere, by way of the angle.
    """

    table: Table
    kappa: Kappa = "paper"
    name: ClassVar[str] = "polar"

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """As in ``Mechanism``."""
        answers = np.empty_like(tokens)
        for part in blocks(len(tokens)):
            axes = unit_rows(self.table, tokens[part])
            answers[part] = self.table.nearest(around(axes, epsilon[part] * per_epsilon(self.kappa), stream))
        return answers


@dataclass(frozen=True)
class FullPolar:
    """Polar, with a noisy length as well: direction from von Mises-Fisher, length from Laplace.

    Decoding by cosine would ignore the length, and waste its budget; so the answer is the output whose embedding, not
    normalised, has the smallest Euclidean distance.

    Guarantee:
        The log-ratio is at most ``kappa ||u - u'|| + share epsilon |r - r'| / range`` with kappa from
        ``(1 - share) epsilon`` and range the difference between the table's largest and smallest length, both public;
        share is ``LENGTH_SHARE``.
    """

    table: Table
    kappa: Kappa = "paper"
    name: ClassVar[str] = "full-polar"

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """As in ``Mechanism``."""
        norms = self.table.norms.numpy().astype(np.float64)
        spread = norms.max() - norms.min()
        answers = np.empty_like(tokens)
        for part in blocks(len(tokens)):
            budget = epsilon[part]
            kappa = (1 - LENGTH_SHARE) * budget * per_epsilon(self.kappa)
            length = norms[tokens[part]] + laplace(spread / (LENGTH_SHARE * budget), 1, stream)[:, 0]
            noisy = around(unit_rows(self.table, tokens[part]), kappa, stream) * length[:, None]
            answers[part] = self.table.nearest_raw(noisy)
        return answers


@dataclass(frozen=True)
class Laplace:
    """The multivariate Laplace mechanism of Feyisetan et al. (WSDM 2020), on unit vectors.

    Noise with density proportional to ``exp(-epsilon ||z||)`` is added; the answer is the nearest output.

    Guarantee:
        By the triangle inequality the log-ratio is at most ``epsilon ||u - u'||``: rate epsilon in the chordal
        distance, so at most 2 epsilon over all pairs: figures that can be compared with Polar's at kappa = epsilon.
    """

    table: Table
    name: ClassVar[str] = "laplace"

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """As in ``Mechanism``."""
        answers = np.empty_like(tokens)
        for part in blocks(len(tokens)):
            noise = euclidean_laplace(self.table.dimension, epsilon[part], stream)
            answers[part] = self.table.nearest(unit_rows(self.table, tokens[part]) + noise)
        return answers


@dataclass(frozen=True)
class CoordinateLaplace:
    """The Laplace baseline of STAMP's code, to reproduce its tables; weak by construction.

    Each coordinate of the embedding, not normalised, gets Laplace noise of scale Delta / epsilon, where Delta is the
    sum over coordinates of the table's range; the answer is the output of smallest Euclidean distance.

    Guarantee:
        The log-ratio is at most ``epsilon ||x - x'||_1 / Delta``, and so at most epsilon over all pairs.
    """

    table: Table
    name: ClassVar[str] = "coordinate-laplace"

    def draw(self, tokens: Ids, epsilon: Floats, stream: Stream) -> Ids:
        """As in ``Mechanism``."""
        rows = self.table.unit * self.table.norms[:, None]
        delta = float((rows.amax(0) - rows.amin(0)).sum())
        answers = np.empty_like(tokens)
        for part in blocks(len(tokens)):
            noise = laplace(delta / epsilon[part], self.table.dimension, stream)
            answers[part] = self.table.nearest_raw(rows[tokens[part]].numpy() + noise)
        return answers


def unit_rows(table: Table, tokens: Ids) -> Floats:
    """The tokens' unit vectors, [n, d], of length one in float64."""
    rows = table.unit[tokens].numpy().astype(np.float64)
    length: Floats = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def blocks(n: int) -> Iterator[slice]:
    """Consecutive slices that cover n rows."""
    yield from (slice(start, min(start + _ROWS, n)) for start in range(0, n, _ROWS))
