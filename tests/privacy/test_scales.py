"""Parameter groups with a scale in the joint clipping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedrad.errors import PrivacyError
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream
from tests.privacy.optimizers import CLIP, OPEN_PLAN, PLAN


def scaled(scale: float, plan: PrivacyPlan) -> tuple[dict[str, nn.Parameter], PrivateOptimizer]:
    """Tensor "c" has a group of its own, with this scale in the joint clipping."""
    named = {name: nn.Parameter(torch.zeros(shape)) for name, shape in (("a", (3, 4)), ("c", (2000,)))}
    groups = [{"params": [("a", named["a"])]}, {"params": [("c", named["c"])], "scale": scale}]
    return named, PrivateOptimizer(torch.optim.SGD(groups, lr=1.0), plan)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 20.0])
def test_the_scaled_gradient_is_what_is_clipped(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for size in (1e-4, 1.0, 1e20):
        _, optimizer = scaled(scale, PLAN)
        grads = {"a": size * torch.randn(1, 3, 4, generator=generator)}
        grads["c"] = size * torch.randn(1, 2000, generator=generator)
        optimizer.accumulate(grads)
        whole = torch.cat([p.summed_grad.flatten() for p in optimizer.params])
        expected = torch.cat([grads["a"].double().flatten(), scale * grads["c"].double().flatten()])
        assert whole.norm() <= CLIP
        torch.testing.assert_close(whole, expected * min(1.0, CLIP / float(expected.norm())), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_the_noise_of_a_scaled_group_is_divided_by_its_scale(scale: float) -> None:
    """Noise is added to the scaled sum; dividing it afterwards is post-processing."""
    named, optimizer = scaled(scale, PLAN)
    draws = []
    for step in range(20):
        before = named["c"].detach().clone()
        optimizer.step_noisy(Stream.seeded(0, "noise", step))
        draws.append(named["c"].detach() - before)
    measured = float(torch.stack(draws).double().std()) * PLAN.divisor
    assert measured == pytest.approx(PLAN.noise_multiplier * CLIP / scale, rel=0.03)  # 40,000 numbers: 8 errors


def test_without_noise_a_scale_changes_no_gradient() -> None:
    named, optimizer = scaled(0.3, OPEN_PLAN)
    grads = {"a": torch.ones(2, 3, 4), "c": torch.full((2, 2000), 7.0)}
    optimizer.accumulate(grads)
    optimizer.step_noisy(Stream.seeded(0, "noise"))
    for name, parameter in named.items():
        torch.testing.assert_close(-parameter.detach() * OPEN_PLAN.divisor, grads[name].sum(0))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_scales_nothing_is_refused(scale: float) -> None:
    with pytest.raises(PrivacyError, match="scales of the joint clipping"):
        scaled(scale, PLAN)
