"""The parts of a classifier: embeddings, layers, pooling, head.

The layers come from transformers, but our own loop runs them, so that the model can be cut in two: a frozen lower part
that runs once per report, and an upper part that runs in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from fedrad.model.family import Stack


class Layers(nn.Module):
    """Some consecutive layers of a model: hidden [B, T, d], attention [B, T] -> hidden [B, T, d].

    The layers of a decoder also take attention [B, T, T]: which token (row) attends to which; and ``places`` [B, S],
    if they go to the end: the only tokens that the last layer computes, [B, S, d].

    Args:
        steps: the places of ``stack.order`` to run.
        first_token_only: the model's last layer, if it is among them, computes only the first token: -> [B, 1, d].
        eager_up_to, checkpointing: as in ``Kernels``.
    """

    def __init__(
        self, stack: Stack, steps: range, *, first_token_only: bool, eager_up_to: int, checkpointing: bool = False
    ) -> None:
        super().__init__()
        places = [stack.order[step] for step in steps]
        used, layers = sorted(set(places)), list(stack.layers.values())
        to_the_end = bool(places) and steps.stop == len(stack.order)
        self.layers = nn.ModuleList(layers[place] for place in used)
        self.order = tuple(used.index(place) for place in places)
        self.blocks_of = stack.blocks
        self.final = stack.final if to_the_end else None
        self.causal = stack.vocabulary is not None
        self.first_token_only = first_token_only and to_the_end
        self.eager_up_to = eager_up_to
        self.checkpointing = checkpointing

    def forward(self, hidden: Tensor, attention: Tensor, places: Tensor | None = None) -> Tensor:
        blocks = [block for index in self.order for block in self.blocks_of(self.layers[index])]
        if not blocks:
            return hidden
        # The dtype of norms and biases: vectors are neither adapted nor quantised.
        dtype = next(parameter.dtype for parameter in self.layers.parameters() if parameter.dim() == 1)
        hidden = hidden.to(dtype)
        if self.causal and attention.dim() == 2:
            attention = (attention[:, None] * attention.new_ones(2 * attention.shape[1:])).tril()
        attended = attention[:, None, None] if attention.dim() == 2 else attention[:, None]
        mask = (1 - attended.to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        eager = hidden.shape[1] <= self.eager_up_to
        kept = _inputs_only if self.checkpointing and torch.is_grad_enabled() else _everything
        for block in blocks[:-1]:
            hidden = kept(partial(block.run, eager=eager), hidden, mask)
        if self.first_token_only:
            places = torch.zeros(len(hidden), 1, dtype=torch.int64, device=hidden.device)
        hidden = kept(partial(blocks[-1].run, eager=eager, places=places), hidden, mask)
        return hidden if self.final is None else self.final(hidden)


def _everything(run: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
    """The backward pass finds all that the forward pass computed."""
    return run(hidden, mask)


def _inputs_only(run: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
    """The backward pass computes it again (Chen et al. 2016, arXiv 1604.06174). No block draws random numbers."""
    return cast(Tensor, checkpoint(run, hidden, mask, use_reentrant=False, preserve_rng_state=False))


class Readout(nn.Module):
    """Hidden states [B, T, d] -> features [B, k]: ``(pooled - centre) @ basis.T`` or, without a basis,
    ``(pooled - centre) * scale`` with k = d.

    The constants ``centre`` [d], ``scale`` [d] and ``basis`` [k, d] come from public text only. The pooled vector is
    the mean over the tokens that are not padding or, with a ``pooler``, tanh(pooler(first token)) (Devlin et al. 2019).
    """

    centre: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, pooler: nn.Linear | None, hidden_size: int, directions: int = 0) -> None:
        super().__init__()
        self.pooler = pooler
        self.directions = directions
        self.width = hidden_size
        self.register_buffer("centre", torch.zeros(hidden_size))
        if directions:
            self.register_buffer("basis", torch.eye(directions, hidden_size))
        else:
            self.register_buffer("scale", torch.ones(hidden_size))

    def constants(self) -> dict[str, Tensor]:
        """The public constants by name."""
        return dict(self.named_buffers(recurse=False))

    def pool(self, hidden: Tensor, attention: Tensor) -> Tensor:
        """The pooled vector [B, d], neither centred nor scaled; float32 also under autocast."""
        dtype = self.centre.dtype
        if self.pooler is not None:
            return torch.tanh(self.pooler(hidden[:, 0].to(self.pooler.weight.dtype))).to(dtype)
        weight = attention.unsqueeze(-1).to(dtype)
        return (hidden.to(dtype) * weight).sum(1) / weight.sum(1).clamp(min=1.0)

    def forward(self, hidden: Tensor, attention: Tensor) -> Tensor:
        centred = self.pool(hidden, attention) - self.centre
        return linear(centred, self.basis) if self.directions else centred * self.scale


class AnswerReadout(nn.Module):
    """Attention [B, T] of texts that end in an answer -> the places [B, M] from which what is learnt is predicted.

    They are those before each of the last M tokens. A shorter answer stands at the end of the M.

    Args:
        longest: M; 0: all tokens are learnt, from those before them: M = T - 1, and shorter texts stand at the start.
    """

    directions = 0

    def __init__(self, hidden_size: int, longest: int) -> None:
        super().__init__()
        self.width = hidden_size
        self.longest = longest

    def constants(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def forward(self, attention: Tensor) -> Tensor:
        if not self.longest:
            return torch.arange(attention.shape[1] - 1, device=attention.device).expand(len(attention), -1)
        back = torch.arange(self.longest, device=attention.device) - self.longest - 1
        return (attention.sum(1, keepdim=True) + back).clamp(min=0)


class Prefix(nn.Module):
    """Everything below the lowest adapted layer; never differentiated.

    ids [B, T], attention [B, T] -> hidden states [B, T, d]; with ``readout`` (head-only training): features [B, k].
    """

    def __init__(self, embed: nn.Module, layers: Layers, readout: Readout | None) -> None:
        super().__init__()
        self.embed = embed
        self.layers = layers
        self.readout = readout

    @torch.no_grad()
    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        hidden: Tensor = self.layers(self.embed(ids), attention)
        return hidden if self.readout is None else self.readout(hidden, attention)


class Suffix(nn.Module):
    """Everything from the lowest adapted layer up: output of ``Prefix``, attention [B, T] -> logits [B, L].

    Of a decoder: logits [B, M, V] of the tokens that are learnt, those of the answers or all but the first, and
    ``head`` is its frozen vocabulary. Only these are multiplied with it, and in the last layer only the states that
    they are predicted from are computed: ``wanted`` [B, M] is 0 where a text has no such token. There the logits are 0.
    """

    own: ClassVar[tuple[str, ...]] = ()
    """Tensors of its own that are trained, by name: the canaries of an audit."""

    def __init__(self, layers: Layers, readout: Readout | AnswerReadout | None, head: nn.Linear) -> None:
        super().__init__()
        self.layers = layers
        self.readout = readout
        self.head = head

    def forward(self, hidden: Tensor, attention: Tensor, wanted: Tensor | None = None) -> Tensor:
        if isinstance(self.readout, AnswerReadout):
            return self._answers(self.layers(hidden, attention, self.readout(attention)), wanted)
        features = hidden if self.readout is None else self.readout(self.layers(hidden, attention), attention)
        logits: Tensor = self.head(features)
        return logits.to(self.head.weight.dtype)

    def _answers(self, states: Tensor, wanted: Tensor | None) -> Tensor:
        if wanted is None:
            return cast(Tensor, self.head(states))
        rows = wanted.flatten().nonzero().squeeze(1)
        few: Tensor = self.head(states.flatten(0, 1)[rows])
        whole = few.new_zeros(wanted.numel(), few.shape[1])
        return whole.index_copy(0, rows, few).view(*wanted.shape, -1)
