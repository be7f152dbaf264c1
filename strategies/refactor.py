"""Refactoring: the server rewrites the product by its SVD (FedSVD, arXiv 2505.12805; FedASK, arXiv 2507.09990).

    B <- sum_i w_i B_i        head <- sum_i w_i head_i        every strategy.every rounds, with U S V^T = B A:
    A <- S^tau V^T            B <- U S^(1 - tau)              tau 0: FedSVD, A A^T = 1; tau 1/2: FedASK's factors

Hospitals train B and the head on the A that they are sent. The SVD is QR(A^T) = Q R and the SVD of B R^T: nothing of
[out, in] is formed. If B A has (nearly) less than rank r there is nothing to choose directions by: both factors stay.

Travels up: B, r out numbers a layer, and the head. Down: the same, and r in numbers more where A was rewritten.

Exact: A is the same for all, so the mean of the products is the product that is refactored.

Under differential privacy: the noise is linear, as in FFA. And so is all else: since only B is trained, the row space
of B A is that of A_0 for ever, and at tau = 0 the SVD turns A within it. (DP-)SGD, clipping and isotropic noise do
not see such a turn, so **at tau = 0 this is FFA with orthonormal A**, once both have rows of one length: step by step
the same products (tests/strategies/test_refactor.py). FFA's rows here have length 1/sqrt(3), for LoRA's usual step
size; those of V^T have length 1, so a step on B moves the product up to three times as far. Adam sees the turn, for
it goes by coordinates; momentum must start anew after it; and tau > 0 rescales the directions: another method.

One hospital: the product is kept to rounding, the factors are not: U S V^T are other numbers than B and A, so no run
that leaves its factors alone can have the same bits afterwards. Compare with one that refactors at the same steps.
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

# Singular values below this share of the norm are rounding, or nearly: with tau > 0 their rows of A and columns of B
# would both be close to zero, and would hardly learn again.
NEGLIGIBLE = 1e-5


class Refactor(AveragingStrategy):
    """B and the head become their weighted means; then A and B are rewritten, the product stays."""

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
    """The same B A as U S^(1 - tau) times S^tau V^T, or as it was if its rank is less than that of the factors."""
    U, values, V = svd(product)
    if numerical_rank(values, NEGLIGIBLE) < product.A.shape[0]:
        return product
    return Product((U * values ** (1 - tau)).float(), (V * values**tau).T.float().contiguous())
