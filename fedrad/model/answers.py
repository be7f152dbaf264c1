"""A closed list of answers, as a decoder reads and scores them.

All answers to a prompt are scored in one pass. Their tokens form a tree: answers that begin alike share the tokens of
their beginning. The tree is laid out behind the prompt, each of its tokens attends to the prompt and to its own
ancestors, and so has the hidden state that it would have if its answer stood behind the prompt alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedrad.errors import ModelError


def prompt_around(instruction: str) -> tuple[str, str]:
    """What stands before and after a note. The parts are tokenized each on its own, and an answer begins with a
    blank."""
    return f"{instruction}\n\nNote:", "\nAnswer:"


@dataclass(frozen=True)
class Answers:
    """The possible answers.

    Attributes:
        ids: the token ids of each, with the token that ends a text as its last.
        whole_text: all tokens of a text are learnt, not its answer alone.
    """

    ids: tuple[tuple[int, ...], ...]
    whole_text: bool = False

    def __post_init__(self) -> None:
        if len(set(self.ids)) < len(self.ids) or not all(self.ids):
            raise ModelError("two labels are the same text to the tokenizer of this base model: rename one of them.")

    @property
    def longest(self) -> int:
        """M, tokens of the longest."""
        return max(map(len, self.ids))

    @property
    def learnt(self) -> int:
        """How many tokens at the end of a text are learnt, at most; 0: all."""
        return 0 if self.whole_text else self.longest

    @cached_property
    def tree(self) -> AnswerTree:
        """The tree of all answers."""
        nodes: dict[tuple[int, ...], int] = {}  # the beginning of an answer -> its number, from 1; 0 is the prompt
        steps: dict[tuple[int, int], int] = {}  # a node and the next token -> the number of that step
        paths = torch.zeros(len(self.ids), sum(map(len, self.ids)))
        tokens: list[int] = []
        ancestors: list[list[int]] = []
        for answer, ids in enumerate(self.ids):
            node, line = 0, list[int]()
            for place, token in enumerate(ids):
                paths[answer, steps.setdefault((node, token), len(steps))] = 1.0
                if place == len(ids) - 1:
                    break
                beginning = ids[: place + 1]
                if beginning not in nodes:
                    nodes[beginning] = len(nodes) + 1
                    tokens.append(token)
                    ancestors.append([*line, nodes[beginning] - 1])
                node = nodes[beginning]
                line.append(node - 1)
        attends = torch.zeros(len(tokens), len(tokens), dtype=torch.int64)
        for row, seen in enumerate(ancestors):
            attends[row, seen] = 1
        at, next_token = (torch.tensor(part, dtype=torch.int64) for part in zip(*steps, strict=True))
        return AnswerTree(torch.tensor(tokens, dtype=torch.int64), attends, at, next_token, paths[:, : len(steps)])


@dataclass(frozen=True, eq=False)
class AnswerTree:
    """N tokens, each the last of some answers' common beginning, and S steps from one to the next.

    Attributes:
        tokens: [N]. Tokens that end an answer are not among them: nothing comes after those.
        attends: [N, N], 1 where a token attends to another: its ancestors and itself.
        at: [S], where each step starts: 0 is the end of the prompt, k is token k - 1.
        token: [S], which token it adds.
        paths: [L, S], 1 where a step belongs to an answer.
    """

    tokens: Tensor
    attends: Tensor
    at: Tensor
    token: Tensor
    paths: Tensor

    def behind(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts [B, T] with the tree behind them: ids [B, T + N], and who attends to whom [B, T + N, T + N]."""
        B, T = ids.shape
        device, N = ids.device, len(self.tokens)
        attends = torch.zeros(B, T + N, T + N, dtype=torch.int64, device=device)
        attends[:, :T, :T] = attention[:, None] * torch.ones(T, T, dtype=torch.int64, device=device).tril()
        attends[:, T:, :T] = attention[:, None]
        attends[:, T:, T:] = self.attends.to(device)
        return torch.cat([ids, self.tokens.to(device).expand(B, N)], dim=1), attends

    def scores(self, log_probabilities: Tensor) -> Tensor:
        """Log-probabilities [B, L] of the answers, from those [B, 1 + N, V] of the next token at the end of the prompt
        and at each token of the tree."""
        device = log_probabilities.device
        steps = log_probabilities[:, self.at.to(device), self.token.to(device)]
        return steps @ self.paths.to(device).T
