"""Attacks on the tokens of privatised texts, by whoever knows the mechanism, its table, and public texts of the kind.

    nearest   the answer itself is the guess
    prior     the likeliest token, by its frequency in public texts and the likelihood of the answer
    pairs     the same by the words before and behind: the prior of a token is how often it follows the word before it,
              and its posterior is the sum over all texts (forward and backward). The strongest attack here without a
              large language model; ``privatise_language`` has one.

The guesses are the 4,000 most frequent tokens of public texts, and the answer itself.

The likelihood of an answer, by its cosine to the token, is counted: the attacker has the mechanism and draws as often
as he likes. (For the direction that a polar mechanism draws, the logarithm of the density is kappa times the cosine; an
observer has the token that it was decoded to, whose likelihood is flatter.) That of CusText is computed, because the
cosine does not tell which answers are possible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.privatise_attacks import Counts, Fits
from benchmarks.privatise_rivals import CusText
from fedrad.privacy.randomness import Stream
from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.privatiser import Privatiser, Walk

WEIGHTS = (0.7, 1.0, 1.4, 2.0, 4.0)  # of the likelihood; 1 if the prior were right
MIX = 0.8  # weight of the pair's frequency beside the word's own
_KEPT = 64  # the likeliest tokens of each position, of which a posterior tells
_DRAWN = 10_000  # tokens whose answers tell the likelihood
_HELD_OUT = 600  # tokens of public texts on which weights are chosen
_EDGES = np.linspace(-1.0001, 1.0001, 41)  # of cosines

Floats = NDArray[np.float64]
Likelihood = Callable[[Fits], Floats]
"""Logarithms of the answers' probabilities under the tokens that are considered, [D, K + 1]."""


