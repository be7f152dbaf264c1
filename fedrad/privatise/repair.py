"""Repairs privatised texts: a language model chooses again, among tokens that are close to each answer.

The constraint is on tokens, not on facts. Each answer stays, or becomes one of the few tokens of the vocabulary that
are nearest to it; none is added or dropped, and none with a digit comes or goes. So no phrase can appear that the
answers don't lead to. But close tokens may mean different things, as "left" and "right" do, and a repaired text may say
the one where the answers said the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.lattice import Lattice, likeliest
from fedrad.privatise.mechanisms import blocks
from fedrad.privatise.reader import Reader

DROPPED: Final = -1
"""In place of an answer."""


@dataclass(frozen=True, eq=False)
class Repair:
    """Chooses the tokens w that maximise the sum of ``ln p(w | those before)`` and ``closeness cosine(w, answer)``.

    Guarantee:
        It reads the answers, which of them may change, and what is public; it never sees a text. So it is
        post-processing: whatever a mechanism guarantees for its answers holds for the repaired ones.

    Attributes:
        reader: the language model; it is public.
        neighbours: k, candidates of an answer: itself and the nearest others.
        closeness: weight of the cosine. At infinity nothing would change.
        beam: as of ``likeliest``.
    """

    reader: Reader
    neighbours: int = 8
    closeness: float = 10.0
    beam: int = 4

    @property
    def figures(self) -> dict[str, Any]:
        """All that decides what it chooses, as JSON."""
        base = self.reader.base
        return {
            "model": base.name,
            "fingerprint": base.fingerprint,
            "neighbours": self.neighbours,
            "closeness": self.closeness,
            "beam": self.beam,
        }

    def chosen(self, table: Table, answers: Sequence[Ids], may: Sequence[npt.NDArray[np.bool_]]) -> list[Ids]:
        """The repaired answers of each text; dropped ones stay dropped.

        Args:
            answers: of each text, [n].
            may: which of them may change, [n].
        """
        there = [ids != DROPPED for ids in answers]
        kept = [ids[mask] for ids, mask in zip(answers, there, strict=True)]
        free = [mask[here] for mask, here in zip(may, there, strict=True)]
        distinct = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *kept]))
        tokens, fit = self._near(table, distinct)
        alone = np.where(np.arange(tokens.shape[1]) == 0, 0.0, -np.inf)
        lattices = []
        for ids, open_ in zip(kept, free, strict=True):
            which = np.searchsorted(distinct, ids)
            lattices.append(Lattice(tokens[which], np.where(open_[:, None], fit[which], alone)))
        found = [ids.copy() for ids in answers]
        for ids, here, best in zip(found, there, likeliest(self.reader, lattices, self.beam), strict=True):
            ids[here] = best
        return found

    def _near(self, table: Table, answers: Ids) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Candidates of each answer, itself first, and their fits, [n, k]."""
        words = table.tokenizer.convert_ids_to_tokens(table.outputs.tolist())
        wordy = table.outputs[[not any(letter.isdigit() for letter in word) for word in words]]
        rows, k = table.unit[wordy], min(self.neighbours, len(wordy))
        tokens = np.empty((len(answers), k), dtype=np.int64)
        fit = np.full((len(answers), k), -np.inf)
        for part in blocks(len(answers)):
            cosines = (table.unit[answers[part]] @ rows.T).numpy().astype(np.float64)
            cosines[wordy == answers[part, None]] = np.inf  # itself, also among tokens of the same direction
            best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            tokens[part], fit[part] = wordy[best], self.closeness * np.take_along_axis(cosines, best, 1)
        fit[np.isposinf(fit)] = self.closeness
        stays = ~np.isin(answers, wordy)
        tokens[stays, 0], fit[stays] = answers[stays], np.where(np.arange(k) == 0, 0.0, -np.inf)
        return tokens, fit
