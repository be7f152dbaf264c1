"""A causal language model as a judge of a table's tokens, which it reads in its own spelling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedrad.errors import ModelError
from fedrad.model.base import BaseModel
from fedrad.model.families import FAMILIES
from fedrad.privatise.embeddings import Ids, Table

_NO_SPACE_BEFORE = re.compile(r"[.,;:!?)\]}%'’/-]")
Pieces = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reader:
    """A language model that reads tokens of a table.

    Attributes:
        base: a decoder.
        pieces: how each token of the table is spelt in the decoder's vocabulary, one piece or more, [V].
        start: public pieces that every text begins with, at least one.
    """

    base: BaseModel
    pieces: Sequence[Pieces]
    start: Pieces

    @torch.no_grad()
    def log_probability(self, tokens: Ids) -> float:
        """Of a text's tokens one after the other, behind ``start``; natural logarithm, summed."""
        spelt = [piece for token in tokens.tolist() for piece in self.pieces[token]]
        ids = torch.tensor([[*self.start, *spelt]])
        logs = self.base.module(ids).logits[0, len(self.start) - 1 : -1].float().log_softmax(-1)
        return float(logs.gather(1, ids[0, len(self.start) :, None]).sum())

    @torch.no_grad()
    def begin(self) -> State:
        """What the model has read before a text: ``start``, in one row."""
        ids = torch.tensor([self.start])
        found = self.base.module(ids, use_cache=True)
        return State(self, found.past_key_values, torch.ones_like(ids), found.logits[:, -1].float().log_softmax(-1))


@dataclass(eq=False)
class State:
    """What the model has read in each of R rows; rows may be of different lengths.

    Attributes:
        cache: keys and values of transformers, for T columns.
        mask: which columns are pieces; the others are gaps, [R, T].
        logs: logarithms of the next piece's probabilities, [R, V].
    """

    reader: Reader
    cache: Any
    mask: Tensor
    logs: Tensor

    @torch.no_grad()
    def read(self, rows: npt.NDArray[np.int64], words: Sequence[Pieces]) -> npt.NDArray[np.float64]:
        """Goes on from some of its rows, each with the pieces of one token: these are its rows now.

        Args:
            rows: numbers of rows, [r]; one may come several times.
        Returns:
            the logarithm of the probability of each token's pieces behind its first, [r].
        """
        longest = max(map(len, words))
        ids = torch.tensor([word + (0,) * (longest - len(word)) for word in words])
        lengths = torch.tensor([len(word) for word in words])
        new = (torch.arange(longest) < lengths[:, None]).long()
        which = torch.from_numpy(rows)
        self.cache.batch_select_indices(which)
        before = self.mask[which]
        self.mask = torch.cat([before, new], 1)
        places = before.sum(1, keepdim=True) + torch.arange(longest)
        logits = self.reader.base.module(
            ids, attention_mask=self.mask, position_ids=places, past_key_values=self.cache, use_cache=True
        ).logits.float()
        self.logs = logits[torch.arange(len(ids)), lengths - 1].log_softmax(-1)
        if longest == 1:
            return np.zeros(len(ids))
        asked = logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0] - logits[:, :-1].logsumexp(-1)
        return (asked * new[:, 1:]).sum(1).double().numpy()


def reader_of(table: Table, base: BaseModel, start: str) -> Reader:
    """A reader of the table's tokens.

    Args:
        start: a public text that stands before all others, for instance what they are for.

    Raises:
        ModelError: ``base`` is no decoder, or can't spell a token of the table.
    """
    if not FAMILIES[base.config.model_type].causal:
        raise ModelError(f"{base.name!r} is an encoder: only a decoder says how likely a text is.")
    tokenizer = base.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    told = tokenizer(start, add_special_tokens=False)["input_ids"]
    return Reader(base, _spellings(table, tokenizer), (first, *told))


def _spellings(table: Table, tokenizer: Any) -> list[Pieces]:
    """Of all tokens. Within a text this is how most decoders cut it, but not always: a word that the table has in two
    parts may be one piece of the decoder's."""
    if tokenizer.get_vocab() == table.tokenizer.get_vocab():
        return [(k,) for k in range(len(table.unit))]
    words = [_as_text(table.tokenizer, k) for k in range(len(table.unit))]
    found = [tuple(ids) for ids in tokenizer(words, add_special_tokens=False)["input_ids"]]
    if empty := [words[k] for k in table.outputs.tolist() if not found[k]]:
        raise ModelError(f"the language model can't spell {len(empty)} tokens of the table, as {empty[0]!r}.")
    return [pieces or (tokenizer.eos_token_id,) for pieces in found]  # a special token may be spelt by nothing


def _as_text(tokenizer: Any, token: int) -> str:
    """What a token adds to a text: with the space before it, if it has one."""
    word: str = tokenizer.convert_ids_to_tokens(token) or ""
    inside = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    if not inside:
        return str(tokenizer.decode([token]))  # the token itself says whether a space stands before it
    if word.startswith(inside):
        return word[len(inside) :]
    return word if _NO_SPACE_BEFORE.fullmatch(word) else f" {word}"
