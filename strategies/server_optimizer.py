"""What FedAvgM and FedAdam share: FedAvg's change of the state is a gradient for an optimizer at the server.

Its moments stay at the server: they are in no message and no export. They are made of noised means, so they cost no
privacy. One hospital: the next state is another than what it sent. Iterates of different rounds are not averaged, since
their mean lies behind the state that the change is counted from.
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
    """One step of an optimizer in each round, tensor by tensor, in float64."""

    server_state: ClassVar[bool] = True
    offered: ClassVar[bool] = False
    keeps_average: bool = False

    @abstractmethod
    def step(
        self, old: Tensor, mean: Tensor, before: dict[str, Tensor], round: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next value of a tensor, and its moments by name.

        Args:
            old, mean: its present value, and FedAvg's next one.
            before: the tensor's moments after the round before; empty in the first.
            round: counted from 1.
        """

    def advance(
        self, state: Tensors, memory: Tensors, sent: Sequence[Contribution], round: Round
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        new = self.aggregate(state, sent, round)
        moments: dict[str, Tensor] = {}
        for name in sent[0].adapter:
            mean = new[name].double()
            before = {key.rpartition(".")[2]: kept for key, kept in memory.items() if key.rpartition(".")[0] == name}
            value, after = self.step(state[name].double(), mean, before, round.number)
            new[name] = value.float()
            moments |= {f"{name}.{moment}": kept for moment, kept in after.items()}
        return new, moments
