"""Random directions on the unit sphere, and noise of the exponential kind in d dimensions.

The density of the von Mises-Fisher distribution around a unit vector u is ``C_d(kappa) exp(kappa u.y)`` on the sphere
in d dimensions. ``around`` samples it by Wood (1994), after Ulrich (1984), for many axes at once. It computes with
``1 - t``, where t is the cosine to the axis, so that nothing cancels when t is nearly 1.

All samples are float64. Which of the floating-point numbers near a sample can occur may depend on the axis, an effect
that the guarantees of ``mechanisms`` ignore, as those of most mechanisms in floating point do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv, gammaincinv, ive

from fedrad.privacy.randomness import Stream

Floats = npt.NDArray[np.float64]


def mean_cosine(dimension: int, kappa: float) -> float:
    """``A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa)``: the expected cosine of a sample to its axis.

    Relative error below 1e-9 for d from 2 to 4096 and kappa from 0 to 1e5.
    """
    if kappa == 0:
        return 0.0
    above, below = ive(dimension / 2, kappa), ive(dimension / 2 - 1, kappa)
    if above > 1e-200:
        return float(above / below)
    # The functions underflow, so kappa is far below d, where the continued fraction I_{v+1}/I_v = 1 / (2(v+1)/kappa +
    # I_{v+2}/I_{v+1}) converges within a few terms.
    ratio = 0.0
    for term in reversed(range(500)):
        ratio = 1 / ((dimension + 2 * term) / kappa + ratio)
    return ratio


def around(axes: Floats, kappa: Floats, stream: Stream) -> Floats:
    """One von Mises-Fisher sample around each axis.

    Args:
        axes: unit vectors, [n, d], d at least 2.
        kappa: concentrations, [n], finite and at least 0; 0 is uniform on the sphere.
    Returns:
        Unit vectors, [n, d].
    """
    short = _short_of_one(axes.shape[1], kappa, stream)  # 1 - t
    tangent = _normal(axes.shape, stream)
    for _ in range(2):  # in few dimensions, one projection may cancel so much that it leaves a part along the axis
        tangent -= np.sum(tangent * axes, axis=1, keepdims=True) * axes
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return (1 - short)[:, None] * axes + np.sqrt(short * (2 - short))[:, None] * tangent


def directions(n: int, dimension: int, stream: Stream) -> Floats:
    """Uniform unit vectors, [n, d]."""
    found = _normal((n, dimension), stream)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def euclidean_laplace(dimension: int, epsilon: Floats, stream: Stream) -> Floats:
    """Noise z with density proportional to ``exp(-epsilon ||z||)``, one for each epsilon: [n, d].

    The direction is uniform and the length Gamma(d, 1/epsilon) (Feyisetan et al. 2020, section 3.3).
    """
    length = gammaincinv(dimension, stream.uniform(len(epsilon))) / epsilon
    return length[:, None] * directions(len(epsilon), dimension, stream)


def laplace(scale: Floats, width: int, stream: Stream) -> Floats:
    """Independent Laplace noise: a row of ``width`` values for each scale, [n, width]."""
    uniform = stream.uniform(len(scale) * width).reshape(len(scale), width) - 0.5  # in [-1/2, 1/2)
    # At -1/2 the logarithm is infinite; the next number inwards has the same probability.
    return -scale[:, None] * np.sign(uniform) * np.log1p(-2 * np.minimum(np.abs(uniform), 0.5 - 2.0**-54))


def _normal(shape: tuple[int, ...], stream: Stream) -> Floats:
    values: Floats = stream.normal(shape, torch.float64).numpy()
    return values


def _short_of_one(dimension: int, kappa: Floats, stream: Stream) -> Floats:
    """``1 - t`` for cosines t with density proportional to ``exp(kappa t) (1 - t^2)^((d-3)/2)``, [n]: Wood's rejection.

    Wood's proposal is t = (1 - (1+b) Z) / (1 - (1-b) Z) with Z ~ Beta(m/2, m/2) and m = d - 1.
    """
    m = dimension - 1
    b = m / (2 * kappa + np.sqrt(4 * kappa**2 + m**2))
    x = (1 - b) / (1 + b)
    found = np.empty(len(kappa))
    waiting = np.arange(len(kappa))
    while len(waiting):
        bw, xw, kw = b[waiting], x[waiting], kappa[waiting]
        uniform = stream.uniform(len(waiting))
        small = betaincinv(m / 2, m / 2, np.minimum(uniform, 1 - uniform))  # the distribution is symmetric about 1/2
        z, rest = np.where(uniform < 0.5, small, 1 - small), np.where(uniform < 0.5, 1 - small, small)
        short = 2 * bw * z / (rest + bw * z)
        # kappa t + m ln(1 - x t) - kappa x - m ln(1 - x^2), with 1 - x = 2b/(1+b) and 1 - x^2 = 4b/(1+b)^2
        gap = 2 * bw / (1 + bw)
        log_ratio = kw * (gap - short) + m * np.log((gap + xw * short) / (2 * gap / (1 + bw)))
        accepted = log_ratio >= np.log1p(-stream.uniform(len(waiting)))
        found[waiting[accepted]] = short[accepted]
        waiting = waiting[~accepted]
    return np.minimum(found, 2.0)
