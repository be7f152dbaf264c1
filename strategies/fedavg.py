"""FedAvg of the LoRA matrices and the head (McMahan et al. 2017, arXiv 1602.05629; on LoRA: FedIT, arXiv 2305.05644).

    A <- sum_i w_i A_i        B <- sum_i w_i B_i        head <- sum_i w_i head_i

Travels, up and down: A and B of every layer, r (in + out) numbers each, and the head.

Not exact: A and B are averaged separately, and the product of the means is not the mean of the products. The difference
is their covariance over the hospitals, 1/2 sum_ij w_i w_j (B_i - B_j)(A_i - A_j), of rank (n - 1) r at most. It is zero
with one hospital, or if all hospitals have the same A or the same B.

Under differential privacy: both factors carry noise, so their product has a part that is quadratic in the noise. The
mean over n hospitals divides the energy of this part by n^2. See docs/strategies.md.

One hospital: its tensors come back bit for bit, since 1.0 * x = x.
"""

from __future__ import annotations

from typing import ClassVar

from fedrad.training.strategy import AveragingStrategy


class FedAvg(AveragingStrategy):
    """Every tensor becomes the weighted mean of the hospitals' tensors."""

    needs_lora: ClassVar[bool] = False
    offered: ClassVar[bool] = True
