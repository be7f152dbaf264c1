"""Attacks on privatised texts, by whoever knows the mechanism, the table, and public texts of the same kind.

On tokens, as the share that is guessed right:
    nearest   the answer itself is the guess
    prior     the guess is the token w that maximises ln frequency(w) + beta cosine(w, answer), among the 4,000 most
              frequent public tokens and the answer itself
    bigram    the same with the frequency of w after the word before it, for the whole text at once (Viterbi over the 32
              likeliest tokens of each position): a small language model, learnt from public texts alone.
              ``privatise_language`` has the attack with a large one.
On texts:
    linked    someone who has the clear texts of all candidates says which of them became this one: the one that shares
              most with it, weighted by how rare public texts use a token (its inverse document frequency). Ties count
              by halves, thirds and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.privatiser import DROPPED, Privatiser, Walk

BETAS = (0.0, *(2.0**k for k in range(1, 11)))
_CANDIDATES = 32
_KNOWN = 4000  # the most frequent tokens, whose pairs are counted
MIX = 0.8  # weight of the pair's frequency beside the word's own
TUNED = 25  # public texts on which beta is chosen


@dataclass(eq=False)
class Attacker:
    """Knows the table and these public texts.

    Attributes:
        prior: logarithm of each token's frequency in them, [V].
        known: the most frequent tokens in them, [K].
        place: of each token among these; the last place is for all others, [V].
        follows: how often the second of two frequent tokens follows the first, as a share, [K + 1, K + 1].
    """

    table: Table
    public: Sequence[str]
    prior: NDArray[np.float32] = field(init=False)
    known: Ids = field(init=False)
    place: NDArray[np.int64] = field(init=False)
    follows: NDArray[np.float32] = field(init=False)

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
        self.follows = np.zeros((len(self.known) + 1, len(self.known) + 1), dtype=np.float32)
        for text in texts:
            places = self.place[text]
            np.add.at(self.follows, (places[:-1], places[1:]), 1)
        self.follows[-1] = self.follows[:, -1] = 0
        self.follows /= np.maximum(self.follows.sum(1, keepdims=True), 1)

    def success(self, privatiser: Privatiser, walks: Sequence[Walk]) -> dict[str, NDArray[np.bool_]]:
        """Which tokens are guessed right, by attack; those of all texts in one array."""
        public = self.public[:: max(1, len(self.public) // TUNED)][:TUNED]
        known = Fits.of(self, privatiser.walks(public, "known to the attacker"))
        beta = self.tuned(known)
        tried = (beta / 2, beta, 2 * beta)
        after = [np.mean(np.concatenate(self.in_order(known, b)) == _tokens(known.walks)) for b in tried]
        tokens, fits = _tokens(walks), Fits.of(self, walks)
        return {
            "nearest": np.concatenate([walk.answers for walk in walks]) == tokens,
            "prior": np.concatenate(self.alone(fits, beta)) == tokens,
            "bigram": np.concatenate(self.in_order(fits, _best(after, tried))) == tokens,
        }

    def tuned(self, known: Fits) -> float:
        """The weight of the cosine with which most tokens of public texts are guessed right."""
        right = [np.mean(np.concatenate(self.alone(known, beta)) == _tokens(known.walks)) for beta in BETAS]
        return _best(right, BETAS)

    def alone(self, fits: Fits, beta: float) -> list[Ids]:
        """The likeliest token for each answer."""
        likeliest = fits.tokens[np.arange(len(fits.cosines)), self.scores(fits, beta).argmax(1)]
        return [likeliest[which] for which in fits.which]

    def in_order(self, fits: Fits, beta: float) -> list[Ids]:
        """The likeliest sequence of tokens for each text."""
        count = min(_CANDIDATES, fits.tokens.shape[1])
        best = np.argpartition(-self.scores(fits, beta), count - 1, axis=1)[:, :count]
        likeliest = np.take_along_axis(fits.tokens, best, 1)
        close = np.float32(beta) * np.take_along_axis(fits.cosines, best, 1)
        found = []
        for walk, which in zip(fits.walks, fits.which, strict=True):
            if not len(which):
                found.append(walk.tokens)
                continue
            tokens, fit = likeliest[which], close[which]  # [n, candidates]
            alone = np.exp(self.prior[tokens])
            score, back = np.log(alone[0]) + fit[0], []
            for k in range(1, len(which)):
                pairs = self.follows[self.place[tokens[k - 1]][:, None], self.place[tokens[k]][None, :]]
                paths = score[:, None] + np.log(MIX * pairs + (1 - MIX) * alone[k])
                back.append(paths.argmax(0))
                score = paths.max(0) + fit[k]
            path = [int(score.argmax())]
            for step in reversed(back):
                path.append(int(step[path[-1]]))
            found.append(tokens[np.arange(len(which)), path[::-1]])
        return found

    def scores(self, fits: Fits, beta: float) -> NDArray[np.float32]:
        """Logarithms of each guess's weight, [D, K + 1]."""
        found: NDArray[np.float32] = self.prior[fits.tokens] + np.float32(beta) * fits.cosines
        return found


