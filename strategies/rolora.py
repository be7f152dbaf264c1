"""RoLoRA: B and A take turns (Chen et al. 2025, arXiv 2502.01755); by local step: LA-LoRA (arXiv 2602.19926).

    strategy.alternate = "round":  odd rounds    B <- sum_i w_i B_i, A rests
                                   even rounds   A <- sum_i w_i A_i, B rests
    strategy.alternate = "step":   local steps train B, A, B, A ...; then both become their means, as in FedAvg

The head is trained in every step. B begins: as long as B is zero, A has no gradient.

Travels, up and down, with the head: by round, B in odd rounds and A in even ones; by step, both in every round.

By round it is exact: all hospitals have the same resting factor. By step it is not: both factors differ at the end of a
round, and FedAvg's covariance is missing. It is small as long as they do not drift far.

Under differential privacy: a step's noise goes into one factor, so it is linear in the product, and the clip norm is
spent on that factor and the head. A learns too, unlike in FFA. By step, the quadratic part is FedAvg's.

One hospital: bit for bit the centralized run with the same turns.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from fedrad.config import Experiment
from fedrad.rules import Rule
from fedrad.settings import Strategy as Settings
from fedrad.training.strategy import AveragingStrategy


class RoLoRA(AveragingStrategy):
    """The factor whose turn it is becomes its weighted mean, the head always."""

    chooses_factors: ClassVar[bool] = True
    offered: ClassVar[bool] = True

    @staticmethod
    def rules(experiment: Experiment) -> list[Rule]:
        never = experiment.strategy.alternate == "step" and experiment.local_steps == 1
        why = (
            "with strategy.name=rolora and strategy.alternate=step the only step of a round trains B, and A never"
            " learns; set it to 2 or more, or take strategy.alternate=round"
        )
        return [Rule("train.local-steps", "strategy.alternate", never, why)]

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # Both factors are in every iterate if they take turns by step. By round, the iterates of a round hold one of
        # them, and the last rounds do not hold the same number of each.
        self.keeps_average = settings.alternate == "step"

    def blocks(self, names: Collection[str], round: int) -> tuple[frozenset[str], ...]:
        b_turn = frozenset(name for name in names if not name.endswith(".lora_A"))
        a_turn = frozenset(name for name in names if not name.endswith(".lora_B"))
        if self.settings.alternate == "step":
            return b_turn, a_turn
        return (b_turn if round % 2 else a_turn,)
