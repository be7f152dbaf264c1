"""FedAvg of the LoRA matrices and the head (McMahan et al. 2017, arXiv 1602.05629; on LoRA: FedIT, arXiv 2305.05644).

    A <- sum_i w_i A_i        B <- sum_i w_i B_i        head <- sum_i w_i head_i

A and B are averaged separately, so the product of the means is not the mean of the products; the difference is
1/2 sum_ij w_i w_j (B_i - B_j)(A_i - A_j), which is zero with one hospital or with a frozen A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrad.federation.strategy import AdapterStrategy


class FedAvg(AdapterStrategy):
    """Every tensor becomes the weighted mean of the hospitals' tensors."""

    def aggregate(self, adapters: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
        return weighted_mean(adapters, weights)


def weighted_mean(adapters: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """sum_i w_i theta_i for each tensor, in the order given.

    One adapter with weight 1.0 comes back bit for bit, since 1.0 * x = x; written as theta_0 + sum w_i (theta_i -
    theta_0) it would not. The order of the sum is the caller's: floating-point addition is not associative.

    Guarantee: post-processing of tensors that were noised before they arrived; the weights must be public.

    Args:
        adapters: tensors by name, the same names and shapes in each.
        weights: public, non-negative, summing to 1.
    """
    mean: dict[str, Tensor] = {}
    for name in adapters[0]:
        total = adapters[0][name] * weights[0]
        for adapter, weight in zip(adapters[1:], weights[1:], strict=True):
            total = total + adapter[name] * weight
        mean[name] = total.to(torch.float32)
    return mean
