"""Samples have the distribution that the guarantees assume, from 2 to 4096 dimensions and for every concentration."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import stats

from fedrad.privacy.randomness import Stream
from fedrad.privatise.sphere import Floats, around, euclidean_laplace, laplace, mean_cosine

SAMPLES = 4000
SPACES = [(d, kappa) for d in (2, 3, 4, 17, 384, 4096) for kappa in (0.0, 1e-3, 1.0, 30.0, 1e3, 1e5)]


def axis_of(dimension: int) -> Floats:
    axis = np.random.default_rng(dimension).standard_normal(dimension)
    return axis / np.linalg.norm(axis)


def drawn(dimension: int, kappa: float, n: int = SAMPLES) -> Floats:
    axes = np.tile(axis_of(dimension), (n, 1))
    return around(axes, np.full(n, kappa), Stream.seeded(0, dimension, str(kappa)))


def exact_mean(dimension: int, kappa: float) -> mpmath.mpf:
    """A_d(kappa) by functions of any precision."""
    with mpmath.workdps(50):
        half = mpmath.mpf(dimension) / 2
        return mpmath.besseli(half, kappa) / mpmath.besseli(half - 1, kappa)


def deviation(dimension: int, claimed: float, samples: Floats) -> float:
    """Standard errors between the mean of 1 - cosine and what a concentration predicts."""
    short = np.sum((samples - axis_of(dimension)) ** 2, axis=1) / 2  # 1 - cosine, without cancellation
    error = max(short.std() / len(short) ** 0.5, 1e-15)
    expected = float(1 - exact_mean(dimension, claimed)) if claimed else 1.0
    return abs(short.mean() - expected) / error


@pytest.mark.parametrize(("dimension", "kappa"), SPACES)
def test_the_mean_cosine_of_samples_is_exact_at_every_concentration(dimension: int, kappa: float) -> None:
    samples = drawn(dimension, kappa)

    assert deviation(dimension, kappa, samples) < 4.5
    assert np.abs(np.linalg.norm(samples, axis=1) - 1).max() < 1e-12


@pytest.mark.parametrize(("dimension", "kappa"), [(3, 1.0), (384, 30.0), (4096, 1e3)])
def test_four_times_the_concentration_is_caught(dimension: int, kappa: float) -> None:
    assert deviation(dimension, kappa, drawn(dimension, 4 * kappa)) > 10


@pytest.mark.parametrize(("dimension", "kappa"), [space for space in SPACES if space[1]])
def test_the_mean_cosine_is_the_ratio_of_bessel_functions(dimension: int, kappa: float) -> None:
    assert mean_cosine(dimension, kappa) == pytest.approx(float(exact_mean(dimension, kappa)), rel=1e-9)


@pytest.mark.parametrize(("dimension", "kappa"), [(3, 0.5), (3, 40.0), (8, 20.0), (50, 200.0)])
def test_cosines_have_the_distribution_of_scipys_sampler(dimension: int, kappa: float) -> None:
    axis = axis_of(dimension)
    theirs = stats.vonmises_fisher(axis, kappa).rvs(SAMPLES, random_state=1) @ axis

    assert stats.ks_2samp(drawn(dimension, kappa) @ axis, theirs).pvalue > 1e-4
    assert stats.ks_2samp(drawn(dimension, 1.3 * kappa + 1) @ axis, theirs).pvalue < 1e-4  # control


@pytest.mark.parametrize(("dimension", "kappa"), [(3, 5.0), (384, 30.0), (4, 1e5)])
def test_samples_are_uniform_around_the_axis(dimension: int, kappa: float) -> None:
    samples, axis = drawn(dimension, kappa), axis_of(dimension)
    tangent = samples - np.outer(samples @ axis, axis)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    some = np.random.default_rng(1).standard_normal(dimension)
    some -= (some @ axis) * axis
    cosines = tangent @ some / np.linalg.norm(some)

    # The square of a coordinate of a uniform unit vector in m dimensions is Beta(1/2, (m - 1)/2).
    m = dimension - 1
    assert stats.kstest(cosines**2, stats.beta(0.5, (m - 1) / 2).cdf).pvalue > 1e-4
    assert abs((cosines > 0).mean() - 0.5) < 4.5 * 0.5 / SAMPLES**0.5


def test_euclidean_laplace_noise_has_a_gamma_length_and_a_uniform_direction() -> None:
    noise = euclidean_laplace(16, np.full(SAMPLES, 3.0), Stream.seeded(0, "noise"))

    assert stats.kstest(np.linalg.norm(noise, axis=1), stats.gamma(16, scale=1 / 3).cdf).pvalue > 1e-4
    first = noise[:, 0] / np.linalg.norm(noise, axis=1)
    assert stats.kstest(first**2, stats.beta(0.5, 7.5).cdf).pvalue > 1e-4


def test_coordinate_noise_is_laplace_of_each_rows_scale() -> None:
    noise = laplace(np.array([1.0, 5.0]), SAMPLES, Stream.seeded(0, "coordinates"))

    for row, scale in zip(noise, (1.0, 5.0), strict=True):
        assert stats.kstest(row, stats.laplace(scale=scale).cdf).pvalue > 1e-4


def test_the_curves_of_both_readings_of_kappa() -> None:
    """At d = 768 with the paper's budgets, as they can be computed from the functions."""
    budgets = (50, 200, 350, 500, 650)

    assert [round(mean_cosine(768, e), 3) for e in budgets] == [0.065, 0.245, 0.387, 0.493, 0.571]
    assert [round(mean_cosine(768, e / np.pi), 3) for e in budgets] == [0.021, 0.082, 0.142, 0.199, 0.252]
