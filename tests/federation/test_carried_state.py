"""What a hospital carries from round to round, against a server that asks for something else in the middle of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import MessageType
from safetensors import safe_open
from torch import Tensor

from fedrad.errors import FederationError
from fedrad.federation import secure_hospital
from fedrad.federation.messages import Failure, Reply, read_answer
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan
from fedrad.training.local import TrainingState
from fedrad.training.setup import plan_for, shared_plan
from fedrad.training.site import RoundRequest, close_round, judge_round, open_round
from fedrad.training.site_state import STATE_FILE
from tests.grid import Mercy, forget
from tests.model import tiny
from tests.secure_run import SHARED, One, code, five

IN_CLEAR = {"privacy.secure-aggregation": False, "privacy.shared-noise": False, "train.learning-rate": 1e-4}


@pytest.fixture(autouse=True)
def clean() -> None:
    forget()


def hospital(folder: Path, form: str, **changes: object) -> One:
    """A real hospital in a run whose answers leave in this form."""
    if form == "masked":
        return One(folder, **changes)
    sigma = plan_for(One(folder / "plan", **SHARED | changes).experiment, 40).noise_multiplier
    one = One(folder, noise_multiplier=sigma, pinned=True, **SHARED | changes)
    one.mercy.node |= {"allow-shared-noise": True, "min-quorum": 2}
    return one


def masked_rounds(one: One, number: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Plays them; returns the last adapter as it was before it was masked."""
    sent: list[dict[str, Tensor]] = []
    real = secure_hospital.flatten
    monkeypatch.setattr(secure_hospital, "flatten", lambda adapter: (sent.append(dict(adapter)), real(adapter))[1])
    for round in range(1, number + 1):
        one.turn_to(round)
        reply = read_answer(one.train(one.share()), Reply)
        assert isinstance(reply, Reply) == (round <= one.experiment.train.rounds)
        one.mercy.state = {**one.mercy.state, **sent[-1]}  # as if the sum were public, and the others' were the same
    return sent[-1]


