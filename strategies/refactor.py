"""Refactoring: the server rewrites the product by its SVD (FedSVD, arXiv 2505.12805; FedASK, arXiv 2507.09990).

    B <- sum_i w_i B_i        head <- sum_i w_i head_i        every strategy.every rounds, with U S V^T = B A:
    A <- S^tau V^T            B <- U S^(1 - tau)              tau 0: FedSVD, A A^T = 1; tau 1/2: FedASK's factors

Hospitals train B and the head with the A that they receive. The SVD is computed from QR(A^T) = Q R and the SVD of
B R^T, without forming the [out, in] matrix. If B A has (nearly) less than rank r, its directions are not determined,
and both factors stay.

Travels up: B, r out numbers a layer, and the head. Down: the same, and r in numbers more where A was rewritten.

Exact: A is the same for all, so the mean of the products is the product that is refactored.

Under differential privacy: the noise is linear, as in FFA. In fact, **at tau = 0 this is FFA with orthonormal A**, if
both have rows of the same length. Only B is trained, so the row space of B A remains that of A_0, and at tau = 0 the
SVD only rotates A within it. (DP-)SGD, clipping and isotropic noise are invariant under this rotation, so both give the
same products in every step (tests/strategies/test_refactor.py). There are three differences here. FFA's rows have
length 1/sqrt(3), for LoRA's usual step size, and those of V^T length 1, so a step on B moves the product up to three
times as far. Adam works by coordinates and is not invariant. Momentum must restart after a rotation. With tau > 0 the
directions are rescaled, which is another method.

One hospital: the product is preserved up to rounding, but B and A become other numbers, so no run that keeps its
factors can have the same bits. Compare with a run that refactors after the same steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from fedrad.config import Experiment
from fedrad.model.adapter import LoRASpec
from fedrad.rules import Rule
from fedrad.training.strategy import AveragingStrategy, Round, Tensors
from strategies.factors import Product, numerical_rank, svd
from strategies.residual import layers_of, lora_of

# Singular values below this fraction of the norm are mostly rounding. With tau > 0 their rows of A and columns of B
# would both be close to zero and would hardly learn again.
NEGLIGIBLE = 1e-5


class Refactor(AveragingStrategy):
    """B and the head become their weighted means; then A and B are rewritten with the same product."""

    keeps_moments: ClassVar[bool] = False
    keeps_average: bool = False

    @staticmethod
    def rules(experiment: Experiment) -> list[Rule]:
        never = experiment.strategy.every > experiment.train.rounds
        why = (
            "with strategy.name=refactor, a run of train.rounds={e.train.rounds} would never refactor; make it smaller,"
            " or take strategy.name=ffa"
        )
        return [Rule("strategy.every", "train.rounds", never, why)]

    def shape(self, lora: LoRASpec) -> LoRASpec:
        return replace(lora, freeze_a=True, init="orthonormal")

    def after_mean(self, state: Tensors, mean: Tensors, round: Round) -> dict[str, Tensor]:
        new = {**state, **mean}
        if round.number % self.settings.every == 0:
            for layer in layers_of(state):
                new[f"{layer}.lora_B"], new[f"{layer}.lora_A"] = refactored(lora_of(new, layer), self.settings.tau)
        return new


def refactored(product: Product, tau: float) -> Product:
    """The same B A as U S^(1 - tau) times S^tau V^T; unchanged if its rank is below that of the factors."""
    U, values, V = svd(product)
    if numerical_rank(values, NEGLIGIBLE) < product.A.shape[0]:
        return product
    return Product((U * values ** (1 - tau)).float(), (V * values**tau).T.float().contiguous())
