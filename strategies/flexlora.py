"""FlexLoRA: the mean of the products, cut by its SVD to every hospital's rank (Bai et al. 2024, arXiv 2402.11505).

    M = sum_i w_i s_i B_i A_i = U S V^T        s_i = alpha / r_i        head <- sum_i w_i head_i
    server:                  A <- V_r^T      B <- U_r S_r / s            r = lora.rank, the largest
    hospital of rank r_i:    A <- V_ri^T     B <- U_ri S_ri / s_i

Travels, up and down: A, B and the head, r_i (in + out) numbers a layer.

Not exact, but the best of its rank (Eckart-Young): what is missing is the singular values beyond r, and their norm is
at most that of FedAvg's error, whose product has rank r too. It is exact where M has rank r or less.

Under differential privacy: M holds the quadratic part of the noise, divided by n only, as in FedEx. Cutting it to
rank r throws most of the noise's directions away, but the r that stay are the largest, and noise is part of what
makes them large.

One hospital: the product is kept to rounding, the factors are not: they become those of the SVD, so no run that keeps
its factors can have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fedrad.training.strategy import Contribution, Round, Strategy, Tensors, weighted_mean
from strategies.factors import combined, truncated
from strategies.residual import layers_of, lora_of
from strategies.resize import resized


class FlexLoRA(Strategy):
    """The best approximation of the mean of the products, at the rank of whoever gets it."""

    chooses_factors: ClassVar[bool] = True
    mixed_ranks: ClassVar[bool] = True
    keeps_moments: ClassVar[bool] = False
    keeps_average: bool = False

    def aggregate(self, state: Tensors, sent: Sequence[Contribution], round: Round) -> dict[str, Tensor]:
        heads = [{name: c.adapter[name] for name in c.adapter if ".lora_" not in name} for c in sent]
        new = {**state, **weighted_mean(heads, [c.weight for c in sent])}
        rank, alpha = round.lora.rank, round.lora.alpha
        # The present factors with weight 0 add nothing to M. They are there for rounds in which only hospitals of small
        # rank answer, so that A has its r rows in any case; B is zero for those that M does not need.
        shares = [*(c.weight * alpha / c.rank for c in sent), 0.0]
        for layer in layers_of(state):
            mean = combined([*(lora_of(c.adapter, layer) for c in sent), lora_of(state, layer)], shares)
            new[f"{layer}.lora_B"], new[f"{layer}.lora_A"] = truncated(mean, rank, alpha / rank)
        return new

    def for_rank(self, state: Tensors, rank: int, round: Round) -> dict[str, Tensor]:
        return resized(state, rank, round.lora)
