"""The strongest attack here without a large language model: the posterior of each token, by pairs of words.

The attacker knows public texts, and what the mechanism answers to a token: how likely an answer is, by its cosine to
the token, is counted in 40,000 draws. (For the direction that a polar mechanism draws, the logarithm of the density is
kappa times the cosine; an observer has the token that it was decoded to, whose likelihood is flatter.) The prior is
that of the bigram attack: each word by the one before it. The posterior of a position is the sum over all texts of the
128 likeliest tokens of each position (forward and backward); the guess is the likeliest token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from benchmarks.privatise_attacks import MIX, Attacker, Fits
from fedrad.privacy.randomness import Stream
from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.privatiser import Privatiser, Walk

WEIGHTS = (0.7, 1.0, 1.4, 2.0)  # of the likelihood; 1 if the prior were right
_WIDE = 128  # tokens of each position
_DRAWN = 40_000  # tokens whose answers tell the likelihood
_HELD_OUT = 300  # tokens of public texts on which weights are chosen
_EDGES = np.linspace(-1.0001, 1.0001, 41)  # of cosines


class Pairs:
    """Knows public texts.

    Attributes:
        counts: what the texts say, beside those that are held out.
        held_out: texts on which weights are chosen.
    """

    def __init__(self, embeddings: Table, public: Sequence[str]) -> None:
        self.held_out = beginning(embeddings, [*public[:: max(1, len(public) // 100)]], _HELD_OUT)
        self.others = [text for text in public if text not in set(self.held_out)]
        self.counts = Attacker(embeddings, self.others)

    def known(self, privatiser: Privatiser) -> Fits:
        """What the attacker's own draw answers to the texts that are held out."""
        return Fits.of(self.counts, privatiser.walks(self.held_out, "held out by the attacker"))

    def weight(self, known: Fits, likely: Likely) -> float:
        """The weight of the likelihood that guesses most tokens of these texts right."""
        scored = [right(known.walks, guesses(self.posteriors(known, likely, weight))).mean() for weight in WEIGHTS]
        return WEIGHTS[int(np.argmax(scored))]

    def likelihood(self, privatiser: Privatiser) -> Likely:
        """Counts how often a draw answers with a token of this cosine to its own, among as many that it could."""
        table, rng = self.counts.table, np.random.default_rng(0)
        tokens = rng.choice(np.intersect1d(self.counts.known, table.outputs), _DRAWN)
        epsilon = np.full(_DRAWN, privatiser.choice.budgets[3])
        answers = privatiser.mechanism.draw(tokens, epsilon, Stream.seeded(0, "counted by the attacker"))
        cosines = (table.unit[tokens] * table.unit[answers]).sum(1).numpy()
        own = answers == tokens
        answered = np.histogram(cosines[~own], _EDGES)[0]
        some = rng.choice(tokens, 1000)
        possible = np.histogram(table.cosines(table.unit[some].numpy()).ravel(), _EDGES)[0]
        possible[-1] -= len(some)  # each is its own neighbour
        asked = possible / len(some) * _DRAWN
        seen = (possible > 0) & (answered > 0)
        steps = np.interp(np.arange(len(seen)), np.flatnonzero(seen), np.log(answered[seen] / asked[seen]))
        return Likely(steps, float(np.log((own.sum() + 0.5) / (_DRAWN + 1))))

    def posteriors(self, fits: Fits, likely: Likely, weight: float) -> list[Posterior]:
        """Of each text."""
        fit = weight * likely.of(fits.cosines)
        fit[:, :-1][fits.tokens[:, :-1] == fits.tokens[:, -1:]] = -np.inf  # the answer stands in the last column
        scores = self.counts.prior[fits.tokens] + fit
        scores[:, -1] = np.inf
        count = min(_WIDE, scores.shape[1])
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        tokens, fit = np.take_along_axis(fits.tokens, best, 1), np.take_along_axis(fit, best, 1)
        return [Posterior(tokens[which], self.both_ways(tokens[which], fit[which])) for which in fits.which]

    def both_ways(self, tokens: Ids, fit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithms of posteriors up to a constant of each position, [n, k]."""
        if not len(tokens):
            return fit
        steps = [
            self.follows(before, np.broadcast_to(after, (len(before), len(after))))
            for before, after in pairwise(tokens)
        ]
        forward = [fit[0] + self.follows(np.array([-1]), tokens[:1])[0]]
        for step, here in zip(steps, fit[1:], strict=True):
            forward.append(here + logsumexp(forward[-1][:, None] + step, axis=0))
        backward = [np.zeros(tokens.shape[1])]
        for step, after in zip(reversed(steps), fit[:0:-1], strict=True):
            backward.append(logsumexp(step + after + backward[-1], axis=1))
        return np.array(forward) + np.array(backward[::-1])

    def follows(self, before: Ids, tokens: Ids) -> NDArray[np.float64]:
        """What the bigram attack believes, logarithms, [n, k]."""
        counts, alone = self.counts, np.exp(self.counts.prior[tokens].astype(np.float64))
        pairs = counts.follows[counts.place[before][:, None], counts.place[tokens]]
        found: NDArray[np.float64] = np.log(np.where(before[:, None] < 0, alone, MIX * pairs + (1 - MIX) * alone))
        return found


@dataclass(frozen=True, eq=False)
class Likely:
    """Logarithms of an answer's likelihood by its cosine to the token, in steps; and of the token's own."""

    steps: NDArray[np.float64]
    own: float

    def of(self, cosines: NDArray[np.floating]) -> NDArray[np.float64]:
        """Of answers to guesses, [D, K + 1]; the last guess is the answer itself. A dropped token's cosines are 0."""
        found = self.steps[np.clip(np.searchsorted(_EDGES, cosines, side="right") - 1, 0, len(self.steps) - 1)]
        found[:, -1] = np.where(cosines[:, -1] == 0, found[:, -1], self.own)
        return found


@dataclass(frozen=True, eq=False)
class Posterior:
    """Of the positions of a text, by pairs.

    Attributes:
        tokens: likely ones, [n, k].
        posterior: logarithms, up to a constant of each position, [n, k].
    """

    tokens: Ids
    posterior: NDArray[np.float64]


def guesses(found: Sequence[Posterior]) -> list[Ids]:
    """The likeliest token of each position."""
    return [each.tokens[np.arange(len(each.tokens)), each.posterior.argmax(1)] for each in found]


def right(walks: Sequence[Walk], guessed: Sequence[Ids]) -> NDArray[np.bool_]:
    """Which tokens are guessed right; those of all texts in one array."""
    return np.concatenate([guess == walk.tokens for guess, walk in zip(guessed, walks, strict=True)])


def beginning(embeddings: Table, texts: Sequence[str], tokens: int) -> list[str]:
    """The first texts, as many as have this number of tokens."""
    lengths = [len(ids) for ids in embeddings.tokenizer([*texts], add_special_tokens=False)["input_ids"]]
    return list(texts[: int((np.cumsum(lengths) < tokens).sum()) + 1])
