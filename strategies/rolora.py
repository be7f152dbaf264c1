"""RoLoRA: alternating optimisation of B and A (Chen et al. 2025, arXiv 2502.01755), each for a round or a local step.

    strategy.alternate = "round":  odd rounds    B <- sum_i w_i B_i, A is frozen
                                   even rounds   A <- sum_i w_i A_i, B is frozen
    strategy.alternate = "step":   local steps train B, A, B, A ...; then both become their means, as in FedAvg
                                   (LA-LoRA, arXiv 2602.19926)

The head is trained in every step. B is trained first, because A has no gradient while B is zero.

Travels, up and down, with the head: by round, B in odd rounds and A in even ones; by step, both in every round.

By round it is exact, because the frozen factor is the same at all hospitals. By step it is not: both factors differ at
the end of a round, and FedAvg's covariance is missing. The error is small as long as the factors do not drift far.

Under differential privacy: a step's noise goes into one factor, so it is linear in the product, and the clip norm is
used for that factor and the head alone. A is trained, too, unlike in FFA. By step, the quadratic part is FedAvg's.

One hospital: bit for bit the centralized run with the same alternation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from fedrad.config import Experiment
from fedrad.rules import Rule
from fedrad.settings import Strategy as Settings
from fedrad.training.strategy import AveragingStrategy


class RoLoRA(AveragingStrategy):
    """The factor that a round trains and the head become their weighted means."""

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
        # By step, every iterate updates both factors. By round, a round's iterates update one factor only, and the last
        # rounds would not average both factors over equally many iterates.
        self.keeps_average = settings.alternate == "step"

    def blocks(self, names: Collection[str], round: int) -> tuple[frozenset[str], ...]:
        b_turn = frozenset(name for name in names if not name.endswith(".lora_A"))
        a_turn = frozenset(name for name in names if not name.endswith(".lora_B"))
        if self.settings.alternate == "step":
            return b_turn, a_turn
        return (b_turn if round % 2 else a_turn,)
