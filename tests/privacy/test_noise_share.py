"""Shared noise: the arithmetic against golden figures, and every case in which it would be unsound."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrad.errors import PlanError
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.noise_share import SharedNoiseTerms, own_noise_multiplier
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream
from fedrad.training.recipe import Recipe, torch_optimizer

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
    assert spent(own * math.sqrt(4 - missing)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("quorum", "colluders"), [(3, 0), (4, 0), (4, 1), (5, 2), (9, 3)])
def test_the_worst_sum_still_has_the_noise_that_is_charged(quorum: int, colluders: int) -> None:
    shared = terms(quorum=quorum, colluders=colluders, step_scales=(0.01,) * 9)
    own = own_noise_multiplier(1.6, shared)

    assert spent(own * math.sqrt(quorum - colluders)) <= spent(1.6) + 1e-9
    # Control: with one noise term fewer, the charge is too low.
    assert spent(own * math.sqrt(quorum - colluders - 1)) > 1.05 * spent(1.6)


@pytest.mark.parametrize(("quorum", "colluders"), [(4, 0), (5, 2)])
def test_the_steps_of_the_certain_hospitals_have_the_central_deviation_together(quorum: int, colluders: int) -> None:
    """As hospitals really step, here without any gradient: as many as are certain, and one fewer as a control."""
    shared = terms(quorum=quorum, colluders=colluders, step_scales=(0.01,) * quorum)
    plan = PrivacyPlan("report", "add-or-remove-one", 400, 8, 0.5, 1.6, 1, 8.0, 1e-5, "system", shared=shared)
    sent = [noise_of_a_step(plan) for _ in range(quorum - colluders)]

    assert float(torch.stack(sent).sum(0).std()) == pytest.approx(1.6 * 0.5 / 8, rel=0.01)
    assert float(torch.stack(sent[1:]).sum(0).std()) < 0.95 * 1.6 * 0.5 / 8


def noise_of_a_step(plan: PrivacyPlan) -> Tensor:
    """How far one hospital's step without a report moves its parameters."""
    weight = nn.Parameter(torch.zeros(100_000))
    PrivateOptimizer(torch.optim.SGD([("w", weight)], lr=1.0), plan).step_noisy(Stream.system())
    return weight.detach().double()


def test_colluders_cost_noise() -> None:
    assert own_noise_multiplier(1.0, terms(colluders=2)) == pytest.approx(1 / math.sqrt(2))


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


@pytest.mark.parametrize(("optimizer", "keeps_the_sum"), [("momentum", True), ("adam", False)])
def test_adam_breaks_the_sum(optimizer: Literal["momentum", "adam"], keeps_the_sum: bool) -> None:
    """Why adam is refused: noise that cancels in the sum of gradients stays in the sum of Adam's steps."""
    draws = ([[3.0, -1.0], [1.0, 1.0]], [[2.0, -0.5], [2.0, 0.5]])  # of two hospitals; both have the same sums
    moved = [sum(second_step(optimizer, torch.tensor(own)) for own in draw) for draw in draws]

    assert torch.allclose(*moved, atol=1e-6) == keeps_the_sum


def second_step(optimizer: Literal["momentum", "adam"], noised: Tensor) -> Tensor:
    """Where fedrad's optimizer for hospitals is after a step by all ones, and one by this. (Adam's first is a sign.)"""
    recipe = Recipe(optimizer, 0.25, 0.0, 0.0, "leaf", 0, 2)
    weight = nn.Parameter(torch.zeros(2))
    steps = torch_optimizer({"head.weight": weight}, recipe, 0.25)
    for gradient in (torch.ones(2), noised):
        weight.grad = gradient
        steps.step()
    return weight.detach()


def test_the_statement_says_on_what_it_rests() -> None:
    said = terms(colluders=1).statement

    assert "shared by 3 hospitals under secure aggregation" in said
    assert "sums of 4 hospitals" in said
    assert "with 1 hospitals on its side" in said
    assert "step_scales" in asdict(terms())
