"""FedEx-LoRA: what is added to the base, its rank, its orientation, and what many rounds make of it."""

from __future__ import annotations

import torch
from hypothesis import given

from strategies.factors import Product
from strategies.fedex import missing
from tests.strategies.rounds import (
    NAMES,
    STRATEGIES,
    Case,
    cases,
    close,
    contributions,
    first_state,
    matrix,
    mean_matrix,
    residual,
)

FEDEX = STRATEGIES["fedex"]


@given(cases())
def test_the_residual_is_what_averaging_misses_in_factors_of_n_minus_1_times_r(case: Case) -> None:
    state = first_state(case, FEDEX)
    sent = contributions(case, FEDEX, state)
    new = FEDEX.aggregate(state, sent, case.round(FEDEX))
    for layer in NAMES:
        averaged = {key: tensor for key, tensor in new.items() if ".base_" not in key}
        expected = mean_matrix(case, FEDEX, state, sent, layer) - matrix(averaged, layer, case.lora)
        assert close(residual(new, layer), expected)
        most = (len(sent) - 1) * case.rank
        if most == 0:
            assert [key for key in new if ".base_" in key] == []
        else:
            out, inputs = case.shapes[layer]
            rank = new[f"{layer}.base_A.1"].shape[0]
            assert rank <= most
            assert rank == min(most, out, inputs) or most > min(out, inputs)
            assert new[f"{layer}.base_B.1"].shape == (out, rank)  # not transposed


@given(cases(fewest=2))
def test_one_a_for_all_leaves_no_residual(case: Case) -> None:
    state = first_state(case, FEDEX)
    sent = contributions(case, FEDEX, state)
    products = [Product(c.adapter[f"{NAMES[0]}.lora_B"], sent[0].adapter[f"{NAMES[0]}.lora_A"]) for c in sent]
    error = missing(products, case.weights)

    assert not error.A.any()


@given(cases(fewest=3))
def test_any_hospital_may_be_the_last(case: Case) -> None:
    state = first_state(case, FEDEX)
    sent = contributions(case, FEDEX, state)
    products = [Product(c.adapter[f"{NAMES[0]}.lora_B"], c.adapter[f"{NAMES[0]}.lora_A"]) for c in sent]
    one, two = missing(products, case.weights), missing(products[::-1], case.weights[::-1])

    assert close(one.B @ one.A, two.B @ two.A, 1e-12)


def test_many_rounds_are_recompressed_and_stay_exact() -> None:
    """Two hospitals of rank 2 fill layers of 9 x 5 in the third round: 2 + 2, then 6 > 5."""
    case = Case(out=9, inputs=5, rank=2, alpha=3.0, weights=(0.7, 0.3), seed=3)
    state, numbers = first_state(case, FEDEX), []
    for number in range(1, 31):
        sent = contributions(case, FEDEX, state, number)
        new = FEDEX.aggregate(state, sent, case.round(FEDEX, number))
        for layer in NAMES:
            assert close(matrix(new, layer, case.lora), mean_matrix(case, FEDEX, state, sent, layer, number), 3e-6)
        numbers.append(sorted(int(key.rpartition(".")[2]) for key in new if key.startswith(f"{NAMES[0]}.base_A.")))
        state = new

    assert numbers[:5] == [[1], [1, 2], [3], [4], [5]]
    assert numbers[-1] == [30]
    assert state[f"{NAMES[0]}.base_A.30"].shape == (5, 5)


def test_a_transposed_residual_would_be_seen() -> None:
    """Negative control: on square layers the wrong orientation has the right shape, and the identity fails."""
    case = Case(out=6, inputs=6, rank=2, alpha=3.0, weights=(0.5, 0.5), seed=0)
    state = first_state(case, FEDEX)
    sent = contributions(case, FEDEX, state)
    new = FEDEX.aggregate(state, sent, case.round(FEDEX))
    B, A = (new[f"{NAMES[0]}.base_{part}.1"] for part in "BA")
    turned = {**new, f"{NAMES[0]}.base_B.1": A.T, f"{NAMES[0]}.base_A.1": B.T}
    expected = mean_matrix(case, FEDEX, state, sent, NAMES[0])

    assert close(matrix(new, NAMES[0], case.lora), expected)
    assert not close(matrix(turned, NAMES[0], case.lora), expected, 1e-2)


def test_the_scaling_is_in_the_residual() -> None:
    """Negative control: without alpha / rank the base would get another matrix."""
    case = Case(out=7, inputs=5, rank=2, alpha=8.0, weights=(0.5, 0.5), seed=0)
    state = first_state(case, FEDEX)
    sent = contributions(case, FEDEX, state)
    new = FEDEX.aggregate(state, sent, case.round(FEDEX))
    unscaled = {key: tensor / 4 if ".base_B." in key else tensor for key, tensor in new.items()}
    expected = mean_matrix(case, FEDEX, state, sent, NAMES[0])

    assert close(matrix(new, NAMES[0], case.lora), expected)
    assert not close(matrix(unscaled, NAMES[0], case.lora), expected, 1e-2)
    assert torch.equal(new["head.bias"], FEDEX.aggregate(state, sent, case.round(FEDEX))["head.bias"])
