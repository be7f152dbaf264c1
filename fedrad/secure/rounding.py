"""The effect of rounding on shared noise, and checks of public values that keep it harmless.

Each hospital rounds before the sum: its step x - h (S + N) in float32, then the result in fixed point. If a hospital is
to be protected by the noise of the others, their noise must survive their rounding:

- If x is 1000 and the step 1e-5, float32 gives 1000 whatever the noise was. So a server must not choose x freely.
- The float32 grid is finer for small numbers than for large ones, so the last bits of a sum reveal how small its
  smallest term was, which an exact sum would not. If the hospitals' sums S differ in a coordinate by at least the
  standard deviation of one hospital's noise, the rounded sum has up to a third more Fisher information about one of
  them than is accounted for, and more precision does not help. So each hospital rounds once more, to one even lattice
  of public spacing.

Guarantee:
    For one tensor, let s be the standard deviation of a hospital's noise in its result. Let M be the largest number at
    the start, plus the step of a whole batch whose gradients all point the same way. ``check_covered`` accepts only
    s >= 2^11 ulp(M) (in float32), and ``on_lattice`` rounds to the multiples of G, a power of two with s/8 < G <= s/4.
    So G > 2^8 ulp(M).
    Suppose first that the step is exact. If any random X is rounded, the probability of the lattice point k G is
    exactly G times the density of X + U there, with independent U uniform in (-G/2, G/2). So at its lattice points the
    sum of q rounded terms has the density of (sum of the noised steps) + U_1 + ... + U_q. This is post-processing of
    the sum whose noise is accounted for, so nothing is lost. (The error of this argument is aliasing between the
    spectra of two terms, of the order of exp(-pi^2 (s/G)^2) <= exp(-157) in any probability, negligible compared with
    delta.)
    The step is not exact: converting, dividing, multiplying and adding in float32 move the edges of the lattice cells
    by at most 4 ulp(M), below G/64. With edges moved by this much in the worst ways that were tried, the Fisher
    information of the sum about one hospital's S, evaluated without sampling, stays below that of the charged noise
    (tests/secure/test_rounding.py). This last part is a measurement and no proof. As everywhere in this package,
    float64 noise is treated as real-valued, which is not proved either.
    A result beyond the bound would be clamped, and a sum of clamped values is not a function of the sum. A start is at
    most bound/4, a standard deviation at most bound/256 and the step of a whole batch at most bound/64, so this takes
    noise of 64 standard deviations or a sample of 16 batches. For one entry the noise does that with probability below
    1e-800. The sample does it with probability below exp(-19 b), if b units are expected and the hospital has at most
    twice its declared size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure.fixed_point import FRACTION_BITS

# A hospital's own noise must be at least this many ulps of the largest number it is added to.
FINENESS = 2.0**11
# A hospital's own noise is at least this many lattice spacings.
_LATTICE = 4
# A start, the step of a whole batch and one standard deviation of noise are at most bound divided by these.
_START, _BATCH, _NOISE = 4, 64, 256


def largest_start(bound: float) -> float:
    """The largest absolute value of a tensor from which a masked round may start."""
    return bound / _START


def check_start(adapter: Mapping[str, Tensor], bound: float) -> None:
    """Refuses a start from which a step could leave the range of the sum. All values are public.

    Raises:
        SecureAggregationRefusal: a number is not finite or larger than ``largest_start``.
    """
    for name, tensor in adapter.items():
        if not _largest(tensor) <= largest_start(bound):  # NaN fails, too
            raise SecureAggregationRefusal(
                f"{name} starts with a number beyond {largest_start(bound):g}, the largest that secure aggregation"
                " accepts: the training has diverged (lower train.learning-rate), or the server sent something else"
            )


def check_covered(
    adapter: Mapping[str, Tensor], scales: Mapping[str, float], own_noise: float, batch: int, bound: float
) -> None:
    """Refuses shared noise that rounding could absorb, or that could reach the bound. All values are public.

    Args:
        adapter: the tensors that will be trained and summed, as the server sent them; checked by ``check_start``.
        scales: for each, learning rate x clip / divisor.
        own_noise: this hospital's noise multiplier.
        batch: the divisor.

    Raises:
        SecureAggregationRefusal: naming the first tensor and what to change.
    """
    for name, tensor in adapter.items():
        noise, whole = own_noise * scales[name], batch * scales[name]
        finest = max(float(np.spacing(np.float32(_largest(tensor) + whole))), 2.0**-FRACTION_BITS)
        if not noise >= FINENESS * finest:
            raise SecureAggregationRefusal(
                f"{name}: this hospital's noise in it ({noise:.3g}) is less than {FINENESS:g} times the float32 spacing"
                f" at the numbers it starts with ({finest:.3g}), so rounding could remove it. Raise"
                " train.learning-rate, lower train.batch, or do not share noise. (A server could send large numbers on"
                " purpose, to read another hospital's adapter.)"
            )
        if not (noise <= bound / _NOISE and whole <= bound / _BATCH):
            raise SecureAggregationRefusal(
                f"{name}: noise of {noise:.3g} and steps of {whole:.3g} could leave the range of the sum,"
                f" {bound:g}. Lower train.learning-rate"
            )


def spacing(noise: float) -> float:
    """G: the largest power of two that is at most a quarter of a hospital's own noise."""
    return 2.0 ** math.floor(math.log2(noise / _LATTICE))


def on_lattice(adapter: Mapping[str, Tensor], scales: Mapping[str, float], own_noise: float) -> dict[str, Tensor]:
    """Every tensor rounded to multiples of its ``spacing``. That adds G^2/12, at most 0.53%, to the noise variance."""
    rounded = {}
    for name, tensor in adapter.items():
        step = spacing(own_noise * scales[name])
        rounded[name] = (torch.round(tensor.double() / step) * step).to(tensor.dtype)
    return rounded


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0
