"""FedAdam: Adam at the server (Reddi et al. 2021, arXiv 2003.00295).

    D = mean - theta        m <- beta1 m + (1 - beta1) D        u <- beta2 u + (1 - beta2) D^2
    theta <- theta + eta m' / (sqrt(u') + tau)        m' = m / (1 - beta1^t), u' = u / (1 - beta2^t) in round t
    beta1 = strategy.server-momentum        eta = strategy.server-rate (0: 0.01)        beta2 = 0.99, tau = 0.001

for A, B and the head, with FedAvg's mean. The division by 1 - beta^t is Adam's; everything else is the paper's.

Travels, memory, exactness, and one hospital: as with FedAvgM, except that no choice of eta and beta1 gives FedAvg.

Under differential privacy: m and u are functions of noised means, so they cost nothing. But every number moves by about
eta, however small its change was: if the changes are mostly noise, so are the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrad.training.strategy import Tensors
from strategies.fedavgm import ServerOptimizer

if TYPE_CHECKING:
    from torch import Tensor

BETA2, TAU = 0.99, 1e-3


class FedAdam(ServerOptimizer):
    """Adam at the server."""

    def stepped(
        self, name: str, old: Tensor, mean: Tensor, memory: Tensors, round: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rate, beta1, change = self.settings.server_rate or 0.01, self.settings.server_momentum, mean - old
        m, u = (1 - beta1) * change, (1 - BETA2) * change**2
        if memory:
            m, u = beta1 * memory[f"{name}.m"] + m, BETA2 * memory[f"{name}.u"] + u
        step = m / (1 - beta1**round) / ((u / (1 - BETA2**round)).sqrt() + TAU)
        return old + rate * step, {f"{name}.m": m, f"{name}.u": u}
