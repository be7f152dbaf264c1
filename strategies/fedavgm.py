"""FedAvgM: momentum at the server (Hsu et al. 2019, arXiv 1909.06335). `FedAdam` shares its base class.

    D = mean - theta        v <- beta v + D        theta <- theta + eta v
    beta = strategy.server-momentum        eta = strategy.server-rate (0: 1)

for A, B and the head, with FedAvg's mean. v stays at the server and is in no message and no export.

Travels, up and down: as with FedAvg. Not exact: as FedAvg.

Under differential privacy: v is a function of noised means, so it costs nothing. With beta = 0.9 a round's noise is
amplified up to ten times, like its signal: choose eta and beta together.

One hospital: with beta = 0 and eta = 1 this is FedAvg, bit for bit; otherwise the next state goes beyond what the
hospital sent. Iterates of different rounds are not averaged, because their mean lags behind the state from which the
change is computed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fedrad.training.strategy import Contribution, Round, Tensors
from strategies.fedavg import FedAvg

if TYPE_CHECKING:
    from torch import Tensor


class ServerOptimizer(FedAvg):
    """FedAvg whose change of the state is the gradient of an optimizer at the server."""

    server_state: ClassVar[bool] = True
    offered: ClassVar[bool] = False
    keeps_average: bool = False

    def advance(
        self, state: Tensors, memory: Tensors, sent: Sequence[Contribution], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        new = self.aggregate(state, sent, round)
        kept: dict[str, Tensor] = {}
        for name in sent[0].adapter:
            value, remembered = self.stepped(name, state[name].double(), new[name].double(), memory, round.number)
            new[name], kept = value.float(), kept | remembered
        return new, kept

    @abstractmethod
    def stepped(
        self, name: str, old: Tensor, mean: Tensor, memory: Tensors, round: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A tensor's next value from the present one and FedAvg's mean (float64), and what to remember of it."""


class FedAvgM(ServerOptimizer):
    """Momentum at the server."""

    def stepped(
        self, name: str, old: Tensor, mean: Tensor, memory: Tensors, round: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rate, change = self.settings.server_rate or 1.0, mean - old
        velocity = change + self.settings.server_momentum * memory[name] if name in memory else change
        # This is theta + eta v. Written from the mean on, it is exactly the mean where v is the change and eta is 1.
        return mean + (rate * velocity - change), {name: velocity}
