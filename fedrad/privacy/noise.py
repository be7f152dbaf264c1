"""The one place where noise is added: to the clipped sum of a step, or of a round where the unit is the hospital."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrad.errors import PrivacyError
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream


def add_noise(total: Tensor, plan: PrivacyPlan, stream: Stream) -> Tensor:
    """The sum plus Gaussian noise of standard deviation ``own_noise_multiplier`` x ``clip`` in every coordinate.

    Guarantee: the noise is the plan's own, whatever the sum is; only a plan that is not private adds none. It is added
    in float64, and the caller rounds only the noised sum.

    Args:
        total: clipped contributions, float64.
        plan: says how much noise, and of which kind.
        stream: made for this step (or round) only. Seeded, it gives consecutive sums noise in their order.

    Raises:
        PrivacyError: the stream is not of the plan's kind.
    """
    if stream.mode != plan.noise:
        raise PrivacyError(f"The plan says {plan.noise} noise, but this stream is {stream.mode}.")
    if not plan.private:
        return total
    std = plan.own_noise_multiplier * plan.clip
    return total + std * stream.normal(total.shape, dtype=torch.float64).to(total.device)
