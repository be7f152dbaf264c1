"""FedAvg on LoRA matrices: exact with one hospital, blind to order, and off by a covariance with several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedrad.federation.strategy import public_weights, strategy_named
from strategies.fedavg import FedAvg, weighted_mean

OUT, RANK, IN = 7, 2, 5  # not square, so that a transposition shows


def adapters(number: int, seed: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layer.lora_A": (RANK, IN), "layer.lora_B": (OUT, RANK), "head.weight": (3, OUT), "head.bias": (3,)}
    return [{n: torch.randn(shape, generator=generator) for n, shape in shapes.items()} for _ in range(number)]


def weights_of(sizes: list[int]) -> list[float]:
    return public_weights(sizes, "declared")


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_one_hospital_comes_back_bit_for_bit(patterns: list[int]) -> None:
    special = [0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x7F7FFFFF, 0xFF7FFFFF]  # -0.0, denormals, largest
    values = np.array(special + patterns, dtype=np.uint32).view(np.float32)
    tensor = torch.from_numpy(values[np.isfinite(values)].copy())
    for rule in ("uniform", "declared"):
        weights = public_weights([37], rule)
        assert weights == [1.0]
        assert bits(weighted_mean([{"x": tensor}], weights)["x"]) == bits(tensor)


def test_the_difference_form_would_not() -> None:
    """Negative control: theta_0 + 1.0 * (theta - theta_0) is the same number on paper only."""
    (old, new) = (torch.randn(20_000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert bits(old + 1.0 * (new - old)) != bits(new)


sizes_and_seed = st.tuples(st.lists(st.integers(1, 5000), min_size=1, max_size=6), st.integers(0, 2**31))


@given(sizes_and_seed, st.randoms(use_true_random=False))
def test_the_order_of_hospitals_does_not_matter(case: tuple[list[int], int], random: object) -> None:
    sizes, seed = case
    given_adapters, weights = adapters(len(sizes), seed), weights_of(sizes)
    mean = weighted_mean(given_adapters, weights)
    again = weighted_mean(given_adapters, weights)
    order = list(range(len(sizes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    permuted = weighted_mean([given_adapters[i] for i in order], [weights[i] for i in order])
    for name in mean:
        assert bits(mean[name]) == bits(again[name])  # the same order gives the same bits
        torch.testing.assert_close(permuted[name], mean[name], rtol=1e-5, atol=1e-6)


def test_addition_in_another_order_gives_other_bits() -> None:
    """Why the strategy sorts by site: the tolerance above is needed."""
    given_adapters, weights = adapters(5, 0), [0.2] * 5
    mean, reverse = weighted_mean(given_adapters, weights), weighted_mean(given_adapters[::-1], weights)
    assert any(bits(mean[name]) != bits(reverse[name]) for name in mean)


@given(sizes_and_seed)
def test_it_is_the_weighted_mean(case: tuple[list[int], int]) -> None:
    sizes, seed = case
    given_adapters = adapters(len(sizes), seed)
    mean = weighted_mean(given_adapters, weights_of(sizes))
    for name, tensor in mean.items():
        exact = np.average([a[name].double().numpy() for a in given_adapters], axis=0, weights=sizes)
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), exact, rtol=1e-5, atol=1e-6)


@given(sizes_and_seed)
def test_identical_hospitals_change_nothing(case: tuple[list[int], int]) -> None:
    sizes, seed = case
    (one,) = adapters(1, seed)
    mean = weighted_mean([one] * len(sizes), weights_of(sizes))
    for name in one:
        torch.testing.assert_close(mean[name], one[name], rtol=1e-6, atol=1e-7)


def covariance(given_adapters: list[dict[str, Tensor]], weights: list[float]) -> tuple[Tensor, Tensor]:
    """M - mean(B) mean(A), and 1/2 sum_ij w_i w_j (B_i - B_j)(A_i - A_j), both [out, in] in float64."""
    A = [a["layer.lora_A"].double() for a in given_adapters]
    B = [a["layer.lora_B"].double() for a in given_adapters]
    mean = weighted_mean([{"A": a, "B": b} for a, b in zip(A, B, strict=True)], weights)
    # weighted_mean answers in float32; the identity is checked to that.
    product = sum((w * b @ a for w, a, b in zip(weights, A, B, strict=True)), torch.zeros(OUT, IN, dtype=torch.float64))
    error = product - mean["B"].double() @ mean["A"].double()
    pairs = torch.zeros(OUT, IN, dtype=torch.float64)
    for i in range(len(A)):
        for j in range(len(A)):
            pairs += 0.5 * weights[i] * weights[j] * (B[i] - B[j]) @ (A[i] - A[j])
    return error, pairs


@given(sizes_and_seed)
def test_the_error_of_averaging_the_factors_is_their_covariance(case: tuple[list[int], int]) -> None:
    sizes, seed = case
    error, pairs = covariance(adapters(len(sizes), seed), weights_of(sizes))
    torch.testing.assert_close(error, pairs, rtol=1e-4, atol=1e-5)
    assert int(torch.linalg.matrix_rank(pairs, atol=1e-6)) <= (len(sizes) - 1) * RANK


def test_the_error_is_there_with_several_hospitals_and_gone_with_a_frozen_a() -> None:
    several = adapters(4, 3)
    error, _ = covariance(several, [0.25] * 4)
    assert error.norm() > 0.1
    frozen = [{**a, "layer.lora_A": several[0]["layer.lora_A"]} for a in several]
    error, pairs = covariance(frozen, [0.25] * 4)
    assert error.norm() < 1e-5
    assert pairs.norm() == 0


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.sampled_from(["uniform", "declared"]))
def test_weights_are_public_and_sum_to_one(sizes: list[int], rule: str) -> None:
    weights = public_weights(sizes, rule)
    assert len(weights) == len(sizes)
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)
    assert all(0 < weight <= 1 for weight in weights)
    if rule == "uniform":
        assert len(set(weights)) == 1
    else:
        np.testing.assert_allclose(weights, np.array(sizes) / sum(sizes), rtol=1e-12)


def test_the_inputs_stay_as_they_were() -> None:
    given_adapters = adapters(3, 0)
    before = [{name: tensor.clone() for name, tensor in a.items()} for a in given_adapters]
    mean = weighted_mean(given_adapters, [0.5, 0.25, 0.25])
    for a in mean.values():
        a.zero_()
    for now, then in zip(given_adapters, before, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)


def test_found_by_its_name() -> None:
    assert strategy_named("fedavg") is FedAvg
