"""FedAvg on LoRA matrices: the weighted mean, bit-exact with one hospital, and off by a covariance with several."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedrad.training.strategy import Contribution, weighted_mean
from tests.strategies.rounds import NAMES, STRATEGIES, Case, bits, cases, close, contributions, first_state, matrix

FEDAVG = STRATEGIES["fedavg"]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_one_hospital_comes_back_bit_for_bit_whatever_the_numbers(patterns: list[int]) -> None:
    special = [0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x7F7FFFFF, 0xFF7FFFFF]  # -0.0, denormals, largest
    values = np.array(special + patterns, dtype=np.uint32).view(np.float32)
    tensor = torch.from_numpy(values[np.isfinite(values)].copy())
    assert bits(weighted_mean([{"x": tensor}], [1.0])["x"]) == bits(tensor)


def test_the_difference_form_would_not() -> None:
    """Negative control: theta_0 + 1.0 * (theta - theta_0) is the same number on paper only."""
    (old, new) = (torch.randn(20_000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert bits(old + 1.0 * (new - old)) != bits(new)


@given(cases())
def test_it_is_the_weighted_mean(case: Case) -> None:
    state = first_state(case, FEDAVG)
    sent = contributions(case, FEDAVG, state)
    new = FEDAVG.aggregate(state, sent, case.round(FEDAVG))
    for name in sent[0].adapter:
        exact = np.average([c.adapter[name].double().numpy() for c in sent], axis=0, weights=case.weights)
        np.testing.assert_allclose(new[name].numpy(), exact, rtol=1e-5, atol=1e-6)


def test_addition_in_another_order_gives_other_bits() -> None:
    """Why the hospitals are sorted by site: the tolerance for permutations is needed."""
    random = torch.Generator().manual_seed(0)
    adapters = [{"x": torch.randn(50, generator=random)} for _ in range(5)]
    mean, reverse = weighted_mean(adapters, [0.2] * 5), weighted_mean(adapters[::-1], [0.2] * 5)
    assert bits(mean["x"]) != bits(reverse["x"])


def error(case: Case, sent: list[Contribution], layer: str) -> tuple[Tensor, Tensor]:
    """mean of the products - product of the means, and 1/2 sum_ij w_i w_j (B_i - B_j)(A_i - A_j), without s."""
    state = first_state(case, FEDAVG)
    new = FEDAVG.aggregate(state, sent, case.round(FEDAVG))
    products = sum(c.weight * matrix(c.adapter, layer, case.lora) for c in sent)
    pairs = sum(
        0.5 * one.weight * two.weight
        * (one.adapter[f"{layer}.lora_B"] - two.adapter[f"{layer}.lora_B"]).double()
        @ (one.adapter[f"{layer}.lora_A"] - two.adapter[f"{layer}.lora_A"]).double()
        for one in sent
        for two in sent
    )  # fmt: skip
    return (products - matrix(new, layer, case.lora)) * case.rank / case.alpha, pairs  # type: ignore[return-value]


@given(cases())
def test_the_error_of_averaging_the_factors_is_their_covariance(case: Case) -> None:
    sent = contributions(case, FEDAVG, first_state(case, FEDAVG))
    for layer in NAMES:
        missing, pairs = error(case, sent, layer)
        assert close(missing, pairs)
        assert int(torch.linalg.matrix_rank(pairs, atol=1e-9)) <= (len(sent) - 1) * case.rank


@given(cases(fewest=3))
def test_the_error_is_there_with_several_hospitals_and_gone_with_one_a_or_one_b_for_all(case: Case) -> None:
    sent = contributions(case, FEDAVG, first_state(case, FEDAVG))
    layer = NAMES[0]
    assert error(case, sent, layer)[1].norm() > 1e-9
    for part in ("A", "B"):
        key = f"{layer}.lora_{part}"
        shared = [Contribution({**c.adapter, key: sent[0].adapter[key]}, c.weight, c.rank) for c in sent]
        missing, pairs = error(case, shared, layer)
        assert missing.norm() < 1e-4
        assert pairs.norm() == 0
