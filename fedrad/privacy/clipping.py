"""Clipping: the factor for each unit's gradient that bounds its contribution to the sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedrad.errors import PrivacyError
from fedrad.privacy.plan import PrivacyPlan


def largest_norm(plan: PrivacyPlan) -> float:
    """The clip norm; infinity if the plan is not private."""
    return plan.clip if plan.private else math.inf


def clip_factors(grads: Sequence[Tensor], clip: Tensor | float, scales: Sequence[float] = ()) -> Tensor:
    """Factors [B], float64: min(1, clip / |s g_i|), or 0 if g_i is not finite.

    The norm of g_i is taken over all tensors together. It is computed in float64 from the numbers that are then summed,
    so it bounds the contribution whatever precision the gradient was computed in.

    Args:
        grads: the tensors of a gradient, each [B, *shape].
        clip: one bound for all, or one for each row [B].
        scales: the factor s of each tensor within the norm; empty: 1.
    """
    rows = [g.reshape(len(g), math.prod(g.shape[1:])).double() for g in grads]
    scaled = zip(rows, scales or [1.0] * len(rows), strict=True)
    squares = torch.stack([scale**2 * row.square().sum(1) for row, scale in scaled]).sum(0)
    # The margin covers float64 rounding, so that no contribution exceeds clip. A zero gradient gives x / 0 = inf, so 1.
    factors = (clip * (1 - 1e-12) / squares.sqrt()).clamp(max=1.0)
    return factors.where(squares.isfinite(), 0.0)


def finite_rows(grad: Tensor, factors: Tensor) -> Tensor:
    """One tensor's gradients as [B, numbers], float64. Rows with factor 0 become zeros, because 0 * NaN is NaN."""
    return grad.reshape(len(grad), math.prod(grad.shape[1:])).double().where((factors > 0)[:, None], 0.0)


def scales_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each parameter's scale in the joint clipping, in group order: the ``"scale"`` of its group, or 1.

    Raises:
        PrivacyError: a scale is not positive and finite.
    """
    scales = [float(group.get("scale", 1.0)) for group in optimizer.param_groups for _ in group["params"]]
    if not all(0 < scale < math.inf for scale in scales):
        raise PrivacyError(f"The scales of the joint clipping must be above 0 and finite, not {sorted(set(scales))}.")
    return scales