@dataclass(frozen=True, eq=False)
class Fits:
    """What an attacker considers for each of the D different answers of some texts: the frequent public tokens, and the
    answer itself.

    Attributes:
        which: for each text the numbers of its answers.
        tokens, cosines: the guesses that are considered, and their cosines to the answer, [D, K + 1]; 0 for a dropped
            token, whose answer says nothing.
    """

    walks: Sequence[Walk]
    which: list[NDArray[np.int64]]
    tokens: Ids
    cosines: NDArray[np.float32]

    @staticmethod
    def of(attacker: Attacker, walks: Sequence[Walk]) -> Fits:
        distinct = np.unique(np.concatenate([walk.answers for walk in walks]))
        there, unit = np.maximum(distinct, 0), attacker.table.unit
        cosines = (unit[there] @ unit[attacker.known].T).numpy()
        cosines = np.concatenate([cosines, np.ones((len(distinct), 1), dtype=np.float32)], axis=1)
        cosines[distinct == DROPPED] = 0
        tokens = np.concatenate([np.tile(attacker.known, (len(distinct), 1)), there[:, None]], axis=1)
        return Fits(walks, [np.searchsorted(distinct, walk.answers) for walk in walks], tokens, cosines)


def linked(table: Table, public: Sequence[str], walks: Sequence[Walk], asked: int) -> float:
    """The share of the first ``asked`` privatised texts that are matched with their own among all clear ones."""
    idf = TfidfVectorizer(analyzer=str.split, smooth_idf=True, norm=None, binary=True)
    known = table.tokenizer(list(public), add_special_tokens=False)["input_ids"]
    clear = [walk.tokens for walk in walks]
    answers = [walk.answers[walk.answers != DROPPED] for walk in walks[:asked]]
    idf.fit([*(_words(ids) for ids in known), " ".join(map(str, range(len(table.unit))))])
    mine, theirs = idf.transform([_words(ids) for ids in answers]), idf.transform([_words(ids) for ids in clear])
    theirs.data[:] = 1  # each shared token counts once by its rarity
    sizes = np.sqrt(np.maximum(np.asarray(theirs.sum(1)).ravel(), 1))
    scores = np.asarray((mine @ theirs.T).todense()) / sizes
    best = np.isclose(scores, scores.max(1, keepdims=True), rtol=1e-9)
    return float(np.mean(best[np.arange(len(answers)), np.arange(len(answers))] / best.sum(1)))


def _best(right: Sequence[np.floating], betas: Sequence[float]) -> float:
    """The beta with the best share; of equals the largest, which relies least on public texts being like these."""
    return max(zip(right, betas, strict=True))[1]


def _words(ids: Sequence[int] | Ids) -> str:
    return " ".join(map(str, ids))


def _tokens(walks: Sequence[Walk]) -> Ids:
    return np.concatenate([walk.tokens for walk in walks])
