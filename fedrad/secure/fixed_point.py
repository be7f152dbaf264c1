"""Fixed-point encoding of adapters as integers modulo 2^64, where masks can be added and removed exactly.

A float32 value x becomes round(x * 2^40). The ring has 64 bits, twice the bytes of float32, so that the sum is almost
exact: with 32 bits, a hundred hospitals and values up to 128 would leave a grid of 2^-17, coarser than the updates of a
late round.

Error: the decoded sum of n hospitals differs from the true one by at most ``error_bound(n, bound)`` =
n * (2^-41 + bound * 2^-52), which is below n * 2^-40 for every bound up to 2048. A value that is a multiple of 2^-40
(any float32 of magnitude 2^-17 or more, and 0) has no rounding error.

A value beyond the public bound is clamped to it, and NaN becomes 0. They are not refused, because then whether a
hospital answers would depend on its adapter alone, which masking is to hide; and a server that sets the bound could
query any threshold. If the hospital adds all of its noise itself, clamping is post-processing of its noised adapter.
If noise is shared (``secure.rounding``) it is not, so there the bound is far above what a step can reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.errors import SecureAggregationRefusal

FRACTION_BITS = 40
DEFAULT_BOUND = 1024.0
_SCALE = 2.0**FRACTION_BITS


def check_no_wrap(hospitals: int, bound: float) -> None:
    """Refuses a bound with which the sum of this many hospitals could overflow 64 bits.

    Raises:
        SecureAggregationRefusal: the bound is not positive, or too large.
    """
    if not (math.isfinite(bound) and bound > 0):
        raise SecureAggregationRefusal(f"bound must be positive and finite, not {bound}")
    if hospitals * (math.ceil(bound * _SCALE) + 1) >= 2**63:
        raise SecureAggregationRefusal(
            f"{hospitals} hospitals with values up to {bound:g} could wrap around in the sum: bound must be below"
            f" {2.0 ** (63 - FRACTION_BITS) / hospitals:g}"
        )


def error_bound(hospitals: int, bound: float) -> float:
    """The largest error of an entry of the decoded sum.

    Each hospital rounds once to the grid (error 2^-41), and decoding rounds the sum once, in float64.
    """
    return hospitals * (2.0 ** -(FRACTION_BITS + 1) + bound * 2.0**-52)


def flatten(adapter: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """All tensors of an adapter, sorted by name, as one vector of (entries,).

    Raises:
        SecureAggregationRefusal: a tensor is not float32.
    """
    for name, tensor in adapter.items():
        if tensor.dtype != torch.float32:
            raise SecureAggregationRefusal(f"{name} is {tensor.dtype}; secure aggregation takes float32")
    parts = [adapter[name].detach().cpu().reshape(-1).numpy() for name in sorted(adapter)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def unflatten(vector: NDArray[np.float64], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float64 tensors that ``vector`` holds, with the names and shapes of ``like``."""
    sizes = [like[name].numel() for name in sorted(like)]
    if len(vector) != sum(sizes):
        raise ValueError(f"{len(vector)} entries do not fill tensors of {sum(sizes)}")
    parts = torch.from_numpy(vector.copy()).split(sizes)
    return {name: part.reshape(like[name].shape) for name, part in zip(sorted(like), parts, strict=True)}


def encode(values: NDArray[np.float32], bound: float) -> NDArray[np.uint64]:
    """Values in fixed point, negative ones in two's complement: (entries,) -> (entries,).

    Args:
        bound: values are clamped to this magnitude.

    Guarantee: it refuses no value, so whether a hospital answers reveals nothing about them; and no result is beyond
    the bound, so a sum that passed ``check_no_wrap`` can't overflow.
    """
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=bound, neginf=-bound).clip(-bound, bound)
    return np.rint(wide * _SCALE).astype(np.int64).view(np.uint64)


def out_of_range(values: NDArray[np.float32], bound: float) -> int:
    """How many values ``encode`` will clamp or replace; private, for the hospital's own log."""
    return int(np.count_nonzero(~(np.abs(values) <= bound)))


def decode(total: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The sum that these numbers encode."""
    return total.view(np.int64).astype(np.float64) / _SCALE
