"""The only place where noise is added: to the clipped sum of a step, or of a round if the unit is the hospital."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrad.errors import PrivacyError
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream


def add_noise(total: Tensor, plan: PrivacyPlan, stream: Stream) -> Tensor:
    """The sum plus Gaussian noise of standard deviation ``own_noise_multiplier`` x ``clip`` in every coordinate.

    Guarantee: the noise depends on the plan only, never on the sum; a plan that is not private adds none. It is added
    in float64, and the caller rounds only the noised sum.

    Args:
        total: sum of the clipped contributions, float64.
        plan: its noise multiplier, clip norm and noise mode are used.
        stream: made for this step (or round) only.

    Raises:
        PrivacyError: the stream's mode is not the plan's.
    """
    if stream.mode != plan.noise:
        raise PrivacyError(f"The plan requires {plan.noise} noise, but this stream is {stream.mode}.")
    if not plan.private:
        return total
    std = plan.own_noise_multiplier * plan.clip
    return total + std * stream.normal(total.shape, dtype=torch.float64).to(total.device)
