"""y = x W^T + b + s (x A_i^T) B_i^T as one differentiable operation, with an A and a B for every sample i.

It is cheaper than library parts in three ways. Forward adds the rank-r update to the frozen product in place, where
PEFT makes three passes over the full output. Backward computes the gradient of the input only if needed, and adds the
rank-r part in place too. The gradients of A_i and B_i cost as much arithmetic as those of shared matrices: one product
per sample instead of one over all samples.

With W frozen, g = dL/dy, u = s g B_i and h = s x A_i^T:

    dL/dA_i = u_i^T x_i  [r, in]        dL/dB_i = g_i^T h_i  [out, r]        dL/dx = g W + u A_i
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def lora_linear(x: Tensor, base: nn.Linear, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """A LoRA layer on B samples.

    Args:
        x: [n, ..., in]. Autocast casts it as for ``nn.functional.linear``.
        base: the frozen layer. If it is quantised (its weight is not a plain floating-point tensor), it is called, and
            the update is added to its output.
        A: [r, in], or one per sample, [n, r, in]. It is faster if the samples share the memory (stride 0).
        B: [out, r], or [n, out, r].
        scaling: s.

    Returns:
        [n, ..., out] in the dtype of x; gradients of A and B are [n, ...] in their own dtype.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    dense = is_dense(base)
    given = None if dense else base(x)
    with torch.autocast(device, enabled=False):
        frozen = (base.weight, base.bias, None) if dense else (None, None, given)
        y: Tensor = _Product.apply(x, *frozen, A, B, scaling)
    return y


def is_dense(layer: nn.Module) -> bool:
    """Whether the layer's weight is a plain floating-point matrix."""
    weight = layer.weight
    plain = type(layer) is nn.Linear and type(weight) in (nn.Parameter, Tensor)
    return plain and isinstance(weight, Tensor) and weight.is_floating_point()


class _Product(torch.autograd.Function):
    """The whole product if W is given; otherwise the update plus ``gave``, the output of a layer with a backward pass
    of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor | None,
        bias: Tensor | None,
        gave: Tensor | None,
        A: Tensor,
        B: Tensor,
        scaling: float,
    ) -> Tensor:
        if W is not None:
            y = linear(x.reshape(-1, x.shape[-1]), W.to(x.dtype), None if bias is None else bias.to(x.dtype))
        elif gave is not None:
            y = gave.reshape(-1, gave.shape[-1]).clone()  # the layer's backward may need it
        h = _times(x, A, transposed=True).mul_(scaling)
        _add_times(y, h.to(y.dtype), B, transposed=True)
        ctx.save_for_backward(x, W, A, B, h)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, W, A, B, h = ctx.saved_tensors
        needs_x, _, _, needs_gave, needs_A, needs_B, _ = ctx.needs_input_grad
        mine, gx, gA = g.to(x.dtype), None, None
        if needs_x or needs_A:
            u = _times(mine, B).mul_(ctx.scaling)
            gA = _gradient_of(A, _per_sample(u, x)) if needs_A else None
            if needs_x and W is None:
                gx = _times(u, A).view(x.shape)
            elif needs_x:
                gx = mine.reshape(-1, mine.shape[-1]) @ W.to(x.dtype)
                _add_times(gx, u, A)
                gx = gx.view(x.shape)
        gB = _gradient_of(B, _per_sample(h, mine).transpose(1, 2)) if needs_B else None
        return gx, None, None, g if needs_gave else None, gA, gB, None


def _matrix(weight: Tensor, dtype: torch.dtype, *, transposed: bool) -> Tensor:
    """The matrix [a, b] if all samples share it, otherwise one per sample [n, a, b]."""
    shared = weight.dim() == 3 and (len(weight) == 1 or weight.stride(0) == 0)
    each = (weight[0] if shared else weight).to(dtype)
    return each.mT if transposed else each


def _samples(x: Tensor) -> Tensor:
    """[n, ..., d] as [n, T, d]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _times(x: Tensor, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """x [n, ..., a] times a weight [a, b] (or [b, a] if ``transposed``) or one per sample -> [n, T, b]."""
    rows, matrix = _samples(x), _matrix(weight, x.dtype, transposed=transposed)
    if matrix.dim() == 3:
        return torch.bmm(rows, matrix)
    return (rows.reshape(-1, rows.shape[-1]) @ matrix).view(*rows.shape[:2], -1)


def _add_times(into: Tensor, x: Tensor, weight: Tensor, *, transposed: bool = False) -> None:
    """into [n T, b] += x [n, T, a] times the weight, as in ``_times``; in place."""
    matrix = _matrix(weight, x.dtype, transposed=transposed)
    if matrix.dim() == 2:
        into.addmm_(x.reshape(-1, x.shape[-1]), matrix)
    else:
        into.view(x.shape[0], x.shape[1], -1).baddbmm_(x, matrix)


def _per_sample(left: Tensor, right: Tensor) -> Tensor:
    """left^T right for each sample: [n, T, r], [n, ..., d] -> [n, r, d]."""
    return torch.bmm(left.transpose(1, 2), _samples(right))


def _gradient_of(weight: Tensor, gradients: Tensor) -> Tensor:
    """The gradients [n, ...] in the weight's dtype; their sum, if the weight is one matrix for all samples."""
    return (gradients.sum(0) if weight.dim() == 2 else gradients).to(weight.dtype)
