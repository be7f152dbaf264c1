"""What holds for every strategy, and the identities that several share."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.training.strategy import Contribution, Strategy, strategy_of, weighted_mean
from tests.strategies.rounds import (
    EXACT,
    NAMES,
    SAME_BITS,
    STRATEGIES,
    Case,
    advanced,
    bits,
    cases,
    close,
    contributions,
    first_state,
    matrix,
    mean_matrix,
    permuted,
    trainable,
)

few = settings(max_examples=30)  # for each of thirteen strategies
every = pytest.mark.parametrize("name", STRATEGIES)
with_lora = pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "head"])


@every
@few
@given(cases(), st.integers(1, 2))
def test_a_round_gives_the_whole_state_in_float32(name: str, case: Case, number: int) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    new = advanced(strategy, state, contributions(case, strategy, state, number), case.round(strategy, number))

    for key, tensor in state.items():
        assert (new[key].dtype, new[key].shape) == (torch.float32, tensor.shape)
    assert all(tensor.is_contiguous() and bool(torch.isfinite(tensor).all()) for tensor in new.values())
    added = {key.partition(".base_")[2] for key in new.keys() - state.keys()}
    assert added <= {f"A.{number}", f"B.{number}"}
    assert bits(new["centre"]) + bits(new["scale"]) == bits(state["centre"]) + bits(state["scale"])


@every
@few
@given(cases(), st.integers(1, 2))
def test_what_went_in_stays_as_it_was(name: str, case: Case, number: int) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    sent = contributions(case, strategy, state, number)
    before = [{key: tensor.clone() for key, tensor in group.items()} for group in (state, *(c.adapter for c in sent))]
    new = advanced(strategy, state, sent, case.round(strategy, number))
    strategy.for_rank(new, case.rank, case.round(strategy, number))
    strategy.export(new, case.round(strategy).lora)

    for group, then in zip((state, *(c.adapter for c in sent)), before, strict=True):
        assert {key: bits(tensor) for key, tensor in group.items()} == {key: bits(t) for key, t in then.items()}


@every
@few
@given(cases(fewest=2), st.integers(1, 2), st.randoms(use_true_random=False))
def test_the_order_of_hospitals_changes_rounding_only(name: str, case: Case, number: int, random: object) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    sent = contributions(case, strategy, state, number)
    order = list(range(len(sent)))
    random.shuffle(order)  # type: ignore[attr-defined]
    round = case.round(strategy, number)
    one, two = (advanced(strategy, state, group, round) for group in (sent, [sent[i] for i in order]))

    assert permuted(case, order).weights == tuple(sent[i].weight for i in order)
    assert close(one["head.weight"], two["head.weight"])
    for layer in NAMES if name != "head" else ():
        assert close(matrix(one, layer, round.lora), matrix(two, layer, round.lora), 1e-4)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("head", "fedadam")])
@few
@given(cases(), st.integers(1, 2))
def test_identical_hospitals_are_one_hospital(name: str, case: Case, number: int) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    sent = contributions(case, strategy, state, number, same=True)
    round = case.round(strategy, number)
    new = advanced(strategy, state, sent, round)
    alone = {**state, **sent[0].adapter}

    assert close(new["head.weight"], alone["head.weight"])
    for layer in NAMES:
        assert close(matrix(new, layer, round.lora), matrix(alone, layer, round.lora))


@with_lora
@pytest.mark.parametrize("warm", [True, False])
@few
@given(cases(), st.integers(1, 2))
def test_updates_of_zero_change_nothing(name: str, warm: bool, case: Case, number: int) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy, warm=warm)
    round = case.round(strategy, number)
    new = advanced(strategy, state, contributions(case, strategy, state, number, step=0.0), round)

    assert close(new["head.weight"], state["head.weight"], 1e-6)
    for layer in NAMES:
        assert close(matrix(new, layer, round.lora), matrix(state, layer, round.lora))


@pytest.mark.parametrize("name", SAME_BITS)
@few
@given(cases(most=1), st.integers(1, 4))
def test_one_hospital_comes_back_bit_for_bit(name: str, case: Case, number: int) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    (alone,) = contributions(case, strategy, state, number)
    assert alone.weight == 1.0
    new = advanced(strategy, state, [alone], case.round(strategy, number))

    assert {key: bits(tensor) for key, tensor in new.items()} == {
        key: bits(tensor) for key, tensor in {**state, **alone.adapter}.items()
    }


@pytest.mark.parametrize("name", ["refactor", "flora", "flexlora"])
@few
@given(cases(most=1, ranks=(2, 3)))
def test_the_others_keep_the_matrix_of_one_hospital_but_not_its_factors(name: str, case: Case) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    (alone,) = contributions(case, strategy, state)
    round = case.round(strategy)
    new, own = advanced(strategy, state, [alone], round), {**state, **alone.adapter}

    for layer in NAMES:
        assert close(matrix(new, layer, round.lora), matrix(own, layer, round.lora))
        assert bits(new[f"{layer}.lora_A"]) != bits(own[f"{layer}.lora_A"])
    assert bits(new["head.weight"]) == bits(own["head.weight"])


@pytest.mark.parametrize("name", EXACT)
@few
@given(cases())
def test_the_exact_ones_recover_the_mean_of_the_products_round_by_round(name: str, case: Case) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    for number in range(1, 5):
        round = case.round(strategy, number)
        sent = contributions(case, strategy, state, number)
        new = advanced(strategy, state, sent, round)
        for layer in NAMES:
            expected = mean_matrix(case, strategy, state, sent, layer, number)
            assert close(matrix(new, layer, round.lora), expected, 2e-5)
        state = new


@pytest.mark.parametrize("name", ["fedavg", "rolora by step", "flexlora"])
def test_the_inexact_ones_do_not(name: str) -> None:
    """Negative control: the test above can tell."""
    strategy = STRATEGIES[name]
    case = Case(out=9, inputs=7, rank=2, alpha=3.0, weights=(0.5, 0.3, 0.2), seed=1)
    state = first_state(case, strategy)
    sent = contributions(case, strategy, state)
    new = advanced(strategy, state, sent, case.round(strategy))

    assert not close(matrix(new, NAMES[0], case.lora), mean_matrix(case, strategy, state, sent, NAMES[0]), 1e-3)


@every
@few
@given(cases())
def test_averaging_strategies_know_the_mean_only(name: str, case: Case) -> None:
    """A server that learns nothing but the weighted sum (secure aggregation) comes to the same state."""
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    sent = contributions(case, strategy, state)
    round = case.round(strategy)
    mean = weighted_mean([c.adapter for c in sent], [c.weight for c in sent])
    from_all = advanced(strategy, state, sent, round)
    from_mean = advanced(strategy, state, [Contribution(mean, 1.0, case.rank)], round)
    same = from_all.keys() == from_mean.keys() and all(bits(from_all[key]) == bits(from_mean[key]) for key in from_all)

    if strategy.averaging:
        assert same
    elif len(sent) > 1:  # negative control: the others need what each hospital sent
        assert not same


# Refactor rewrites the resting A after the round.
@pytest.mark.parametrize("name", [name for name in STRATEGIES if not name.startswith("refactor")])
@few
@given(cases(), st.integers(1, 3))
def test_what_rests_in_a_round_keeps_every_bit(name: str, case: Case, number: int) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    names = trainable(state, case.round(strategy).lora)
    sent = strategy.sent(names, number)
    new = advanced(strategy, state, contributions(case, strategy, state, number), case.round(strategy, number))

    assert {"head.weight", "head.bias"} <= sent <= names
    for key in state.keys() - sent:
        assert bits(new[key]) == bits(state[key])


@every
@few
@given(cases())
def test_exports_are_plain_lora_of_the_same_function(name: str, case: Case) -> None:
    strategy = STRATEGIES[name]
    state = first_state(case, strategy)
    for number in range(1, 4):
        state = advanced(strategy, state, contributions(case, strategy, state, number), case.round(strategy, number))
    spec = case.round(strategy).lora
    plain, lora = strategy.export(state, spec)

    assert not lora.core
    assert lora.init in ("kaiming", "orthonormal")
    assert [key for key in plain if ".base_" in key or key.endswith(".lora_R")] == []
    assert lora.alpha / lora.rank == pytest.approx(spec.alpha / spec.rank)
    for layer, (out, inputs) in case.shapes.items() if name != "head" else ():
        assert plain[f"{layer}.lora_A"].shape == (lora.rank, inputs)
        assert plain[f"{layer}.lora_B"].shape == (out, lora.rank)
        assert lora.rank <= min(out, inputs)  # what a LoRA layer of this size may have
        assert close(matrix(plain, layer, lora), matrix(state, layer, spec))
    for key in ("head.weight", "head.bias", "centre", "scale"):
        assert bits(plain[key]) == bits(state[key])


@every
def test_the_product_names_it(name: str) -> None:
    """pyproject.toml is what an installation finds strategies by."""
    root = Path(__file__).parent.parent.parent
    entries = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    module, _, attribute = entries["fedrad.strategies"][name.partition(" ")[0]].partition(":")
    found = getattr(import_module(module), attribute)

    assert found is type(STRATEGIES[name])
    assert issubclass(found, Strategy)


def test_no_entry_point_is_forgotten() -> None:
    root = Path(__file__).parent.parent.parent
    entries = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]

    assert set(entries["fedrad.strategies"]) == {name.partition(" ")[0] for name in STRATEGIES}


def problems(**changes: object) -> list[str]:
    """The keys that a configuration is refused for."""
    flat = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    try:
        Experiment.from_flat(flat)
    except ConfigError as error:
        lines = error.problems
        assert all(f"strategy.name={flat['strategy.name']}" in line for line in lines if line.startswith("lora.freeze"))
        return [line.partition(":")[0] for line in lines]
    return []


@pytest.mark.parametrize("name", sorted({name.partition(" ")[0] for name in STRATEGIES}))
def test_every_strategy_works_with_the_defaults(name: str) -> None:
    assert problems(strategy__name=name) == []


FREEZE_A = {"lora__freeze_a": True}
NO_TARGETS = {"lora__targets": ""}


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("fedavg", set()),
        ("fedavgm", set()),
        ("fedadam", set()),
        ("ffa", {"lora.targets"}),
        ("rolora", {"lora.freeze-a", "lora.targets"}),
        ("fedsb", {"lora.freeze-a", "lora.targets"}),
        ("refactor", {"lora.targets"}),
        ("fedex", {"lora.freeze-a", "lora.targets"}),
        ("flora", {"lora.freeze-a", "lora.targets"}),
        ("flexlora", {"lora.freeze-a", "lora.targets"}),
        ("head", {"lora.freeze-a"}),
    ],
)
def test_contradictions_are_named_by_their_key(name: str, refused: set[str]) -> None:
    for key, changes in (("lora.freeze-a", FREEZE_A), ("lora.targets", NO_TARGETS)):
        assert problems(strategy__name=name, **changes) == ([key] if key in refused else [])


@pytest.mark.parametrize("name", sorted({name.partition(" ")[0] for name in STRATEGIES}))
def test_only_flora_and_flexlora_mix_ranks(name: str) -> None:
    mixed = problems(strategy__name=name, sites__count=2, sites__ranks="2,4", lora__rank=4)
    assert mixed == ([] if name in ("flora", "flexlora") else ["sites.ranks"])
    assert problems(strategy__name=name, sites__count=2, sites__ranks="4,4", lora__rank=4) == []
    beyond = problems(strategy__name=name, sites__count=2, sites__ranks="2,8", lora__rank=4)
    assert beyond == (["lora.rank"] if name in ("flora", "flexlora") else ["sites.ranks"])


def test_settings_of_one_strategy() -> None:
    step = {"strategy__name": "rolora", "strategy__alternate": "step"}
    assert problems(**step, train__local_steps=1) == ["train.local-steps"]
    assert problems(**step, train__local_steps=2) == []
    assert problems(strategy__name="refactor", strategy__every=5, train__rounds=5) == []
    assert problems(strategy__name="refactor", strategy__every=6, train__rounds=5) == ["strategy.every"]


@pytest.mark.parametrize(
    "hidden",
    [{"privacy.unit": "hospital", "privacy.delta": 1e-3}, {"privacy.secure-aggregation": True, "sites.quorum": 2}],
)
@pytest.mark.parametrize("name", ["fedex", "flora", "flexlora"])
def test_what_needs_every_update_is_refused_before_anything_is_read(name: str, hidden: dict[str, object]) -> None:
    flat = {"sites.count": 3, **hidden}
    with pytest.raises(ConfigError, match=rf"strategy\.name: .*{name} needs every hospital's update.*rolora") as raised:
        Experiment.from_flat({**flat, "strategy.name": name})
    assert "flora" not in str(raised.value).partition("take one")[2]
    assert strategy_of(Experiment.from_flat({**flat, "strategy.name": "fedavg"}))
