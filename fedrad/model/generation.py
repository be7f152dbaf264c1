"""Free generation: what a decoder writes behind a prompt if nothing holds it to a list of answers."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrad.model.encoder import ReportClassifier


@torch.no_grad()
def greedy(model: ReportClassifier, ids: Tensor, attention: Tensor, end: int, most: int) -> list[list[int]]:
    """The most probable next token, again and again, until ``end`` or ``most`` tokens.

    Nothing is kept between tokens: each costs a pass over prompt and answer, which is short here.

    Args:
        ids, attention: prompts [B, T], padded on the right.
        end: the token that ends a text; it is left out.

    Returns:
        token ids for each prompt, at most ``most``.
    """
    rows, lengths = torch.arange(len(ids), device=ids.device), attention.sum(1)
    ids, attention = (torch.cat([part, part.new_zeros(len(part), most)], dim=1) for part in (ids, attention))
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    written = []
    for step in range(most):
        width = int(lengths.max()) + step
        hidden = model.prefix(ids[:, :width], attention[:, :width])
        states = model.suffix.layers(hidden, attention[:, :width])
        token = model.suffix.head(states[rows, lengths + step - 1]).argmax(dim=-1).masked_fill(ended, end)
        ids[rows, lengths + step], attention[rows, lengths + step] = token, 1
        written.append(token)
        ended |= token == end
        if bool(ended.all()):
            break
    lines = torch.stack(written, dim=1).tolist()
    return [line[: line.index(end)] if end in line else line for line in lines]
