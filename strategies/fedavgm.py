"""FedAvgM: the server goes on in the direction of the rounds before (Hsu et al. 2019, arXiv 1909.06335).

    D = mean - theta        v <- beta v + D        theta <- theta + eta v
    beta = strategy.server-momentum        eta = strategy.server-rate (0: 1)

for A, B and the head, with FedAvg's mean. v stays at the server (``server_optimizer``).

Travels, up and down: as with FedAvg. Not exact: as FedAvg.

Under differential privacy: with beta = 0.9 a round's noise is added up to ten times, as its signal is: choose eta and
beta together.

beta = 0 and eta = 1 is FedAvg, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.server_optimizer import ServerOptimizer

if TYPE_CHECKING:
    from torch import Tensor


class FedAvgM(ServerOptimizer):
    """Momentum at the server."""

    def step(
        self, old: Tensor, mean: Tensor, before: dict[str, Tensor], round: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rate, momentum = self.settings.server_rate or 1.0, self.settings.server_momentum
        change = mean - old
        velocity = change + momentum * before["v"] if before else change
        # theta + eta v, from the mean on: exactly the mean where v is the change and eta is 1.
        return mean + (rate * velocity - change), {"v": velocity}
