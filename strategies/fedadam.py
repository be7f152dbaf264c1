"""FedAdam: Adam at the server (Reddi et al. 2021, arXiv 2003.00295).

    D = mean - theta        m <- beta1 m + (1 - beta1) D        u <- beta2 u + (1 - beta2) D^2
    theta <- theta + eta m' / (sqrt(u') + tau)        m' = m / (1 - beta1^t), u' = u / (1 - beta2^t) in round t
    beta1 = strategy.server-momentum        eta = strategy.server-rate (0: 0.01)        beta2 = 0.99, tau = 0.001

for A, B and the head, with FedAvg's mean; all but the division by 1 - beta^t, which is Adam's, is the paper's. m and u
stay at the server (``server_optimizer``).

Travels, up and down: as with FedAvg. Not exact: as FedAvg.

Under differential privacy: every number moves by about eta however small its change was: where changes are mostly
noise, so are the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.server_optimizer import ServerOptimizer

if TYPE_CHECKING:
    from torch import Tensor

BETA2, TAU = 0.99, 1e-3


class FedAdam(ServerOptimizer):
    """Adam at the server."""

    def step(
        self, old: Tensor, mean: Tensor, before: dict[str, Tensor], round: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rate, beta1 = self.settings.server_rate or 0.01, self.settings.server_momentum
        change = mean - old
        m, u = (1 - beta1) * change, (1 - BETA2) * change**2
        if before:
            m, u = beta1 * before["m"] + m, BETA2 * before["u"] + u
        step = m / (1 - beta1**round) / ((u / (1 - BETA2**round)).sqrt() + TAU)
        return old + rate * step, {"m": m, "u": u}
