"""What public texts tell whoever attacks privatised ones, and the attack that links texts.

``privatise_pairs`` has the attacks on tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from sklearn.feature_extraction.text import TfidfVectorizer

from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.privatiser import Privatiser, Walk

_KNOWN = 4000  # the most frequent tokens, whose pairs are counted


@dataclass(eq=False)
class Counts:
    """What public texts say.

    Attributes:
        prior: logarithm of each token's frequency in them, [V].
        known: the most frequent tokens in them, [K].
        place: of each token among these; the last place is for all others, [V].
        follows: how often the second of two frequent tokens follows the first, as a share, sparse, [K, K].
    """

    table: Table
    public: Sequence[str]
    prior: NDArray[np.float32] = field(init=False)
    known: Ids = field(init=False)
    place: NDArray[np.int64] = field(init=False)
    follows: csr_array = field(init=False)

    def __post_init__(self) -> None:
        encoded = self.table.tokenizer(list(self.public), add_special_tokens=False)["input_ids"]
        texts = [np.array(ids, dtype=np.int64) for ids in encoded]
        ids, counts = np.unique(np.concatenate(texts), return_counts=True)
        frequency = np.full(len(self.table.unit), 0.5)  # a token that public texts lack
        frequency[ids] += counts
        frequency[np.setdiff1d(np.arange(len(frequency)), self.table.outputs)] = 1e-9
        self.prior = np.log(frequency / frequency.sum()).astype(np.float32)
        self.known = ids[np.argsort(-counts, kind="stable")[:_KNOWN]]
        self.place = np.full(len(frequency), len(self.known))
        self.place[self.known] = np.arange(len(self.known))
        places = [self.place[text] for text in texts]
        before, after = (np.concatenate([each[part] for each in places]) for part in (slice(None, -1), slice(1, None)))
        frequent = np.maximum(before, after) < len(self.known)
        counted = csr_array(
            (np.ones(frequent.sum()), (before[frequent], after[frequent])), shape=(len(self.known), len(self.known))
        )
        self.follows = csr_array(diags_array(1 / np.maximum(counted.sum(1), 1)) @ counted)


@dataclass(frozen=True, eq=False)
class Fits:
    """What an attacker knows of the D different answers of some texts. Equal answers at different budgets, which the
    attacker knows, are different. The guesses that are considered are the K frequent public tokens, and the answer
    itself, in the last column.

    Attributes:
        which: for each text the numbers of its answers.
        answers, budgets: [D].
        cosines: of the guesses to the answer, [D, K + 1].
    """

    walks: Sequence[Walk]
    which: list[NDArray[np.int64]]
    answers: Ids
    budgets: NDArray[np.float64]
    cosines: NDArray[np.float32]

    @staticmethod
    def of(counts: Counts, privatiser: Privatiser, walks: Sequence[Walk]) -> Fits:
        budgets = np.array(privatiser.choice.budgets)[np.concatenate([walk.groups for walk in walks])]
        both = np.stack((np.concatenate([walk.answers for walk in walks]), budgets))
        distinct, which = np.unique(both, axis=1, return_inverse=True)
        answers, unit = distinct[0].astype(np.int64), counts.table.unit
        cosines = (unit[answers] @ unit[counts.known].T).numpy()
        cosines = np.concatenate([cosines, np.ones((len(answers), 1), dtype=np.float32)], axis=1)
        ends = np.cumsum([len(walk.answers) for walk in walks])
        return Fits(walks, np.split(which.ravel(), ends[:-1]), answers, distinct[1], cosines)


def linked(table: Table, public: Sequence[str], walks: Sequence[Walk], asked: int) -> NDArray[np.float64]:
    """Which of the first ``asked`` privatised texts are matched with their own among all clear ones.

    Someone who has the clear texts of all candidates says which of them became this one: the one that shares most with
    it, weighted by how rare public texts use a token (its inverse document frequency). Ties count by halves, thirds and
    so on.
    """
    idf = TfidfVectorizer(analyzer=str.split, smooth_idf=True, norm=None, binary=True)
    known = table.tokenizer(list(public), add_special_tokens=False)["input_ids"]
    idf.fit([*(_words(ids) for ids in known), " ".join(map(str, range(len(table.unit))))])
    mine = idf.transform([_words(walk.answers) for walk in walks[:asked]])
    theirs = idf.transform([_words(walk.tokens) for walk in walks])
    theirs.data[:] = 1  # each shared token counts once by its rarity
    sizes = np.sqrt(np.maximum(np.asarray(theirs.sum(1)).ravel(), 1))
    scores = np.asarray((mine @ theirs.T).todense()) / sizes
    best = np.isclose(scores, scores.max(1, keepdims=True), rtol=1e-9)
    own: NDArray[np.float64] = best[np.arange(len(best)), np.arange(len(best))] / best.sum(1)
    return own


def _words(ids: Sequence[int] | Ids) -> str:
    return " ".join(map(str, ids))
