"""How much of the hospitals' noise is in the aggregated product: the theory of docs/strategies.md against draws."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fedrad.model.adapter import LoRASpec
from fedrad.training.strategy import Contribution, Round, Strategy
from strategies.factors import Product, combined, norm
from strategies.residual import lora_of, residual_of
from tests.strategies.rounds import STRATEGIES, trainable

WIDTH, RANK, HOSPITALS, NOISE, DRAWS = 768, 8, 8, 0.02, 6
LORA = LoRASpec(RANK, float(RANK), ("x",))  # alpha / rank = 1


def start() -> dict[str, Tensor]:
    """B = 0 and A with orthogonal rows and |A|^2 = rank / 3, as the orthonormal initialisation makes it."""
    random = torch.Generator().manual_seed(0)
    A = torch.linalg.qr(torch.randn(WIDTH, RANK, generator=random)).Q.T / 3**0.5
    return {"x.lora_A": A.contiguous(), "x.lora_B": torch.zeros(WIDTH, RANK), "head.bias": torch.zeros(1)}


def energy(strategy: Strategy, trained: Sequence[str]) -> float:
    """Mean squared Frobenius norm of what a round of pure noise leaves in base and LoRA."""
    state, total = start(), 0.0
    for draw in range(DRAWS):
        random = torch.Generator().manual_seed(draw)
        sent = [
            Contribution(
                {n: state[n] + NOISE * torch.randn(state[n].shape, generator=random) for n in trained},
                1 / HOSPITALS,
                RANK,
            )
            for _ in range(HOSPITALS)
        ]
        new = strategy.aggregate(state, sent, Round(1, 0, strategy.shape(LORA)))
        parts = [lora_of(new, "x"), *residual_of(new, "x")]
        total += norm(combined(parts, [1.0] * len(parts))) ** 2
    return total / DRAWS


LINEAR = WIDTH * NOISE**2 * (RANK / 3) / HOSPITALS
QUADRATIC = WIDTH * WIDTH * RANK * NOISE**4
BOTH = ("x.lora_A", "x.lora_B", "head.bias")
B_ALONE = ("x.lora_B", "head.bias")


@pytest.mark.parametrize(
    ("name", "trained", "theory", "figure"),
    [
        ("ffa", B_ALONE, LINEAR, 0.102),
        ("refactor", B_ALONE, LINEAR, 0.102),
        ("rolora", B_ALONE, LINEAR, 0.102),
        ("fedavg", BOTH, LINEAR + QUADRATIC / HOSPITALS**2, 0.114),
        ("fedex", BOTH, LINEAR + QUADRATIC / HOSPITALS, 0.197),
        ("flora", BOTH, LINEAR + QUADRATIC / HOSPITALS, 0.197),
    ],
)
def test_exact_aggregation_keeps_n_times_more_of_the_quadratic_noise(
    name: str, trained: Sequence[str], theory: float, figure: float
) -> None:
    strategy = STRATEGIES[name]
    measured = energy(strategy, trained)

    # What the strategy has the hospitals train, and so add noise to, in a first round.
    assert strategy.sent(trainable(start(), strategy.shape(LORA)), 1) == set(trained)
    assert theory == pytest.approx(figure, abs=0.0005)
    # the linear part alone has a relative standard deviation of sqrt(2 / 6144) a draw
    assert measured == pytest.approx(theory, rel=0.03)
    for other in {0.102, 0.114, 0.197} - {figure}:  # negative control: the three can be told apart
        assert measured != pytest.approx(other, rel=0.03)


def test_the_cut_to_rank_r_throws_most_of_it_away_and_keeps_the_largest_part() -> None:
    """FlexLoRA: less than it had, more than its share r of the n r directions."""
    whole, cut = energy(STRATEGIES["flora"], BOTH), energy(STRATEGIES["flexlora"], BOTH)

    assert whole / HOSPITALS < cut < whole


def test_noise_in_a_core_does_not_grow_with_the_width() -> None:
    """Fed-SB: |B N A|^2 = |N|^2 with orthonormal A and B, whatever their width."""
    random = torch.Generator().manual_seed(1)
    norms = []
    for width in (64, 768):
        A, B = (torch.linalg.qr(torch.randn(width, RANK, generator=random, dtype=torch.float64)).Q for _ in "AB")
        core = NOISE * torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        norms.append(norm(Product(B @ core, A.T)))

    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] ** 2 < 0.01 * WIDTH * NOISE**2 * RANK  # FFA's, with A of orthonormal rows
