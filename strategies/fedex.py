"""FedEx-LoRA: the error of averaged factors goes into the base (Singhal et al. 2024, arXiv 2410.09432).

    A <- mean A = sum_i w_i A_i        B <- mean B = sum_i w_i B_i        head <- sum_i w_i head_i
    W0 <- W0 + s (sum_i w_i B_i A_i - mean B mean A)                      s = alpha / r

The residual is stored as factors of rank (n - 1) r: [w_i (B_i - mean B)] times [A_i - A_n], i < n. The term of the last
hospital vanishes because the w_i (B_i - mean B) sum to zero, so that A_n may be subtracted from every A_i.

Travels up: A, B and the head. Down: the same, and the residual of the round, (n - 1) r (in + out) numbers a layer at
most; residuals of many rounds are recompressed (``strategies.residual``).

Exact: base and LoRA together are the mean of the products, up to float32 rounding.

Under differential privacy: exactness keeps noise. Averaging the factors divides the energy of the quadratic part of the
noise by n^2; here it is divided by n only, and it stays in the frozen weights. So FedAvg's error partly filters noise.

One hospital: no residual is made, because it would be zero, so A, B and head are returned bit for bit, as with FedAvg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, cat

from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import Contribution, Round, Strategy, Tensors, weighted_mean
from strategies.factors import Product
from strategies.residual import as_plain_lora, layers_of, lora_of, with_residual


class FedEx(Strategy):
    """Weighted means, with their error as a residual of the base."""

    chooses_factors: ClassVar[bool] = True
    keeps_average: bool = False

    def aggregate(self, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
        weights = [c.weight for c in sent]
        new = {**state, **weighted_mean([c.adapter for c in sent], weights)}
        if len(sent) == 1:
            return new
        scaling = round.lora.alpha / round.lora.rank
        for layer in layers_of(state):
            error = missing([lora_of(c.adapter, layer) for c in sent], weights)
            new = with_residual(new, layer, Product(scaling * error.B, error.A), round.number)
        return new

    def export(self, state: Tensors, lora: LoRASpec) -> tuple[dict[str, Tensor], LoRASpec]:
        """The residual folded into LoRA of higher rank."""
        return as_plain_lora(state, lora)


def missing(products: Sequence[Product], weights: Sequence[float]) -> Product:
    """sum_i w_i B_i A_i - (sum_i w_i B_i)(sum_i w_i A_i) for n >= 2 hospitals, of rank (n - 1) r, in float64."""
    last = products[-1].A.double()
    mean = sum(p.B.double() * weight for p, weight in zip(products, weights, strict=True))
    others = list(zip(products, weights, strict=True))[:-1]
    return Product(
        cat([weight * (p.B.double() - mean) for p, weight in others], dim=1),
        cat([p.A.double() - last for p, _ in others]),
    )
