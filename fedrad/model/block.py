"""One block of a model: attention and a feed-forward part, each with its residual and its norms.

Weights and modules come from transformers. The forward pass is ours, to choose the attention kernel, and to compute
in the last block only the tokens that are read: the first before a [CLS] head, those of the answer of a decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers.activations import NewGELUActivation

from fedrad.model.adapter import LoRALinear
from fedrad.model.lora_product import is_dense

Function = Callable[[Tensor], Tensor]


class Attention(Protocol):
    """Attention with its output projection, from x [B, T, d] and an additive mask [B, 1, 1, T], or [B, 1, T, T] where
    tokens attend to different ones."""

    def all_tokens(self, x: Tensor, mask: Tensor, *, eager: bool) -> Tensor:
        """[B, T, d]. ``eager`` uses plain matrix products instead of torch's fused kernel."""

    def some_tokens(self, some: Tensor, places: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """[B, S, d], for ``some`` [B, S, d] only, which are the tokens of x at ``places`` [B, S]."""


def unchanged(x: Tensor) -> Tensor:
    """Stands for a norm that a block does not have."""
    return x


@dataclass(frozen=True)
class Block:
    """Attention and a feed-forward part in a pre-norm or post-norm arrangement:

    a = after_attention(x + attention(before_attention(x)))
    y = after_mlp(a + mlp(before_mlp(a)))

    Attributes:
        mlp: the feed-forward part, [B, T, d] -> [B, T, d].
    """

    attention: Attention
    mlp: Function
    before_attention: Function = unchanged
    after_attention: Function = unchanged
    before_mlp: Function = unchanged
    after_mlp: Function = unchanged

    def run(self, x: Tensor, mask: Tensor, *, eager: bool, places: Tensor | None = None) -> Tensor:
        """x [B, T, d], additive mask [B, 1, 1 or T, T] -> y [B, T, d], or [B, S, d] of the tokens at ``places`` [B, S]:
        exact."""
        normed = self.before_attention(x)
        if places is None:
            attended = self.attention.all_tokens(normed, mask, eager=eager)
        else:
            x = tokens_at(x, places)
            attended = self.attention.some_tokens(self.before_attention(x), places, normed, mask)
        a = self.after_attention(x + attended)
        return self.after_mlp(a + self.mlp(self.before_mlp(a)))


@dataclass(frozen=True)
class SelfAttention:
    """An encoder's attention: every token attends to every other, and x contains the positions.

    With H heads of size e = d / H: out(softmax(query(x) key(x)^T / sqrt(e) + mask) value(x)).
    """

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    heads: int

    def all_tokens(self, x: Tensor, mask: Tensor, *, eager: bool) -> Tensor:
        """See ``Attention``."""
        q, k, v = (_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        attended = eager_attention(q, k, v, mask) if eager else scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return cast(Tensor, self.out(attended.transpose(1, 2).flatten(2)))

    def some_tokens(self, some: Tensor, places: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """See ``Attention``; S = 1, and the place makes no difference.

        A single query needs no keys: q_h . (K_h x_t) = (K_h^T q_h) . x_t. And the attention-weighted mean of the values
        is the value of the weighted mean, since the weights sum to 1. So K and V are multiplied once per report instead
        of once per token. (The key's bias adds the same number to every score, which does not change the softmax.)
        """
        q = self.query(some).unflatten(-1, (self.heads, -1)).squeeze(1)  # [B, H, e]
        if _factorised(self.key) and _factorised(self.value):
            scores = torch.bmm(_back_through(self.key, q), x.transpose(1, 2))  # [B, H, T]
            weights = torch.softmax(torch.add(mask[:, 0], scores, alpha=q.shape[-1] ** -0.5), dim=-1)
            attended = _forward_through(self.value, torch.bmm(weights, x))
        else:
            k, v = (_heads(part(x), self.heads) for part in (self.key, self.value))
            attended = eager_attention(q.unsqueeze(2), k, v, mask).squeeze(2)
        return cast(Tensor, self.out(attended.flatten(1).unsqueeze(1)))


def tokens_at(x: Tensor, places: Tensor) -> Tensor:
    """The tokens [B, S, ...] of x [B, T, ...] at ``places`` [B, S]."""
    return x[torch.arange(len(x), device=x.device).unsqueeze(1), places]


def mlp(up: nn.Module, activation: Any, down: nn.Module) -> Function:
    """An ungated feed-forward part: down(activation(up(x)))."""
    if isinstance(activation, NewGELUActivation):
        activation = _tanh_gelu  # the same function in one pass instead of eight
    return lambda x: cast(Tensor, down(activation(up(x))))


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(e) + mask) v for q [B, H, S, e]; k, v [B, H, T, e]; mask [B, 1, 1 or S, T]."""
    B, H, S, e = q.shape
    flat = [part.reshape(B * H, -1, e) for part in (q, k, v)]
    bias = mask.expand(B, H, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(bias, flat[0], flat[1].transpose(1, 2), alpha=e**-0.5)
    return torch.bmm(torch.softmax(scores, dim=-1), flat[2]).view(B, H, S, e)


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, d] -> [B, H, T, e]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _factorised(layer: nn.Module) -> bool:
    """Whether ``_back_through`` and ``_forward_through`` may read the layer's matrices instead of calling it.

    They may not if plain LoRA matrices need gradients: Opacus's hooks only see calls.
    """
    if isinstance(layer, LoRALinear):
        return is_dense(layer.base) and (layer.per_sample or not torch.is_grad_enabled())
    return is_dense(layer)


def _back_through(layer: nn.Module, q: Tensor) -> Tensor:
    """W_h^T q_h for each head, W the layer's whole matrix without bias: [B, H, e] -> [B, H, d]."""
    weight, A, B = _matrices(layer, q)
    heads = q.shape[1]
    back = torch.bmm(q.transpose(0, 1), weight.unflatten(0, (heads, -1))).transpose(0, 1)
    if A is not None and B is not None:
        back = back + torch.bmm(torch.einsum("bhe,bher->bhr", q, B.unflatten(1, (heads, -1))), A)
    return back


def _forward_through(layer: nn.Module, z: Tensor) -> Tensor:
    """W_h z_h + bias_h for each head: [B, H, d] -> [B, H, e]."""
    weight, A, B = _matrices(layer, z)
    heads = z.shape[1]
    out = torch.bmm(z.transpose(0, 1), weight.unflatten(0, (heads, -1)).transpose(1, 2)).transpose(0, 1)
    if A is not None and B is not None:
        out = out + torch.einsum("bhr,bher->bhe", torch.bmm(z, A.transpose(1, 2)), B.unflatten(1, (heads, -1)))
    bias = (layer.base if isinstance(layer, LoRALinear) else cast(nn.Linear, layer)).bias
    return out if bias is None else out + bias.to(out.dtype).unflatten(0, (heads, -1))


def _matrices(layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """W [d, d] and, with LoRA, scaled A [B, r, d] and B [B, d, r], in the dtype of ``like``."""
    if not isinstance(layer, LoRALinear):
        return cast(nn.Linear, layer).weight.to(like.dtype), None, None
    A, B = (part if part.dim() == 3 else part.expand(len(like), *part.shape) for part in (layer.right, layer.left))
    return layer.base.weight.to(like.dtype), layer.scaling * A.to(like.dtype), B.to(like.dtype)


def _tanh_gelu(x: Tensor) -> Tensor:
    return gelu(x, approximate="tanh")
