"""FlexLoRA: the mean of the products, truncated by SVD to every hospital's rank (Bai et al. 2024, arXiv 2402.11505).

    M = sum_i w_i s_i B_i A_i = U S V^T        s_i = alpha / r_i        head <- sum_i w_i head_i
    server:                  A <- V_r^T      B <- U_r S_r / s            r = lora.rank, the largest
    hospital of rank r_i:    A <- V_ri^T     B <- U_ri S_ri / s_i

Travels, up and down: A, B and the head, r_i (in + out) numbers a layer.

Not exact, but the best approximation of its rank (Eckart-Young). The error is the singular values beyond r; its norm is
at most that of FedAvg's error, whose product has rank r, too. It is exact if M has rank r or less.

Under differential privacy: M contains the quadratic part of the noise, divided by n only, as in FedEx. Truncating to
rank r removes most directions of the noise, but the r that remain are the largest, and noise helps to make them large.

One hospital: the product is preserved up to rounding, but the factors become those of the SVD, so no run that keeps its
factors can have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedrad.training.strategy import Contribution, Round, Tensors
from strategies.factors import combined, truncated
from strategies.mixed_ranks import MixedRanks, with_mean_head
from strategies.residual import layers_of, lora_of


class FlexLoRA(MixedRanks):
    """The best approximation of the mean of the products, at each hospital's rank."""

    def aggregate(self, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
        new = with_mean_head(state, sent)
        rank, alpha = round.lora.rank, round.lora.alpha
        # The present factors have weight 0 and add nothing to M. They ensure that A has r rows even if only hospitals
        # of small rank answer; B is zero for rows that M does not need.
        scaled = [*(c.weight * alpha / c.rank for c in sent), 0.0]
        for layer in layers_of(state):
            mean = combined([*(lora_of(c.adapter, layer) for c in sent), lora_of(state, layer)], scaled)
            new[f"{layer}.lora_B"], new[f"{layer}.lora_A"] = truncated(mean, rank, alpha / rank)
        return new
