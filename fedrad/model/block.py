"""One encoder block, written once for all families: attention, feed-forward, two residual layer norms.

The weights and modules are those of transformers; the walk through them is ours, because it decides what is computed:
which attention kernel runs, and that the last block before a [CLS] head computes the first token and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers.activations import NewGELUActivation

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRALinear
from fedrad.model.fused import is_dense


@dataclass(frozen=True)
class Block:
    """The parts of a block. With d the width and H heads of size e = d / H:

    a = norm_attention(x + out(attention(query(x), key(x), value(x))))
    y = norm_output(a + down(activation(up(a))))
    """

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    norm_attention: nn.LayerNorm
    up: nn.Module
    activation: Callable[[Tensor], Tensor]
    down: nn.Module
    norm_output: nn.LayerNorm
    heads: int


def blocks_of(family: str, layer: Any) -> list[Block]:
    """The blocks inside one layer of a transformers encoder, in order.

    Raises:
        ModelError: the layer is none of an encoder that this walk knows.
    """
    match family:
        case "bert" | "roberta":
            attention = layer.attention.self
            return [
                Block(
                    query=attention.query,
                    key=attention.key,
                    value=attention.value,
                    out=layer.attention.output.dense,
                    norm_attention=layer.attention.output.LayerNorm,
                    up=layer.intermediate.dense,
                    activation=_activation(layer.intermediate.intermediate_act_fn),
                    down=layer.output.dense,
                    norm_output=layer.output.LayerNorm,
                    heads=attention.num_attention_heads,
                )
            ]
        case "distilbert":
            return [
                Block(
                    query=layer.attention.q_lin,
                    key=layer.attention.k_lin,
                    value=layer.attention.v_lin,
                    out=layer.attention.out_lin,
                    norm_attention=layer.sa_layer_norm,
                    up=layer.ffn.lin1,
                    activation=_activation(layer.ffn.activation),
                    down=layer.ffn.lin2,
                    norm_output=layer.output_layer_norm,
                    heads=layer.attention.n_heads,
                )
            ]
        case "albert":
            return [
                Block(
                    query=inner.attention.query,
                    key=inner.attention.key,
                    value=inner.attention.value,
                    out=inner.attention.dense,
                    norm_attention=inner.attention.LayerNorm,
                    up=inner.ffn,
                    activation=_activation(inner.activation),
                    down=inner.ffn_output,
                    norm_output=inner.full_layer_layer_norm,
                    heads=inner.attention.num_attention_heads,
                )
                for inner in layer.albert_layers
            ]
    raise ModelError(f"model type {family!r} is not supported.")


def run_block(block: Block, x: Tensor, mask: Tensor, *, eager: bool) -> Tensor:
    """All tokens: x [B, T, d], additive mask [B, 1, 1, T] -> [B, T, d].

    Args:
        eager: attention by plain matrix products instead of torch's fused kernel; which is faster depends on the
            machine, the dtype and T.
    """
    q, k, v = (_heads(part(x), block.heads) for part in (block.query, block.key, block.value))
    attended = eager_attention(q, k, v, mask) if eager else scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return _after_attention(block, x, attended.transpose(1, 2).flatten(2))


def run_block_first_token(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    """The first token only, which is all that a [CLS] head reads: x [B, T, d] -> [B, 1, d]. Exact.

    One query against T keys needs no keys: q_h . (K_h x_t) = (K_h^T q_h) . x_t, and the attention-weighted mean of the
    values is the value of the weighted mean, since the weights sum to 1. So the products with K and V are taken once
    per report instead of once per token. (The key's bias adds the same to every score, which a softmax does not see.)
    """
    first = x[:, :1]
    q = block.query(first).unflatten(-1, (block.heads, -1)).squeeze(1)  # [B, H, e]
    if _factorised(block.key) and _factorised(block.value):
        scores = torch.bmm(_back_through(block.key, q), x.transpose(1, 2))  # [B, H, T]
        weights = torch.softmax(torch.add(mask[:, 0], scores, alpha=q.shape[-1] ** -0.5), dim=-1)
        attended = _forward_through(block.value, torch.bmm(weights, x))
    else:
        k, v = (_heads(part(x), block.heads) for part in (block.key, block.value))
        attended = eager_attention(q.unsqueeze(2), k, v, mask).squeeze(2)
    return _after_attention(block, first, attended.flatten(1).unsqueeze(1))


def _after_attention(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    a = block.norm_attention(x + block.out(attended))
    y: Tensor = block.norm_output(a + block.down(block.activation(block.up(a))))
    return y


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(e) + mask) v for q [B, H, S, e]; k, v [B, H, T, e]; scale and mask added in the product."""
    B, H, S, e = q.shape
    flat = [part.reshape(B * H, -1, e) for part in (q, k, v)]
    bias = mask.expand(B, H, 1, -1).reshape(B * H, 1, -1)
    scores = torch.baddbmm(bias, flat[0], flat[1].transpose(1, 2), alpha=e**-0.5)
    return torch.bmm(torch.softmax(scores, dim=-1), flat[2]).view(B, H, S, e)


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, d] -> [B, H, T, e]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _factorised(layer: nn.Module) -> bool:
    """Whether ``_back_through`` and ``_forward_through`` may read the layer's matrices instead of calling it.

    Not where gradients of plain LoRA matrices are wanted: Opacus's hooks see calls only.
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
    """W [d, d], and scaled A [B, r, d] and B [B, d, r] if there are any, in the dtype of ``like``."""
    if not isinstance(layer, LoRALinear):
        return cast(nn.Linear, layer).weight.to(like.dtype), None, None
    A, B = (part if part.dim() == 3 else part.expand(len(like), *part.shape) for part in (layer.right, layer.left))
    return layer.base.weight.to(like.dtype), layer.scaling * A.to(like.dtype), B.to(like.dtype)


def _activation(module: Any) -> Callable[[Tensor], Tensor]:
    if isinstance(module, NewGELUActivation):
        return _tanh_gelu  # the same function in one pass instead of eight
    activation: Callable[[Tensor], Tensor] = module
    return activation


def _tanh_gelu(x: Tensor) -> Tensor:
    return gelu(x, approximate="tanh")
