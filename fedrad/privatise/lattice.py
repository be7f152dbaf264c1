"""The likeliest texts under a language model, when every position has only a few tokens to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrad.privatise.embeddings import Ids
from fedrad.privatise.reader import Reader

Floats = npt.NDArray[np.float64]

BEAM = 4
_TEXTS = 8  # at a time: bounds the memory
_HOPELESS = 8.0  # what is so far behind its text's best, even by a bound, is not read


@dataclass(frozen=True, eq=False)
class Lattice:
    """What may stand at each position of a text of n tokens.

    Attributes:
        tokens: candidates, different ones, [n, k].
        fit: how well each fits its position, whatever stands around it: the logarithm of a weight, [n, k]. Minus
            infinity is no candidate; every position has one.
    """

    tokens: Ids
    fit: Floats


def likeliest(reader: Reader, lattices: Sequence[Lattice], beam: int = BEAM) -> list[Ids]:
    """The tokens of each text with the largest sum of fits and log-probability, as far as a beam finds them.

    A step keeps ``beam`` texts. It reads twice as many, those that were best by the first piece of their last token,
    which bounds what the token can reach. A long text is read in parts that the model has positions for, each as if it
    were a text.
    """
    parts = [(k, part) for k, lattice in enumerate(lattices) for part in _parts(reader, lattice)]
    order = sorted(range(len(parts)), key=lambda k: -len(parts[k][1].tokens))
    found: dict[int, Ids] = {}
    for at in range(0, len(order), _TEXTS):
        some = order[at : at + _TEXTS]
        found |= zip(some, _search(reader, [parts[k][1] for k in some], beam), strict=True)
    none = np.empty(0, dtype=np.int64)
    return [
        np.concatenate([none, *(found[j] for j, (whose, _) in enumerate(parts) if whose == k)])
        for k in range(len(lattices))
    ]


def _parts(reader: Reader, lattice: Lattice) -> Iterator[Lattice]:
    """Parts of a lattice whose longest spelling the model has positions for."""
    room = reader.base.max_length - len(reader.start)
    longest = [
        max(len(reader.pieces[token]) for token in row[there])
        for row, there in zip(lattice.tokens, np.isfinite(lattice.fit), strict=True)
    ]
    begin, used = 0, 0
    for k, length in enumerate(longest):
        if used + length > room and k > begin:
            yield Lattice(lattice.tokens[begin:k], lattice.fit[begin:k])
            begin, used = k, 0
        used += length
    if len(longest) > begin:
        yield Lattice(lattice.tokens[begin:], lattice.fit[begin:])


def _search(reader: Reader, lattices: Sequence[Lattice], beam: int) -> list[Ids]:
    """Of texts that are sorted, the longest first."""
    state = reader.begin()
    lengths = np.array([len(lattice.tokens) for lattice in lattices])
    scores = np.zeros((len(lattices), 1))  # of each text's beam
    rows = np.zeros((len(lattices), 1), dtype=np.int64)  # of the state
    paths = np.empty((len(lattices), 1, 0), dtype=np.int64)
    found: list[Ids] = [lattice.tokens[:0, 0] for lattice in lattices]
    for place in range(lengths.max(initial=0)):
        active = int((lengths > place).sum())
        scores, rows, paths = scores[:active], rows[:active], paths[:active]
        tokens, fit = _column(lattices[:active], place)  # [active, k]
        first = np.array([[reader.pieces[token][0] for token in row] for row in tokens.tolist()])
        read = state.logs.numpy()[rows[:, :, None], first[:, None, :]].astype(np.float64)
        bound = scores[:, :, None] + read + fit[:, None, :]
        flat = bound.reshape(active, -1)
        tried = min(2 * beam, flat.shape[1])
        best = np.argpartition(-flat, tried - 1, axis=1)[:, :tried]
        before, which = best // tokens.shape[1], best % tokens.shape[1]
        text, column = np.nonzero(np.take_along_axis(flat, best, 1) > flat.max(1, keepdims=True) - _HOPELESS)
        old, new = before[text, column], which[text, column]
        rest = state.read(rows[text, old], [reader.pieces[token] for token in tokens[text, new].tolist()])
        total = np.full(best.shape, -np.inf)
        total[text, column] = bound[text, old, new] + rest
        row = np.zeros(best.shape, dtype=np.int64)
        row[text, column] = np.arange(len(text))
        kept = np.argsort(-total, axis=1, kind="stable")[:, :beam]
        scores, rows, before, which = (np.take_along_axis(each, kept, 1) for each in (total, row, before, which))
        paths = np.concatenate(
            [np.take_along_axis(paths, before[:, :, None], 1), np.take_along_axis(tokens, which, 1)[:, :, None]], axis=2
        )
        for k in np.flatnonzero(lengths[:active] == place + 1):
            found[k] = paths[k, 0]
    return found


def _column(lattices: Sequence[Lattice], place: int) -> tuple[Ids, Floats]:
    """Candidates of one position in all texts, [texts, k], filled up with what is no candidate."""
    most = max(lattice.tokens.shape[1] for lattice in lattices)
    tokens, fit = np.zeros((len(lattices), most), dtype=np.int64), np.full((len(lattices), most), -np.inf)
    for k, lattice in enumerate(lattices):
        tokens[k, : lattice.tokens.shape[1]], fit[k, : lattice.fit.shape[1]] = lattice.tokens[place], lattice.fit[place]
    tokens[np.isneginf(fit)] = tokens[np.arange(len(lattices)), fit.argmax(1)].repeat(np.isneginf(fit).sum(1))
    return tokens, fit
