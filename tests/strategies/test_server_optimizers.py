"""FedAvgM and FedAdam: their steps are those of torch's optimizers, and what the server remembers stays there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fedrad.errors import ConfigError
from fedrad.settings import Strategy as Settings
from fedrad.simulation import centralized
from fedrad.training.strategy import Strategy
from strategies.fedadam import BETA2, TAU, FedAdam
from strategies.fedavgm import FedAvgM
from tests.grid import InProcessGrid, federate, small
from tests.model import tiny
from tests.strategies.rounds import STRATEGIES, Case, advanced, bits, cases, contributions, first_state

Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
few = settings(max_examples=30)


def followed(strategy: Strategy, case: Case, optimizer: Optimizer) -> float:
    """Three rounds beside an optimizer of torch's, whose gradient is what the mean would change: the largest error."""
    state, memory, worst = first_state(case, strategy), dict[str, Tensor](), 0.0
    names = sorted(contributions(case, strategy, state)[0].adapter)
    parameters = {name: torch.nn.Parameter(state[name].double()) for name in names}
    oracle = optimizer(list(parameters.values()))
    for number in range(1, 4):
        sent, round = contributions(case, strategy, state, number), case.round(strategy, number)
        mean = advanced(STRATEGIES["fedavg"], state, sent, round)
        for name, parameter in parameters.items():
            parameter.data = state[name].double()
            parameter.grad = parameter.data - mean[name].double()
        oracle.step()
        state, memory = strategy.advance(state, memory, sent, round)
        worst = max([worst, *(float((state[n] - parameters[n].detach()).abs().max()) for n in names)])
    return worst


@few
@given(cases(), st.integers(1, 3))
def test_without_momentum_and_at_rate_1_fedavgm_is_fedavg_bit_for_bit(case: Case, rounds: int) -> None:
    plain, strategy = STRATEGIES["fedavg"], FedAvgM(Settings(name="fedavgm", server_momentum=0.0, server_rate=1.0))
    state, memory = first_state(case, strategy), dict[str, Tensor]()
    for number in range(1, rounds + 1):
        sent, round = contributions(case, strategy, state, number), case.round(strategy, number)
        expected = advanced(plain, state, sent, round)
        state, memory = strategy.advance(state, memory, sent, round)
        assert {name: bits(tensor) for name, tensor in state.items()} == {n: bits(t) for n, t in expected.items()}


@few
@given(cases(), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.1, 1.0]))
def test_fedavgm_is_torchs_momentum_on_the_change(case: Case, momentum: float, rate: float) -> None:
    strategy = FedAvgM(Settings(name="fedavgm", server_momentum=momentum, server_rate=rate))
    assert followed(strategy, case, lambda given: torch.optim.SGD(given, rate, momentum=momentum)) < 1e-5
    assert followed(strategy, case, lambda given: torch.optim.SGD(given, rate / 2, momentum=momentum)) > 1e-3  # control


@few
@given(cases(), st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 0.1]))
def test_fedadam_is_torchs_adam_on_the_change(case: Case, momentum: float, rate: float) -> None:
    strategy = FedAdam(Settings(name="fedadam", server_momentum=momentum, server_rate=rate))
    terms = {"lr": rate or 0.01, "eps": TAU}
    assert followed(strategy, case, lambda given: torch.optim.Adam(given, betas=(momentum, BETA2), **terms)) < 1e-5
    # Control: another second moment would be seen.
    assert followed(strategy, case, lambda given: torch.optim.Adam(given, betas=(momentum, 0.5), **terms)) > 1e-4


class Watched(InProcessGrid):
    """Remembers the names of all tensors that pass, in either direction."""

    names: set[str]

    def carried(self, message: Message) -> Message:
        for record in message.content.values() if message.has_content() else ():
            if isinstance(record, ArrayRecord):
                self.names.update(record)
        return super().carried(message)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("base"), "bert")


@pytest.mark.parametrize(
    "hidden",
    [
        {},
        {"privacy__secure_aggregation": True, "sites__quorum": 2},
        {"privacy__unit": "hospital", "privacy__delta": 1e-3},
    ],
    ids=["clear", "secure aggregation", "hospital as unit"],
)
@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_what_the_server_remembers_is_checkpointed_and_in_no_message_and_no_export(
    base: str, tmp_path: Path, name: str, hidden: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    monkeypatch.setattr(Watched, "names", seen, raising=False)
    federate(small(base, run__out=str(tmp_path / "run"), strategy__name=name, **hidden), grid=Watched)
    federate(small(base, run__out=str(tmp_path / "plain"), strategy__name="fedavg", **hidden))
    kept, plain = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("run", "plain"))
    moments = {"fedavgm": (".v",), "fedadam": (".m", ".u")}[name]
    trained = {n for n in plain if n.startswith("head.") or ".lora_" in n}

    assert kept.keys() - plain.keys() == {f"server.{n}{moment}" for n in trained for moment in moments}
    assert plain.keys() <= seen  # control: what is public was seen to pass
    assert seen - plain.keys() <= {"vector"}  # what is masked goes up under this name
    for file in ("adapter_model.safetensors", "head.safetensors"):
        exported = [load_file(tmp_path / run / "adapter" / file) for run in ("run", "plain")]
        assert exported[0].keys() == exported[1].keys()
    assert any(bits(kept[n]) != bits(plain[n]) for n in trained)  # control: the optimizer did something


def test_without_momentum_a_whole_run_of_fedavgm_is_fedavgs(base: str, tmp_path: Path) -> None:
    """With the iterates of a round alone: FedAvgM's last answers are no mean over several rounds."""
    for name in ("fedavg", "fedavgm"):
        changes = {"strategy__name": name, "strategy__server_momentum": 0.0, "train__average": 0.0}
        federate(small(base, run__out=str(tmp_path / name), **changes))
    one, other = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("fedavg", "fedavgm"))
    assert {n: bits(t) for n, t in one.items()} == {n: bits(t) for n, t in other.items() if "server." not in n}


def test_one_place_has_no_server(base: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.name: fedadam runs an optimizer at the server"):
        centralized.train(small(base, run__out=str(tmp_path / "run"), strategy__name="fedadam"))
    assert not (tmp_path / "run").exists()
