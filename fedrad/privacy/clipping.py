"""Clipping: what each unit's gradient is multiplied by, so that its contribution to the sum is bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedrad.errors import PrivacyError
from fedrad.privacy.plan import PrivacyPlan


def largest_norm(plan: PrivacyPlan) -> float:
    """What gradients are clipped to: infinity where the plan is not private."""
    return plan.clip if plan.private else math.inf


def clip_factors(grads: Sequence[Tensor], clip: Tensor | float, scales: Sequence[float] = ()) -> Tensor:
    """Factors [B], float64: min(1, clip / |s g_i|), or 0 for a g_i that is not finite.

    The norm is that of report i's gradient over all tensors together. It is taken of the very numbers that are then
    summed, in float64, so it bounds them whatever arithmetic made them.

    Args:
        grads: the tensors of a gradient, each [B, *shape].
        clip: one bound for all, or one for each report [B].
        scales: what each tensor is multiplied by within the norm; empty: 1.
    """
    rows = [g.reshape(len(g), math.prod(g.shape[1:])).double() for g in grads]
    scaled = zip(rows, scales or [1.0] * len(rows), strict=True)
    squares = torch.stack([scale**2 * row.square().sum(1) for row, scale in scaled]).sum(0)
    # The margin keeps every contribution at most clip in spite of float64's rounding. (x / 0 is infinite, so 1.)
    factors = (clip * (1 - 1e-12) / squares.sqrt()).clamp(max=1.0)
    return factors.where(squares.isfinite(), 0.0)


def finite_rows(grad: Tensor, factors: Tensor) -> Tensor:
    """One tensor's gradients as [B, numbers], float64, with zeros where the factor is 0: 0 * NaN would be NaN."""
    return grad.reshape(len(grad), math.prod(grad.shape[1:])).double().where((factors > 0)[:, None], 0.0)


def scales_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """The scale in the joint clipping of each parameter, in the order of the groups: the group's ``"scale"``, else 1.

    Raises:
        PrivacyError: a scale is not positive and finite.
    """
    scales = [float(group.get("scale", 1.0)) for group in optimizer.param_groups for _ in group["params"]]
    if not all(0 < scale < math.inf for scale in scales):
        raise PrivacyError(f"The scales of the joint clipping must be above 0 and finite, not {sorted(set(scales))}.")
    return scales
