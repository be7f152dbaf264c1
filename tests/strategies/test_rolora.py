"""RoLoRA: who trains when, and what that makes exact."""

from __future__ import annotations

from fedrad.settings import Strategy as Settings
from strategies.rolora import RoLoRA

B, A, HEAD = {"x.lora_B", "y.lora_B"}, {"x.lora_A", "y.lora_A"}, {"head.weight", "head.bias"}
NAMES = B | A | HEAD


def test_by_round_b_begins_and_a_follows() -> None:
    strategy = RoLoRA(Settings(alternate="round"))

    assert [strategy.blocks(NAMES, round) for round in (1, 2, 3)] == [(B | HEAD,), (A | HEAD,), (B | HEAD,)]
    assert [strategy.sent(NAMES, round) for round in (1, 2, 3)] == [B | HEAD, A | HEAD, B | HEAD]
    assert not strategy.keeps_average


def test_by_step_both_are_trained_in_every_round_one_at_a_time() -> None:
    strategy = RoLoRA(Settings(alternate="step"))

    assert [strategy.blocks(NAMES, round) for round in (1, 2)] == [(B | HEAD, A | HEAD)] * 2
    assert strategy.sent(NAMES, 2) == NAMES
    assert strategy.keeps_average