class Pairs:
    """Knows public texts.

    Attributes:
        counts: what the texts say, beside those that are held out.
        held_out: texts on which weights are chosen.
    """

    def __init__(self, embeddings: Table, public: Sequence[str]) -> None:
        self.held_out = beginning(embeddings, [*public[:: max(3, len(public) // 100)]], _HELD_OUT)
        self.others = [text for text in public if text not in set(self.held_out)]
        self.counts = Counts(embeddings, self.others)

    def success(self, privatiser: Privatiser, likely: Weighted, walks: Sequence[Walk]) -> dict[str, list[Ids]]:
        """Which tokens are guessed right (1 or 0), by attack and text; ``likely`` is that of the privatiser."""
        fits = Fits.of(self.counts, privatiser, walks)
        said = likely.of(fits)
        return {
            "nearest": right(walks, [walk.answers for walk in walks]),
            "prior": right(walks, self.alone(fits, said)),
            "pairs": right(walks, guesses(self.posteriors(fits, likely.weight * said))),
        }

    def known(self, privatiser: Privatiser) -> Fits:
        """What the attacker's own draw answers to the texts that are held out."""
        return Fits.of(self.counts, privatiser, privatiser.walks(self.held_out, "held out by the attacker"))

    def likely(self, privatiser: Privatiser) -> Weighted:
        """What the attacker finds out about a mechanism and its budgets before the attack."""
        known, likelihood = self.known(privatiser), self.likelihood(privatiser)
        return Weighted(likelihood, self.weight(known, likelihood(known)))

    def weight(self, known: Fits, said: Floats) -> float:
        """The weight of the likelihood that guesses most tokens of these texts right, by pairs; of equals the largest,
        which relies least on public texts being like the attacked ones."""
        scored = []
        for weight in WEIGHTS:
            guessed = right(known.walks, guesses(self.posteriors(known, weight * said)))
            scored.append((np.concatenate(guessed).sum(), weight))
        return max(scored)[1]

    def likelihood(self, privatiser: Privatiser) -> Likelihood:
        """Counted at each of its budgets; that of CusText is computed."""
        rival = privatiser.mechanism
        if isinstance(rival, CusText):
            return lambda fits: self._once(
                fits,
                np.array(
                    [
                        rival.log_likelihood(answer, np.append(self.counts.known, answer), budget)
                        for answer, budget in zip(fits.answers.tolist(), fits.budgets, strict=True)
                    ]
                ),
            )
        counted = {budget: self.counted(privatiser, budget) for budget in sorted(set(privatiser.choice.budgets))}

        def said(fits: Fits) -> Floats:
            found = np.empty(fits.cosines.shape)
            for budget, likely in counted.items():
                found[fits.budgets == budget] = likely.of(fits.cosines[fits.budgets == budget])
            return self._once(fits, found)

        return said

    def _once(self, fits: Fits, said: Floats) -> Floats:
        """An answer that is a frequent token stands in that token's column, and not in the last one, too."""
        place = self.counts.place[fits.answers]
        frequent = np.flatnonzero(place < len(self.counts.known))
        said[frequent, place[frequent]] = said[frequent, -1]
        said[frequent, -1] = -np.inf
        return said

    def counted(self, privatiser: Privatiser, budget: float) -> Likely:
        """How often a draw answers with a token of this cosine to its own, among as many that it could."""
        table, rng = self.counts.table, np.random.default_rng(0)
        tokens = rng.choice(np.intersect1d(self.counts.known, table.outputs), _DRAWN)
        stream = Stream.seeded(0, "counted by the attacker")
        answers = privatiser.mechanism.draw(tokens, np.full(_DRAWN, budget), stream)
        cosines = (table.unit[tokens] * table.unit[answers]).sum(1).numpy()
        own = answers == tokens
        answered = np.histogram(cosines[~own], _EDGES)[0]
        some = rng.choice(tokens, 1000)
        possible = np.histogram(table.cosines(table.unit[some].numpy()).ravel(), _EDGES)[0]
        possible[-1] -= len(some)  # each is its own neighbour
        asked = possible / len(some) * _DRAWN
        seen = (possible > 0) & (answered > 0)
        if seen.any():
            steps = np.interp(np.arange(len(seen)), np.flatnonzero(seen), np.log(answered[seen] / asked[seen]))
        else:  # each token was its own answer
            steps = np.full(len(seen), -np.log(asked.sum()))
        return Likely(steps, float(np.log((own.sum() + 0.5) / (_DRAWN + 1))))

    def alone(self, fits: Fits, said: Floats) -> list[Ids]:
        """The likeliest token of each position, whatever stands around it."""
        own = self.counts.prior[fits.answers][:, None]
        best = (np.concatenate([np.tile(self.counts.prior[self.counts.known], (len(own), 1)), own], 1) + said).argmax(1)
        return [self._tokens(fits.answers[which], best[which]) for which in fits.which]

    def posteriors(self, fits: Fits, fit: Floats) -> list[Posterior]:
        """Of each text, by the logarithms of likelihoods ``fit``, [D, K + 1]."""
        found = []
        for which in fits.which:
            answers = fits.answers[which]
            logs = self.both_ways(answers, fit[which])
            best = np.argsort(-logs, axis=1)[:, :_KEPT]
            found.append(Posterior(self._tokens(answers[:, None], best), np.take_along_axis(logs, best, 1)))
        return found

    def _tokens(self, answers: Ids, columns: Ids) -> Ids:
        """Which tokens stand in columns of guesses."""
        known = self.counts.known
        return np.where(columns < len(known), known[np.minimum(columns, len(known) - 1)], answers)

    def both_ways(self, answers: Ids, fit: Floats) -> Floats:
        """Logarithms of the posteriors at the positions of a text, up to a constant of each, [n, K + 1].

        A token follows another with probability ``MIX follows + (1 - MIX) frequency``; the last guess, which is in no
        counted pair, by its frequency alone.
        """
        counts, n = self.counts, len(answers)
        likely = np.exp(fit - fit.max(1, keepdims=True))
        frequency = np.exp(counts.prior.astype(np.float64))
        alone = np.concatenate([np.tile(frequency[counts.known], (n, 1)), frequency[answers][:, None]], axis=1)
        forward, backward = np.empty_like(likely), np.ones_like(likely)
        behind = counts.follows.T.tocsr()
        for k in range(n):
            expected = alone[k].copy()
            if k:
                expected *= 1 - MIX
                expected[:-1] += MIX * (behind @ forward[k - 1, :-1])
            forward[k] = likely[k] * expected
            forward[k] /= forward[k].sum()
        for k in reversed(range(n - 1)):
            after = likely[k + 1] * backward[k + 1]
            backward[k] = (1 - MIX) * (alone[k + 1] @ after)
            backward[k, :-1] += MIX * (counts.follows @ after[:-1])
            backward[k] /= backward[k].sum()
        with np.errstate(divide="ignore"):
            return np.log(forward) + np.log(backward)


@dataclass(frozen=True, eq=False)
class Weighted:
    """A likelihood, and its weight beside the prior by pairs."""

    of: Likelihood
    weight: float


@dataclass(frozen=True, eq=False)
class Likely:
    """Logarithms of an answer's likelihood by its cosine to the token, in steps; and of the token's own."""

    steps: Floats
    own: float

    def of(self, cosines: NDArray[np.floating]) -> Floats:
        """Of answers to guesses, [D, K + 1]; the last guess is the answer itself."""
        found = self.steps[np.clip(np.searchsorted(_EDGES, cosines, side="right") - 1, 0, len(self.steps) - 1)]
        found[:, -1] = self.own
        return found


@dataclass(frozen=True, eq=False)
class Posterior:
    """Of the positions of a text, by pairs.

    Attributes:
        tokens: the likeliest, in this order, [n, k].
        posterior: logarithms, up to a constant of each position, [n, k].
    """

    tokens: Ids
    posterior: Floats


def guesses(found: Sequence[Posterior]) -> list[Ids]:
    """The likeliest token of each position."""
    return [each.tokens[:, 0] for each in found]


def right(walks: Sequence[Walk], guessed: Sequence[Ids]) -> list[Ids]:
    """Which tokens are guessed right, 1 or 0, of each text."""
    return [(guess == walk.tokens).astype(np.int64) for guess, walk in zip(guessed, walks, strict=True)]


def beginning(embeddings: Table, texts: Sequence[str], tokens: int) -> list[str]:
    """The first texts, as many as have this number of tokens."""
    lengths = [len(ids) for ids in embeddings.tokenizer([*texts], add_special_tokens=False)["input_ids"]]
    return list(texts[: int((np.cumsum(lengths) < tokens).sum()) + 1])
