"""Fed-SB: the mean of the cores is the mean of the products, and the export multiplies the core into B."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from fedrad.settings import Strategy as Settings
from strategies.fedsb import FedSB
from tests.strategies.rounds import NAMES, STRATEGIES, Case, cases, contributions, first_state, trainable

FEDSB = STRATEGIES["fedsb"]


@pytest.mark.parametrize(("subspace", "init"), [("base", "base"), ("random", "orthonormal")])
def test_the_structure_has_a_core_between_public_factors(subspace: str, init: str) -> None:
    spec = FedSB(Settings(subspace=subspace)).shape(Case(5, 4, 2, 3.0, (1.0,), 0).lora)

    assert (spec.core, spec.init, spec.freeze_a, spec.freeze_b) == (True, init, False, False)


@given(cases())
def test_only_the_core_and_the_head_travel(case: Case) -> None:
    state = first_state(case, FEDSB)
    sent = FEDSB.sent(trainable(state, case.round(FEDSB).lora), 1)

    assert sent == {"head.weight", "head.bias", *(f"{layer}.lora_R" for layer in NAMES)}
    for c in contributions(case, FEDSB, state):
        assert sum(t.numel() for n, t in c.adapter.items() if "lora" in n) == 2 * case.rank**2


@given(cases(ranks=(2, 3)))
def test_the_export_does_not_transpose_the_core(case: Case) -> None:
    """Negative control of the export test: R and R^T are of one shape."""
    state = first_state(case, FEDSB)
    plain, _ = FEDSB.export(state, case.round(FEDSB).lora)
    B, core = (state[f"{NAMES[0]}.lora_{part}"] for part in "BR")

    torch.testing.assert_close(plain[f"{NAMES[0]}.lora_B"], B @ core)
    assert not torch.allclose(plain[f"{NAMES[0]}.lora_B"], B @ core.T)
