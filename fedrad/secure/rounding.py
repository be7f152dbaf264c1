"""What rounding does to noise that is shared, and the checks of public values that keep it harmless.

A hospital rounds before the sum: its step x - h (S + N) in float32, the result in fixed point. Where other hospitals'
noise is to protect it, that noise must survive their rounding, not only its own:

- If x is 1000 and the step 1e-5, float32 gives 1000 whatever the noise was. So a server must not choose x freely.
- However fine float32 is, its grid is finer for small numbers than for large ones. The last bits of the sum then tell
  how small the smallest of its terms was, which a sum does not tell: where the hospitals' sums S differ by a share of
  noise or more in a coordinate, up to a third more Fisher information about one of them than the accounting counts,
  and more precision does not help. So what is sent is rounded once more, to one even lattice of public spacing.

Guarantee:
    Of one tensor, let s be the deviation of a hospital's noise in its result, M the largest number at the start plus a
    whole batch's step if all of it pulls one way. ``check_covered`` accepts only s >= 2^11 ulp(M) (float32's), and
    ``on_lattice`` rounds to the multiples of G, a power of two with s/8 < G <= s/4. So G > 2^8 ulp(M).
    Were the step exact: the probability of the lattice point k G under rounding of any random X is exactly G times the
    density of X + U there, with U uniform in (-G/2, G/2) and independent. So the sum of q rounded shares has at its
    lattice points the density of (sum of the noised steps) + U_1 + ... + U_q: post-processing of the sum whose noise is
    accounted for, and nothing is lost. (Up to aliasing: the terms in which two shares' spectra meet in different
    periods, of the order of exp(-pi^2 (s/G)^2) <= exp(-157) in any probability; beside delta, nothing.)
    The step is not exact: converting, dividing, multiplying and adding in float32 move the edges of the lattice's cells
    by at most 4 ulp(M), below G/64. With edges moved so far in the worst ways that were tried, the Fisher information
    of the sum about one hospital's S, evaluated without sampling, stays below that of the noise that is charged
    (tests/secure/test_rounding.py). This last part is a measurement and no proof; so is that noise from float64 is
    taken for real-valued, as everywhere in this package.
    A result beyond the bound would be clamped, and a sum of clamped values is no function of the sum. That takes noise
    of 64 deviations or a sample of 16 batches, since a start is at most bound/4, a deviation at most bound/256 and a
    batch's whole step at most bound/64. In one entry the noise does that with a probability below 1e-800; a sample,
    where a batch of b units is expected and the hospital has at most twice its declared size, with one below
    exp(-19 b).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure.fixed_point import FRACTION_BITS

# A share of noise in float32's steps at the largest number near it.
FINENESS = 2.0**11
# A share of noise in steps of the lattice, at least.
_LATTICE = 4
# Parts of the bound that a start, a whole batch's step and one deviation of noise may take.
_START, _BATCH, _NOISE = 4, 64, 256


def largest_start(bound: float) -> float:
    """The largest absolute value of a tensor from which a masked round may start."""
    return bound / _START


def check_start(adapter: Mapping[str, Tensor], bound: float) -> None:
    """Refuses to start from numbers that a step could carry out of the range of the sum. All of it is public.

    Raises:
        SecureAggregationRefusal: a number is not finite or larger than ``largest_start``.
    """
    for name, tensor in adapter.items():
        if not _largest(tensor) <= largest_start(bound):  # not a number fails, too
            raise SecureAggregationRefusal(
                f"{name} starts with a number beyond {largest_start(bound):g}, the most from which secure aggregation"
                " trains: the training has diverged (lower train.learning-rate), or the server sent something else"
            )


def check_covered(
    adapter: Mapping[str, Tensor], scales: Mapping[str, float], own_noise: float, batch: int, bound: float
) -> None:
    """Refuses to share noise that rounding could swallow, or that could reach the bound. All of it is public.

    Args:
        adapter: the tensors that will be trained and summed, as the server sent them; checked by ``check_start``.
        scales: for each, learning rate x clip / divisor.
        own_noise: this hospital's noise multiplier.
        batch: the divisor.

    Raises:
        SecureAggregationRefusal: naming the first tensor and what to change.
    """
    for name, tensor in adapter.items():
        share, whole = own_noise * scales[name], batch * scales[name]
        finest = max(float(np.spacing(np.float32(_largest(tensor) + whole))), 2.0**-FRACTION_BITS)
        if not share >= FINENESS * finest:
            raise SecureAggregationRefusal(
                f"{name}: the share of noise in it ({share:.3g}) is less than {FINENESS:g} times what rounding leaves"
                f" out of numbers as large as those it starts with ({finest:.3g}), so it could be lost. Raise"
                " train.learning-rate, lower train.batch, or do not share noise; a server that sent large numbers on"
                " purpose would have read another hospital's adapter"
            )
        if not (share <= bound / _NOISE and whole <= bound / _BATCH):
            raise SecureAggregationRefusal(
                f"{name}: noise of {share:.3g} and steps of {whole:.3g} could leave the range of the sum,"
                f" {bound:g}. Lower train.learning-rate"
            )


def spacing(share: float) -> float:
    """G: the largest power of two that is at most a quarter of a share of noise."""
    return 2.0 ** math.floor(math.log2(share / _LATTICE))


def on_lattice(adapter: Mapping[str, Tensor], scales: Mapping[str, float], own_noise: float) -> dict[str, Tensor]:
    """Every tensor rounded to multiples of its ``spacing``; it costs G^2/12, at most 0.53% of the noise's variance."""
    rounded = {}
    for name, tensor in adapter.items():
        step = spacing(own_noise * scales[name])
        rounded[name] = (torch.round(tensor.double() / step) * step).to(tensor.dtype)
    return rounded


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0
