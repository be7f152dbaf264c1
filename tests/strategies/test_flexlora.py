"""FlexLoRA: the best approximation of the mean of the products at every rank (Eckart-Young)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrad.training.strategy import Contribution
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
)

FLEX, FEDAVG = STRATEGIES["flexlora"], STRATEGIES["fedavg"]


@given(cases())
def test_the_error_is_the_tail_of_the_singular_values_and_at_most_fedavgs(case: Case) -> None:
    state = first_state(case, FLEX)
    sent = contributions(case, FLEX, state)
    new, averaged = (s.aggregate(state, sent, case.round(s)) for s in (FLEX, FEDAVG))
    for layer in NAMES:
        mean = mean_matrix(case, FLEX, state, sent, layer)
        error = (mean - matrix(new, layer, case.lora)).norm()
        tail = torch.linalg.svdvals(mean)[case.rank :].norm()
        assert float(error) == pytest.approx(float(tail), rel=1e-4, abs=1e-5 * float(1 + mean.norm()))
        assert error <= (mean - matrix(averaged, layer, case.lora)).norm() + 1e-5 * (1 + mean.norm())


@given(cases(fewest=2))
def test_it_is_exact_where_the_mean_has_the_rank(case: Case) -> None:
    state = first_state(case, FLEX)
    sent = contributions(case, FLEX, state)
    key = f"{NAMES[0]}.lora_A"
    shared = [Contribution({**c.adapter, key: sent[0].adapter[key]}, c.weight, c.rank) for c in sent]
    new = FLEX.aggregate(state, shared, case.round(FLEX))

    assert close(matrix(new, NAMES[0], case.lora), mean_matrix(case, FLEX, state, shared, NAMES[0]))


@given(cases(ranks=(2, 3)), st.data())
def test_a_hospital_gets_the_best_of_its_own_rank_under_its_own_scaling(case: Case, data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, case.rank), min_size=len(case.weights), max_size=len(case.weights)))
    state = first_state(case, FLEX)
    round = case.round(FLEX)
    new = FLEX.aggregate(state, contributions(case, FLEX, state, ranks=ranks), round)
    for layer, (out, inputs) in case.shapes.items():
        full = matrix(new, layer, case.lora)
        U, values, Vt = torch.linalg.svd(full)
        for rank in range(1, case.rank + 1):
            own = FLEX.for_rank(new, rank, round)
            assert own[f"{layer}.lora_A"].shape == (rank, inputs)
            assert own[f"{layer}.lora_B"].shape == (out, rank)
            cut = U[:, :rank] * values[:rank] @ Vt[:rank]
            error = (full - matrix(own, layer, case.lora, rank)).norm()
            assert float(error) == pytest.approx(float((full - cut).norm()), rel=1e-4, abs=1e-5 * float(1 + values[0]))
            A = own[f"{layer}.lora_A"].double()
            assert close(A @ A.T, torch.eye(rank, dtype=torch.float64))


@given(cases(ranks=(2, 3)), st.data())
def test_the_mean_at_mixed_ranks_uses_every_hospitals_scaling(case: Case, data: st.DataObject) -> None:
    """With a server of full rank nothing is cut, so the mean of the products must come out."""
    full = replace(case, rank=min(case.out, case.inputs))
    ranks = data.draw(st.lists(st.integers(1, full.rank), min_size=len(case.weights), max_size=len(case.weights)))
    state = first_state(full, FLEX)
    sent = contributions(full, FLEX, state, ranks=ranks)
    new = FLEX.aggregate(state, sent, full.round(FLEX))
    for layer in NAMES:
        assert close(matrix(new, layer, full.lora), mean_matrix(full, FLEX, state, sent, layer))


@pytest.mark.parametrize("warm", [True, False])
def test_a_round_of_small_ranks_leaves_no_direction_dead(warm: bool) -> None:
    """Rows of A that are zero beside columns of B that are zero would have no gradient ever again."""
    case = Case(out=9, inputs=7, rank=4, alpha=3.0, weights=(1.0,), seed=0)
    state = first_state(case, FLEX, warm=warm)
    sent = contributions(case, FLEX, state, ranks=[1])
    new = FLEX.aggregate(state, sent, case.round(FLEX))
    for layer in NAMES:
        A = new[f"{layer}.lora_A"].double()
        assert close(A @ A.T, torch.eye(4, dtype=torch.float64))
        assert close(matrix(new, layer, case.lora), mean_matrix(case, FLEX, state, sent, layer))


@settings(max_examples=20)
@given(cases())
def test_before_the_first_round_nothing_is_approximated(case: Case) -> None:
    state = first_state(case, FLEX, warm=False)
    small = FLEX.for_rank(state, 1, case.round(FLEX))
    for layer in NAMES:
        assert bits(small[f"{layer}.lora_A"]) == bits(state[f"{layer}.lora_A"][:1])
        assert not small[f"{layer}.lora_B"].any()
