"""The linear probe: no LoRA, whatever the configuration would adapt."""

from __future__ import annotations

from tests.strategies.rounds import STRATEGIES, Case, first_state, trainable


def test_nothing_is_adapted_and_the_head_travels() -> None:
    head = STRATEGIES["head"]
    case = Case(out=5, inputs=4, rank=2, alpha=3.0, weights=(1.0,), seed=0)
    spec = head.shape(case.lora)

    assert case.lora.targets
    assert spec.targets == ()
    assert head.sent(trainable(first_state(case, head), spec), 1) == {"head.weight", "head.bias"}
