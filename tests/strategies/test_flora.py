"""FLoRA: the stack is the mean of the products, at any ranks; what follows starts anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrad.errors import ConfigError
from strategies.flora import fresh_a
from tests.strategies.rounds import (
    NAMES,
    STRATEGIES,
    Case,
    bits,
    cases,
    close,
    contributions,
    first_state,
    matrix,
    mean_matrix,
    residual,
)

FLORA = STRATEGIES["flora"]


@given(cases(), st.data())
@settings(max_examples=50)
def test_stacking_is_exact_at_any_ranks_round_by_round(case: Case, data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, case.rank), min_size=len(case.weights), max_size=len(case.weights)))
    state = first_state(case, FLORA)
    for number in range(1, 5):
        sent = contributions(case, FLORA, state, number, ranks=ranks)
        new = FLORA.aggregate(state, sent, case.round(FLORA, number))
        for layer in NAMES:
            assert close(residual(new, layer), mean_matrix(case, FLORA, state, sent, layer, number), 1e-5)
            if number == 1:
                assert new[f"{layer}.base_A.1"].shape[0] in (sum(ranks), min(case.shapes[layer]))
        state = new


@given(cases(fewest=2))
@settings(max_examples=30)
def test_weights_on_both_factors_would_be_wrong(case: Case) -> None:
    """Negative control: the same stack with each weight in A and in B."""
    case = replace(case, weights=(1 / len(case.weights),) * len(case.weights))
    state = first_state(case, FLORA)
    sent = contributions(case, FLORA, state)
    both = sum(c.weight * c.weight * matrix(c.adapter, NAMES[0], case.lora) for c in sent)
    expected = mean_matrix(case, FLORA, state, sent, NAMES[0])

    assert close(residual(FLORA.aggregate(state, sent, case.round(FLORA)), NAMES[0]), expected)
    assert not close(both, expected, 1e-4)  # type: ignore[arg-type]


@given(cases())
@settings(max_examples=30)
def test_lora_starts_anew_from_seed_and_round(case: Case) -> None:
    state = first_state(case, FLORA)
    one, again, later = (
        FLORA.aggregate(state, contributions(case, FLORA, state, number), case.round(FLORA, number))
        for number in (1, 1, 2)
    )
    for layer in NAMES:
        assert not one[f"{layer}.lora_B"].any()
        assert bits(one[f"{layer}.lora_A"]) == bits(again[f"{layer}.lora_A"]) != bits(later[f"{layer}.lora_A"])
    assert bits(one[f"{NAMES[0]}.lora_A"]) != bits(one[f"{NAMES[1]}.lora_A"])


def test_a_new_a_is_distributed_as_an_initial_one() -> None:
    A = fresh_a(0, 1, "x", 64, 1000)
    initial = torch.empty(64, 1000)
    torch.nn.init.kaiming_uniform_(initial, a=5**0.5, generator=torch.Generator().manual_seed(0))

    assert float(A.abs().max()) <= 1000**-0.5
    assert float(A.mean()) == pytest.approx(0.0, abs=5 * float(initial.std()) / 64_000**0.5)
    assert float(A.std()) == pytest.approx(float(initial.std()), rel=0.02)
    assert A.dtype == torch.float32


@given(cases(ranks=(2, 3)))
@settings(max_examples=30)
def test_a_hospital_of_less_rank_gets_the_first_rows_and_the_same_function(case: Case) -> None:
    state = first_state(case, FLORA)
    round = case.round(FLORA)
    state = FLORA.aggregate(state, contributions(case, FLORA, state), round)
    small = FLORA.for_rank(state, 1, round)
    for layer in NAMES:
        assert torch.equal(small[f"{layer}.lora_A"], state[f"{layer}.lora_A"][:1])
        assert small[f"{layer}.lora_B"].shape == (case.shapes[layer][0], 1)
        assert torch.equal(matrix(small, layer, case.lora, 1), matrix(state, layer, case.lora))
    assert FLORA.for_rank(state, case.rank, round).keys() == state.keys()


def test_more_rank_than_the_server_has_is_refused() -> None:
    case = Case(5, 4, 2, 3.0, (1.0,), 0)
    for name in ("flora", "flexlora"):
        strategy = STRATEGIES[name]
        with pytest.raises(ConfigError, match=r"lora\.rank"):
            strategy.for_rank(first_state(case, strategy), 3, case.round(strategy))
