"""CusText, and the exact budgets of STAMP's tables, for the benchmarks of privatisation alone.

CusText is no mechanism of ``fedrad privatise``: its answer always lies in the token's own set of K tokens, so it tells
for certain which of some 1,500 sets a token is from. Over all pairs of tokens it has no finite bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.mechanisms import Mechanism
from fedrad.privatise.privatiser import Privatiser

SET_SIZE = 20  # as in the paper


@dataclass(frozen=True, eq=False)
class CusText:
    """CusText (Chen et al., Findings of ACL 2023): each token has a set of K tokens, and is answered by one of them.

    Guarantee:
        For two tokens of one set the log-ratio is at most epsilon: an answer v has a probability proportional to
        ``exp(epsilon score / 2)``, with scores in [0, 1] (the cosine to the token, scaled within the set). For tokens
        of different sets there is none.
    """

    table: Table
    sets: NDArray[np.int64]  # [S, K], ids
    of: NDArray[np.int64]  # the set of each token, [V]
    name: ClassVar[str] = "custext"

    def draw(self, tokens: Ids, epsilon: NDArray[np.float64], stream: Stream) -> Ids:
        """As in ``Mechanism``. A token that is no possible answer itself is answered from its nearest token's set."""
        sums = self._weights(tokens, epsilon).cumsum(1)
        picked = (sums < stream.uniform(len(tokens))[:, None] * sums[:, -1:]).sum(1)
        return self.sets[self.of[tokens], picked]

    def log_likelihood(self, answer: int, tokens: Ids, epsilon: float) -> NDArray[np.float64]:
        """Of an answer to each token, [n]; minus infinity where it lies outside of the token's set."""
        found = np.full(len(tokens), -np.inf)
        for which, place in np.argwhere(self.sets == answer):
            mine = np.flatnonzero(self.of[tokens] == which)
            weights = self._weights(tokens[mine], np.full(len(mine), epsilon))
            found[mine] = np.log(weights[:, place] / weights.sum(1))
        return found

    def _weights(self, tokens: Ids, epsilon: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the answers in each token's set, [n, K]."""
        unit = self.table.unit.numpy()
        cosines = np.einsum("nkd,nd->nk", unit[self.sets[self.of[tokens]]], unit[tokens])
        low, high = cosines.min(1, keepdims=True), cosines.max(1, keepdims=True)
        found: NDArray[np.float64] = np.exp(epsilon[:, None] / 2 * (cosines - low) / np.maximum(high - low, 1e-9))
        return found


def customised(table: Table, size: int = SET_SIZE) -> CusText:
    """Sets of neighbours, greedily: the first token without a set, with its nearest that have none either. What is left
    at the end fills the last set from the others."""
    free = np.ones(len(table.outputs), dtype=bool)
    sets = []
    targets = table.targets.numpy()
    while free.any():
        cosines = targets @ targets[free.argmax()]
        cosines[~free] -= 4  # taken ones only where nothing else is left
        mine = np.argpartition(-cosines, size - 1)[:size]
        free[mine] = False
        sets.append(table.outputs[mine])
    of = np.full(len(table.unit), -1)
    for k, mine in reversed(list(enumerate(sets))):
        of[mine] = k
    others = np.flatnonzero(of < 0)
    of[others] = of[table.nearest(table.unit[others].numpy())]
    return CusText(table, np.stack(sets), of)


@dataclass(frozen=True, eq=False)
class With(Privatiser):
    """A privatiser with a mechanism that no name stands for."""

    other: Mechanism | None = None

    @property
    def mechanism(self) -> Mechanism:
        assert self.other is not None
        return self.other


@dataclass(frozen=True)
class Given(Choice):
    """A choice with the budgets of groups 1 to 4 as they are, for grids that are no multiples of each other."""

    given: tuple[float, ...] = ()

    @property
    def budgets(self) -> tuple[float, ...]:
        return self.given
