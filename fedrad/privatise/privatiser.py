"""Texts in, privatised texts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import Choice, GroupGuarantee, group_guarantees
from fedrad.privatise.embeddings import Ids, Table
from fedrad.privatise.identifiers import Span, identifiers, merged
from fedrad.privatise.mechanisms import Mechanism
from fedrad.privatise.repair import DROPPED as DROPPED
from fedrad.privatise.repair import Repair
from fedrad.privatise.rivals import mechanism_named

Detector = Callable[[str], list[Span]]
"""From a text to the characters that identify somebody."""


@dataclass(frozen=True, eq=False)
class Walk:
    """What happened to one text, token by token. Private: it holds the text's own tokens.

    Attributes:
        tokens: ids of the text, [n].
        groups: of each, 0 to 3, [n].
        answers: ids that take their place, [n]; ``DROPPED`` where nothing does.
    """

    tokens: Ids
    groups: npt.NDArray[np.int8]
    answers: Ids


@dataclass(frozen=True, eq=False)
class Privatiser:
    """Privatises texts token by token. It can be pickled, e.g. for ``datasets.map`` or Spark.

    Guarantee:
        For two texts with the same number of tokens, the same groups at the same positions and the same kept tokens,
        the log-ratio of the result's probabilities is at most the sum of rate * distance over the positions that
        differ, with rate and distance of ``guarantees``; against whoever sees the result and knows table, task and
        settings. Nothing is said about texts of other groups or lengths: where identifiers and important tokens stand
        is not hidden. Answers of all texts are independent, so the sums of a patient's texts add. A repair changes
        nothing of this: it is post-processing, which reads the answers and the groups and no text.

    Attributes:
        task: what the texts are for, in a few public words.
        detectors: what makes a token sensitive; their findings are united.
        seed: None: randomness from the operating system. A number: for experiments, where it protects nobody.
        repair: chooses again among what is close to each answer; None: the answers stay as they were drawn.
    """

    table: Table
    choice: Choice
    task: str
    detectors: tuple[Detector, ...] = (identifiers,)
    seed: int | None = None
    repair: Repair | None = None
    important: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        cosines = self.table.unit.numpy() @ self.table.vector(self.task)
        object.__setattr__(self, "important", cosines >= self.choice.threshold)

    @property
    def mechanism(self) -> Mechanism:
        """The chosen one, on the table."""
        return mechanism_named(self.choice.mechanism, self.table, self.choice.kappa)

    @property
    def guarantees(self) -> tuple[GroupGuarantee, ...]:
        """Of groups 1 to 4."""
        return group_guarantees(self.choice)

    def texts(self, texts: Sequence[str], part: int | str = 0) -> list[str]:
        """The privatised texts.

        Args:
            part: with a seed, which of several calls this is: calls of the same name repeat their randomness.
        """
        return [self.spelt(walk) for walk in self.walks(texts, part)]

    def walks(self, texts: Sequence[str], part: int | str = 0) -> list[Walk]:
        """What happens to each text. Arguments as for ``texts``."""
        if not texts:
            return []
        encoded = self.table.tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        tokens = [np.array(ids, dtype=np.int64) for ids in encoded["input_ids"]]
        groups = [
            self._groups(ids, np.array(offsets, dtype=np.int64).reshape(-1, 2), text)
            for ids, offsets, text in zip(tokens, encoded["offset_mapping"], texts, strict=True)
        ]
        drawn = self._answers(np.concatenate(tokens), np.concatenate(groups), part)
        answers = np.split(drawn, np.cumsum([len(ids) for ids in tokens])[:-1])
        if self.repair is not None:
            answers = self.repair.chosen(self.table, answers, [self._open(each) for each in groups])
        return [Walk(*walk) for walk in zip(tokens, groups, answers, strict=True)]

    def spelt(self, walk: Walk) -> str:
        """The answers as text. Spacing and capitals are the tokenizer's, not the original's."""
        answers = walk.answers[walk.answers != DROPPED].tolist()
        text: str = self.table.tokenizer.decode(answers, clean_up_tokenization_spaces=True)
        return text.strip()

    def worst(self, walk: Walk) -> float:
        """The composed guarantee of one text: the log-ratio over all texts with its groups and its kept tokens.

        It depends on the text, by its length and groups.
        """
        counts = np.bincount(walk.groups, minlength=len(self.guarantees)).tolist()
        return float(sum(n * of.worst for n, of in zip(counts, self.guarantees, strict=True) if of.worst < np.inf))

    def _groups(self, tokens: Ids, offsets: Ids, text: str) -> npt.NDArray[np.int8]:
        """Whole spans share a group; a span is important only if all of its tokens are."""
        sensitive, important = np.zeros(len(tokens), dtype=bool), self.important[tokens]
        for span in merged(span for detector in self.detectors for span in detector(text)):
            inside = (offsets[:, 0] < span.end) & (offsets[:, 1] > span.start)
            sensitive |= inside
            important[inside] = important[inside].all()
        return (2 * ~sensitive + ~important).astype(np.int8)

    def _open(self, groups: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
        """What a repair may change: nothing that a profile keeps, and nothing in an identifier."""
        found: npt.NDArray[np.bool_] = (groups >= 2) & np.isfinite(np.array(self.choice.budgets)[groups])
        return found

    def _answers(self, tokens: Ids, groups: npt.NDArray[np.int8], part: int | str) -> Ids:
        stream = Stream.system() if self.seed is None else Stream.seeded(self.seed, "privatise", part)
        budgets = np.array(self.choice.budgets)[groups]
        answers = np.where(budgets == 0, DROPPED, tokens)
        drawn = (budgets > 0) & np.isfinite(budgets)
        answers[drawn] = self.mechanism.draw(tokens[drawn], budgets[drawn], stream)
        return answers
