"""Shared noise: the arithmetic against golden figures, and every case in which it would be unsound."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from fedrad.errors import PlanError
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.noise_share import SharedNoiseTerms, central_noise_multiplier, own_noise_multiplier

RATE, STEPS, DELTA = 0.02, 1000, 1e-5
SOUND: dict[str, Any] = {
    "quorum": 4,
    "colluders": 0,
    "secure_aggregation": True,
    "local_steps": 1,
    "optimizer": "momentum",
    "momentum": 0.0,
    "average": 0.0,
    "step_scales": (0.01,) * 4,
}


def terms(**changes: Any) -> SharedNoiseTerms:
    return SharedNoiseTerms(**{**SOUND, **changes})


def spent(sigma: float) -> float:
    return epsilon([(RATE, sigma, STEPS)], DELTA)


@pytest.mark.parametrize(("missing", "expected"), [(0, 1.7946), (1, 2.2149), (2, 3.0895), (3, 6.4188)])
def test_missing_shares_cost_what_they_should(missing: int, expected: float) -> None:
    """Four hospitals that share a noise multiplier of 1.6, none of them held back for those that are missing."""
    own = own_noise_multiplier(1.6, terms())

    assert own == pytest.approx(0.8)
    assert spent(central_noise_multiplier(own, 4 - missing)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("quorum", "colluders"), [(3, 0), (4, 0), (4, 1), (5, 2), (9, 3)])
def test_the_worst_sum_still_has_the_noise_that_is_charged(quorum: int, colluders: int) -> None:
    shared = terms(quorum=quorum, colluders=colluders, step_scales=(0.01,) * 9)
    own = own_noise_multiplier(1.6, shared)

    assert spent(central_noise_multiplier(own, quorum - colluders)) <= spent(1.6) + 1e-9
    # Control: one certain share fewer, and the charge is too low.
    assert spent(central_noise_multiplier(own, quorum - colluders - 1)) > 1.05 * spent(1.6)


def test_the_sum_of_the_shares_has_the_central_deviation() -> None:
    own, rng = own_noise_multiplier(1.6, terms()), np.random.default_rng(0)
    total = rng.normal(0, own, (4, 200_000)).sum(axis=0)

    assert total.std() == pytest.approx(1.6, rel=0.01)


def test_colluders_cost_noise() -> None:
    assert own_noise_multiplier(1.0, terms(colluders=2)) == pytest.approx(1 / math.sqrt(2))
    assert central_noise_multiplier(0.5, 0) == 0.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"secure_aggregation": False}, "without secure aggregation the server sees each adapter"),
        ({"local_steps": 2}, "2 local steps"),
        ({"local_steps": 0}, "local-steps must be 1"),
        ({"optimizer": "adam"}, "adam divides"),
        ({"optimizer": "other"}, "must be 0"),
        ({"momentum": 0.9}, "momentum and averaging"),
        ({"average": 0.5}, "momentum and averaging"),
        ({"quorum": 1}, "fewer than two hospitals"),
        ({"quorum": 0}, "fewer than two hospitals"),
        ({"colluders": 3}, "fewer than two hospitals"),
        ({"colluders": -1}, "fewer than two hospitals"),
        ({"quorum": 5}, "step scales of 4 hospitals for a quorum of 5"),
        ({"step_scales": (0.01, 0.01, 0.01, 0.02)}, "the same for all hospitals"),
        ({"step_scales": (0.0,) * 4}, "must be positive"),
        ({"step_scales": (math.nan,) * 4}, "must be positive"),
    ],
)
def test_whatever_would_be_unsound_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError, match=f"Noise can't be shared: .*{why}"):
        terms(**change)


def test_unequal_steps_would_leave_one_hospital_with_too_little() -> None:
    """Why step scales must be equal: a hospital whose step is twice as large moves the sum twice as far."""
    own = own_noise_multiplier(1.6, terms())
    scales = np.array([2.0, 1.0, 1.0, 1.0])
    effective = own * math.sqrt((scales**2).sum()) / scales[0]

    assert spent(effective) > spent(1.6)


def test_adam_breaks_the_sum() -> None:
    """Why adam is refused: noise that cancels in the sum of gradients stays in the sum of Adam's first steps."""
    gradients = np.array([[3.0, -1.0], [1.0, 1.0]])  # two hospitals, two draws of their noise with the same sums...
    others = np.array([[2.0, -0.5], [2.0, 0.5]])

    assert np.array_equal(gradients.sum(axis=0), others.sum(axis=0))
    assert not np.array_equal(first_adam_steps(gradients), first_adam_steps(others))


def first_adam_steps(gradients: np.ndarray) -> np.ndarray:
    return (gradients / (np.abs(gradients) + 1.0)).sum(axis=0)


def test_the_statement_says_on_what_it_rests() -> None:
    said = terms(colluders=1).statement

    assert "shared by 3 hospitals under secure aggregation" in said
    assert "sums of 4 hospitals" in said
    assert "with 1 hospitals on its side" in said
    assert "step_scales" in asdict(terms())
