"""The formula of the traffic against the tensors that are sent and that change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrad.installed import strategy_class
from fedrad.model.adapter import LoRASpec
from fedrad.settings import Strategy as Settings
from fedrad.training.strategy import Tensors
from strategies.fedavg import FedAvg
from strategies.refactor import Refactor
from tests.strategies.communication import Shapes, Traffic, traffic
from tests.strategies.rounds import STRATEGIES, Case, advanced, bits, cases, contributions, first_state, trainable

HEAD = 3 * 4 + 3


def changed(before: Tensors, after: Tensors) -> int:
    """Numbers of the tensors that a hospital with the state before needs for the state after."""
    return sum(t.numel() for name, t in after.items() if name not in before or bits(before[name]) != bits(t))


@pytest.mark.parametrize("name", [*STRATEGIES, "refactor every 2"])
@given(cases(ranks=(2, 3)), st.data())
@settings(max_examples=25)
def test_what_is_sent_and_what_changes_is_what_the_formula_says(name: str, case: Case, data: st.DataObject) -> None:
    every_two = Refactor(Settings(name="refactor", every=2))
    strategy = every_two if name == "refactor every 2" else STRATEGIES[name]
    count = len(case.weights)
    ranks = [case.rank] * count
    if strategy.mixed_ranks:
        ranks = data.draw(st.lists(st.integers(1, case.rank), min_size=count, max_size=count))
    shapes = Shapes(() if name == "head" else tuple(case.shapes.values()), HEAD)
    # FLoRA sends B down only to say that a warmed one is zero now.
    state = first_state(case, strategy, warm=name != "flora")
    for number in range(1, 5):
        round = case.round(strategy, number)
        sent = contributions(case, strategy, state, number, ranks=ranks)
        new = advanced(strategy, state, sent, round)
        for hospital, rank in enumerate(ranks):
            expected = traffic(strategy, round.lora, shapes, ranks, hospital, number)
            up = sum(tensor.numel() for tensor in sent[hospital].adapter.values())
            down = changed(strategy.for_rank(state, rank, round), strategy.for_rank(new, rank, round))
            assert Traffic(up, down) == expected
        state = new


@pytest.mark.parametrize(("freeze_a", "freeze_b"), [(True, False), (False, True), (True, True)])
def test_fedavg_sends_what_is_not_frozen(freeze_a: bool, freeze_b: bool) -> None:
    case = Case(out=9, inputs=7, rank=2, alpha=3.0, weights=(0.5, 0.5), seed=0)
    lora = LoRASpec(2, 3.0, ("query",), freeze_a=freeze_a, freeze_b=freeze_b)
    fedavg = FedAvg(Settings(name="fedavg"))
    names = fedavg.sent(trainable(state := first_state(case, fedavg), lora), 1)
    sizes = sum(state[name].numel() for name in names)

    assert traffic(fedavg, lora, Shapes(tuple(case.shapes.values()), HEAD), [2, 2], 0, 1) == Traffic(sizes, sizes)


def test_figures_of_one_layer_of_bert() -> None:
    """768 x 768, rank 8, 4 hospitals, no head: the entries of the table in docs/strategies.md."""
    lora, shapes = LoRASpec(8, 8.0, ("query",)), Shapes(((768, 768),), 0)

    def floats(name: str, round: int = 1, **changes: object) -> tuple[int, int]:
        strategy = strategy_class(name)(Settings(name=name, **changes))  # type: ignore[arg-type]
        found = traffic(strategy, strategy.shape(lora), shapes, [8] * 4, 0, round)
        return found.up, found.down

    assert floats("fedavg") == floats("fedavgm") == floats("fedadam") == (12_288, 12_288)
    assert floats("ffa") == (6_144, 6_144)
    assert floats("rolora") == (6_144, 6_144)
    assert floats("rolora", alternate="step") == (12_288, 12_288)
    assert floats("fedsb") == (64, 64)
    assert floats("refactor") == (6_144, 12_288)
    assert floats("refactor", every=2) == (6_144, 6_144)
    assert floats("fedex") == (12_288, 49_152)
    assert floats("flora") == (12_288, 55_296)
    assert floats("flexlora") == (12_288, 12_288)
    assert floats("head") == (0, 0)
    # 24 a round fill 768 after 32 rounds; from the next one on the whole residual is sent
    assert floats("fedex", 32) == (12_288, 49_152)
    assert floats("fedex", 33) == (12_288, 12_288 + 768 * 1_536)


def test_counting_changes_sees_a_changed_bit() -> None:
    """Negative control of ``changed``: -0.0 and 0.0 are other bits, and a new name counts whole."""
    assert changed({"x": torch.zeros(3)}, {"x": torch.zeros(3)}) == 0
    assert changed({"x": torch.zeros(3)}, {"x": -torch.zeros(3), "y": torch.zeros(2)}) == 5
