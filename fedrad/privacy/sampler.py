"""Poisson sampling: the only way in which units (reports or patients) enter a private step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedrad.errors import PlanError
from fedrad.privacy.randomness import Stream


def poisson_sample(n: int, rate: float, stream: Stream) -> npt.NDArray[np.int64]:
    """Indices [b] int64, ascending, of the units in this step's batch; b is random and may be 0.

    Guarantee:
        Each of the n units is in the batch with probability ``rate``, independently of all other units and steps, as
        the accountant assumes (Poisson-subsampled Gaussian, add or remove one unit). The batch and its size are as
        private as the reports: they must not leave the hospital, and the divisor of the sum must not depend on them. An
        empty batch is an ordinary step and must be noised and charged.

    Args:
        n: number of units of the shard (private): reports, or patients if the plan protects patients.
        rate: the plan's ``sampling_rate`` (public), 0 .. 1.
        stream: a stream made for this step only.
    """
    if not 0.0 <= rate <= 1.0:
        raise PlanError(f"The sampling rate must be between 0 and 1, not {rate}.")
    return np.flatnonzero(stream.uniform(n) < rate).astype(np.int64)