def missed(answer: Mapping[str, Tensor], masked: Mapping[str, Tensor]) -> float:
    """How far from a masked adapter one is who doubles an answer that began at zero, relative to its length."""
    error = sum(float((2 * answer[name] - tensor).square().sum()) for name, tensor in masked.items())
    return math.sqrt(error / sum(float(tensor.square().sum()) for tensor in masked.values()))


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("masked", {"train__rounds": 3, "train__local_steps": 1, "train__average": 0.5}),
        ("shared", {"train__rounds": 1}),  # averaged after the plan's last step, although train.average is 0
        ("shared", {"train__rounds": 3}),
    ],
)
def test_a_masked_adapter_is_in_no_later_answer_in_clear(
    tmp_path: Path, form: str, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second, averaged with one more iterate from a tiny step, is twice the answer less what the server sent."""
    one = hospital(tmp_path / "one", form, **settings)
    masked = masked_rounds(one, 2, monkeypatch)
    charges = one.charges
    one.mercy.node |= {"min-quorum": 0, "allow-shared-noise": False}  # the hospital allows answers in clear
    one.turn_to(3)
    zeros = {name: torch.zeros_like(tensor) if name in masked else tensor for name, tensor in one.mercy.state.items()}
    one.mercy.state = zeros
    for changes in ({"rounds": 3}, {"rounds": 9}):
        left = read_answer(one.ask(one.request(**changes), MessageType.TRAIN, **IN_CLEAR), Reply)
        assert not isinstance(left, Reply) or missed(left.adapter, masked) > 0.9
        assert left == Failure("ava", 3, "federation")
    assert one.charges == charges  # refused before it was charged
    # Another run is answered, as by a hospital that never took part in this one.
    answers = []
    for place in ({}, {"state-dir": str(tmp_path / "new"), "witness-dir": str(tmp_path / "witness")}):
        one.mercy.node |= place
        request = one.request(run="8", round=1)
        answers.append(read_answer(one.ask(request, MessageType.TRAIN, **IN_CLEAR), Reply))
    used, fresh = (answer.adapter for answer in answers if isinstance(answer, Reply))
    assert all(torch.equal(used[name], fresh[name]) for name in masked)
    assert missed(used, masked) > 0.9


@pytest.mark.parametrize("form", ["masked", "shared"])
def test_there_is_no_round_beyond_the_plan(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its iterates would have been averaged, though `train.average` was 0."""
    one = hospital(tmp_path, form, train__rounds=1)
    masked_rounds(one, 1, monkeypatch)
    one.turn_to(2)
    inbox = one.share()
    assert code(one.train(inbox)) == "federation"
    assert code(one.ask(one.request(inbox=inbox, rounds=9), MessageType.TRAIN)) == "federation"
    assert one.charges == 1


@pytest.mark.parametrize("form", ["clear", "masked", "shared"])
def test_nothing_but_its_number_is_kept_of_a_round_that_left_masked(tmp_path: Path, form: str) -> None:
    """Not for a masked round either: its sum may be over other hospitals, and a difference of two sums over one."""
    experiment = five("unused", tmp_path, **SHARED, train__rounds=9)
    plan = plan_for(experiment, 20)
    if form == "shared":
        plan = shared_plan(experiment, plan, plan.noise_multiplier)
    weights = {"head.bias": torch.tensor([0.25])}
    asked = RoundRequest("run", 7, 1, last=False, masked=form != "clear")
    told = torch.tensor([0.5])
    with Ledger.open(tmp_path, site="site-000", cap=math.inf, delta=1e-5, witness=None) as ledger:
        opened = open_round(tmp_path, ledger, asked, plan, weights)
        after = TrainingState(
            {"head.bias": told}, 7, {"head.bias|momentum_buffer": told}, {"head.bias": told.double()}, 3
        )
        close_round(tmp_path, ledger, asked, opened, after)
        before = judge_round(tmp_path, ledger, replace(asked, round=8, last=True), plan, weights).before
    with safe_open(tmp_path / STATE_FILE, framework="pt") as file:
        facts, names = file.metadata(), list(file.keys())
    assert facts["left"] == form
    if form == "clear":  # control: there it is charged with all of its noise, and goes on
        assert before == TrainingState(weights, 7, after.moments, after.average_sum, 3)
        assert len(names) == 3
    else:
        assert before == TrainingState(weights, 7)
        assert names == []


FORMS = ("clear", "masked", "shared")


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
def test_a_run_leaves_in_one_form(tmp_path: Path, first: str, second: str) -> None:
    experiment = five("unused", tmp_path, **SHARED, train__rounds=2)
    alone = plan_for(experiment, 20)
    weights = {"head.bias": torch.tensor([0.25])}

    def asked(form: str, round: int) -> tuple[RoundRequest, PrivacyPlan]:
        shared = shared_plan(experiment, alone, alone.noise_multiplier) if form == "shared" else alone
        return RoundRequest("run", round, 1, last=round == 2, masked=form != "clear"), shared

    with Ledger.open(tmp_path, site="site-000", cap=math.inf, delta=1e-5, witness=None) as ledger:
        opened = open_round(tmp_path, ledger, *asked(first, 1), weights)
        close_round(tmp_path, ledger, asked(first, 1)[0], opened, TrainingState(weights, 1))
        for round in (1, 2):
            if (round == 2 or first == "clear") and first == second:
                judge_round(tmp_path, ledger, *asked(second, round), weights)
                continue
            with pytest.raises(
                FederationError, match="never twice" if first == second else f"leave {second}, .* left {first}"
            ):
                judge_round(tmp_path, ledger, *asked(second, round), weights)


# Each of these is a proposal that the hospital would have accepted for the whole run.
CHANGES: dict[str, dict[str, object]] = {
    "rounds": {"train.rounds": 3},
    "local steps": {"train.local-steps": 1},
    "average": {"train.average": 0.9},
    "learning rate": {"train.learning-rate": 1e-4},
    "momentum": {"train.momentum": 0.0},
    "optimizer": {"train.optimizer": "adam", "train.learning-rate": 0.01},
    "strategy": {"strategy.name": "rolora"},
    "turns": {"strategy.name": "rolora", "strategy.alternate": "step"},
    "secure aggregation": {"privacy.secure-aggregation": True, "sites.count": 3, "sites.quorum": 2},
    "quorum": {"sites.quorum": 1},
    "scale": {"lora.alpha": 64.0},
    "clip": {"privacy.clip": 1e-6},
    "batch": {"train.batch": 40},
    "epsilon": {"privacy.epsilon": 1.0},
    "delta": {"privacy.delta": 1e-7},
    "noise": {"privacy.noise": "system"},
    "engine": {"privacy.gradients": "opacus"},
    "seed": {"train.seed": 5},
    "length": {"data.max-length": 39},
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Mercy:
    """A real hospital after the first of two rounds in clear."""
    forget()
    mercy = Mercy(tmp_path_factory.mktemp("mercy"), epsilon_cap=20.0)
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    return mercy


def held(mercy: Mercy) -> tuple[bytes, int]:
    """The state file, and the number of charges."""
    state = Path(mercy.node["state-dir"])
    with Ledger.open(state, site="mercy", cap=20.0, delta=1e-5, witness=Path(mercy.node["witness-dir"])) as ledger:
        return (state / STATE_FILE).read_bytes(), len(ledger.rows())


@pytest.mark.parametrize("change", CHANGES)
def test_no_setting_changes_in_a_run(begun: Mercy, change: str) -> None:
    before = held(begun)
    for number in (1, 2):  # nor is the answer to a round repeated under other settings
        refused = code(begun.ask(begun.request(round=number), **CHANGES[change]))
        assert refused == ("secure-aggregation" if change == "secure aggregation" else "federation")
    assert held(begun) == before


def test_where_results_go_is_no_setting_of_the_training(begun: Mercy) -> None:
    """Control of the test above; a resumed run says so in ``run.*``."""
    again = begun.ask(begun.request(), **{"run.name": "another", "run.out": "/elsewhere", "run.resume": True})
    assert isinstance(read_answer(again, Reply), Reply)


def test_nor_does_where_it_started(tmp_path: Path) -> None:
    """From a public base a cold start and a warm one, which takes other steps, have tensors of the same shapes."""
    fixed = {"model__directions": 0, "lora__targets": "query,value"}
    mercy = Mercy(tmp_path, epsilon_cap=20.0, base=tiny.save_public(tmp_path / "public"), **fixed)
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    before = held(mercy)
    for number in (1, 2):
        assert code(mercy.ask(mercy.request(round=number), **{"train.warm-start": "synthetic"})) == "federation"
    assert held(mercy) == before
    assert isinstance(read_answer(mercy.ask(mercy.request(round=2)), Reply), Reply)  # control


def test_nor_do_the_number_of_rounds_and_the_hospitals_own_plan(begun: Mercy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held(begun)
    assert code(begun.ask(begun.request(round=2, rounds=3))) == "federation"
    with monkeypatch.context() as patch:
        patch.setitem(begun.node, "batch", 9)
        assert code(begun.ask(begun.request(round=2))) == "federation"
    assert held(begun) == before


def test_what_does_change_in_a_run(begun: Mercy) -> None:
    """Control, and last in this file: the round's number and the state that is sent."""
    begun.state = {name: tensor + 0.125 for name, tensor in begun.state.items()}
    answer: Any = read_answer(begun.ask(begun.request(round=2)), Reply)
    assert isinstance(answer, Reply), answer
    assert held(begun)[1] == 2
