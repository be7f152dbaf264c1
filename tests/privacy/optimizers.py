"""Optimizers over three small tensors, and gradients for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan

SHAPES = {"a": (3, 4), "b": (5,), "c": ()}
CLIP = 0.7
PLAN = PrivacyPlan.calibrate(
    epsilon=8.0, delta=1e-5, declared_size=100, expected_batch=10, steps=20, clip=CLIP, noise="seeded"
)
OPEN_PLAN = PrivacyPlan.calibrate(
    epsilon=0.0, delta=1e-5, declared_size=100, expected_batch=10, steps=20, clip=math.inf, noise="seeded"
)
Kind = type[PrivateOptimizer]


class NoNoise(PrivateOptimizer):
    def add_noise(self) -> None:
        for p in self.params:
            p.grad = torch.zeros_like(p) if p.summed_grad is None else p.summed_grad.to(p.dtype)


def make(
    kind: Kind = PrivateOptimizer, plan: PrivacyPlan = PLAN, lr: float = 1.0
) -> tuple[dict[str, nn.Parameter], PrivateOptimizer]:
    named = {name: nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
    return named, kind(torch.optim.SGD(named.items(), lr=lr), plan)


def gradients(n: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(n, *shape, generator=rng, dtype=dtype) for name, shape in SHAPES.items()}


def clipped_sum(optimizer: PrivateOptimizer, *batches: dict[str, Tensor]) -> Tensor:
    """The sum before noise, as one vector in float64."""
    for batch in batches:
        optimizer.accumulate(batch)
    total = torch.cat([p.summed_grad.double().reshape(-1) for p in optimizer.params])
    optimizer.zero_grad()
    return total
