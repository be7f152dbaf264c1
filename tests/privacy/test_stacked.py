"""The optimizer of many hospitals: clipping, noise by its variance, divisor, streams of each. Controls beside each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrad.errors import PrivacyError
from fedrad.privacy import optimizer as module
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream

PLAN = PrivacyPlan("report", "add-or-remove-one", 40, 8, 1.0, 20.0, 3, 8.0, 1e-3, "seeded")
SILENT = replace(PLAN, epsilon=0.0, noise_multiplier=0.0)


def optimizer_of(plans: list[PrivacyPlan], numbers: int = 6) -> tuple[PrivateOptimizer, nn.Parameter]:
    weight = nn.Parameter(torch.zeros(len(plans), numbers))
    sgd = torch.optim.SGD([("w", weight)], lr=1.0)
    return PrivateOptimizer(sgd, *plans, gains=[1.0] * len(plans)), weight


def streams(count: int, step: int = 0) -> list[Stream]:
    return [Stream.seeded(0, "noise", site, step) for site in range(count)]


def contributions(clip: list[float], grads: Tensor, hospital: list[int]) -> Tensor:
    """What reaches each hospital's parameters of these gradients, noise off, clipping on."""
    plans = [replace(PLAN, clip=c) for c in clip]
    optimizer, weight = optimizer_of(plans, grads.shape[1])
    optimizer.accumulate({"w": grads}, hospital=torch.tensor(hospital))
    sums = weight.summed_grad.clone()
    assert weight.grad is None
    return sums


def test_no_report_moves_its_hospital_by_more_than_its_clip_norm() -> None:
    grads = torch.tensor([[3e30] * 6, [float("nan")] * 6, [1e-3] * 6, [float("inf")] * 6, [5.0] * 6])
    sums = contributions([0.5, 2.0], grads, [0, 0, 1, 1, 1])
    assert sums[0].norm() == pytest.approx(0.5, rel=1e-9)
    assert sums[0].norm() <= 0.5
    torch.testing.assert_close(sums[1], (grads[2] + 2.0 * grads[4] / grads[4].norm()).double(), rtol=1e-6, atol=1e-9)


def test_control_without_clipping_a_report_moves_it_by_any_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "clip_factors", lambda grads, clip, scales: torch.ones(len(grads[0]), dtype=torch.float64)
    )
    assert contributions([0.5, 0.5], torch.full((1, 6), 100.0), [0])[0].norm() > 200


def test_scaled_tensors_get_what_the_single_optimizer_gives_them() -> None:
    generator = torch.Generator().manual_seed(0)
    grads = {"head": torch.randn(5, 3, generator=generator), "lora": 4 * torch.randn(5, 7, generator=generator)}
    hospital, plan = torch.tensor([0, 1, 0, 1, 1]), replace(PLAN, clip=0.4)
    stacked = {name: nn.Parameter(torch.zeros(2, *g.shape[1:])) for name, g in grads.items()}
    together = PrivateOptimizer(scaled_groups(stacked), plan, plan)
    together.accumulate(grads, hospital=hospital)
    together.step_noisy(*streams(2))
    for site in range(2):
        alone = {name: nn.Parameter(torch.zeros(g.shape[1:])) for name, g in grads.items()}
        optimizer = PrivateOptimizer(scaled_groups(alone), plan)
        optimizer.accumulate({name: g[hospital == site] for name, g in grads.items()})
        optimizer.step_noisy(streams(2)[site])
        for name, parameter in alone.items():
            torch.testing.assert_close(stacked[name][site], parameter)


def scaled_groups(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    head, lora = ([(name, parameters[name])] for name in ("head", "lora"))
    return torch.optim.SGD([{"params": head}, {"params": lora, "scale": 0.25}], lr=1.0)


def test_noise_has_the_variance_of_each_hospital_s_plan() -> None:
    plans = [PLAN, replace(PLAN, clip=3.0), replace(PLAN, noise_multiplier=40.0), SILENT]
    optimizer, weight = optimizer_of(plans, 40_000)
    optimizer.step_noisy(*streams(4))
    measured = weight.detach().double().std(1) * PLAN.divisor
    expected = torch.tensor([20.0, 60.0, 40.0, 0.0], dtype=torch.float64)
    assert ((measured - expected).abs() <= 0.02 * expected).all()  # 5 standard errors of 40,000 numbers are 0.0177
    assert measured[3] == 0  # control: a plan that is not private shows what no noise looks like
    correlation = torch.corrcoef(weight.detach()[:3])
    assert (correlation - torch.eye(3)).abs().max() < 0.03


@pytest.mark.parametrize("units", [None, np.array([7, 8, 9])])
def test_the_divisor_is_the_plan_s_whatever_the_batch(units: NDArray[np.int64] | None) -> None:
    optimizer, weight = optimizer_of([SILENT, replace(SILENT, expected_batch=4)], 2)
    optimizer.accumulate({"w": torch.ones(3, 2)}, units, torch.tensor([0, 0, 1]))
    optimizer.step_noisy(*streams(2))
    torch.testing.assert_close(-weight.detach(), torch.tensor([[2 / 8, 2 / 8], [1 / 4, 1 / 4]]))


def test_the_same_noise_twice_and_the_wrong_stream_are_refused() -> None:
    optimizer, weight = optimizer_of([PLAN, PLAN])
    with pytest.raises(PrivacyError, match="step or hospital"):
        optimizer.step_noisy(Stream.seeded(0, "noise"), Stream.seeded(0, "noise"))
    with pytest.raises(PrivacyError, match="seeded noise"):
        optimizer.step_noisy(Stream.seeded(0, "other noise"), Stream.system())
    assert bool((weight == 0).all())  # nothing was moved by what was refused


def test_a_sum_is_used_once() -> None:
    optimizer, weight = optimizer_of([SILENT, SILENT])
    optimizer.accumulate({"w": torch.ones(1, 6)}, hospital=torch.tensor([0]))
    optimizer.step_noisy(*streams(2))
    once = weight.detach().clone()
    assert once[0].any()
    assert not once[1].any()
    optimizer.step_noisy(*streams(2, step=1))
    assert torch.equal(weight, once)


def test_gradients_of_other_tensors_or_of_nobody_are_refused() -> None:
    optimizer, _ = optimizer_of([PLAN, PLAN])
    for grads in ({}, {"v": torch.ones(1, 6)}, {"w": torch.ones(1, 5)}, {"w": torch.ones(2, 6)}):
        with pytest.raises(PrivacyError):
            optimizer.accumulate(grads, hospital=torch.tensor([0]))
    with pytest.raises(PrivacyError, match="several hospitals"):
        optimizer.accumulate({"w": torch.ones(1, 6)})
    with pytest.raises(PrivacyError, match="for each hospital"):
        optimizer.step_noisy(*streams(1))
    with pytest.raises(PrivacyError, match="layer"):
        PrivateOptimizer(torch.optim.SGD([("w", nn.Parameter(torch.zeros(3, 2)))], lr=1.0), PLAN, PLAN)
