"""The strategies through the whole program: what travels, what a hospital alone gets, who spends what."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.batches import tokenize
from fedrad.errors import ConfigError
from fedrad.ledger.view import read_ledger
from fedrad.simulation import centralized
from fedrad.tasks.classifier import Classifier
from fedrad.training.corpus import read_corpus
from fedrad.training.setup import set_up
from fedrad.training.strategy import strategy_of
from tests.grid import federate, forget, small
from tests.model import tiny
from tests.strategies.communication import Shapes, traffic

ALL = ("fedavg", "fedavgm", "fedadam", "ffa", "rolora", "fedsb", "refactor", "fedex", "flora", "flexlora", "head")
# With one hospital the server's step changes no bit of these.
EXACT = ("fedavg", "ffa", "rolora", "fedex", "fedsb", "head")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("base"), "bert")


def files(folder: Path) -> dict[str, Tensor]:
    adapter = folder / "adapter"
    return load_file(adapter / "adapter_model.safetensors") | load_file(adapter / "head.safetensors")


def result(folder: Path) -> dict[str, object]:
    figures: dict[str, object] = json.loads((folder / "result.json").read_text())
    return figures


def experiment(base: str, folder: Path, **changes: object) -> Experiment:
    keys: dict[str, object] = {"run__out": str(folder), "train__rounds": 3, "lora__targets": "value,dense"}
    return small(base, **(keys | changes))


def both(base: str, folder: Path, **changes: object) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One hospital, and centralized, under the same configuration."""
    forget()
    federate(experiment(base, folder / "one", sites__count=1, **changes), nodes=1)
    centralized.train(experiment(base, folder / "central", **changes))
    return files(folder / "one"), files(folder / "central")


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("name", [*EXACT, "rolora by step"])
def test_one_hospital_is_the_centralized_run_with_the_same_trained_tensors_bit_for_bit(
    base: str, tmp_path: Path, name: str, optimizer: str
) -> None:
    changes: dict[str, object] = {"strategy__name": name.split()[0], "train__optimizer": optimizer}
    if "step" in name:
        changes["strategy__alternate"] = "step"
    if optimizer == "adam":
        changes["train__learning_rate"] = 0.01
    one, central = both(base, tmp_path, **changes)
    assert one.keys() == central.keys()
    for tensor_name in one:
        assert one[tensor_name].numpy().tobytes() == central[tensor_name].numpy().tobytes(), tensor_name
    assert result(tmp_path / "one")["epsilon"] == result(tmp_path / "central")["epsilon"]
    print(f"{name} {optimizer}: largest difference 0.0 over {len(one)} tensors")


@pytest.mark.parametrize("name", ["refactor", "flora", "flexlora"])
def test_the_others_keep_the_function_of_a_round(base: str, tmp_path: Path, name: str) -> None:
    """Their factors are other ones after a round, so from the second on the steps differ too (docs/strategies.md)."""
    one, central = both(base, tmp_path, strategy__name=name, train__rounds=1, train__local_steps=4)
    texts = tiny.TEXTS[:3]
    left, right = (Classifier.load(tmp_path / run).predict(texts) for run in ("one", "central"))
    difference = float(abs(left - right).max())
    print(f"{name}: largest difference of a probability after a round {difference:.1e}")
    assert difference < 1e-5
    # Control: the tensors are not the same ones, so the comparison above is no comparison of bits.
    assert one.keys() != central.keys() or any(
        one[key].shape != central[key].shape or not torch.equal(one[key], central[key]) for key in one
    )


@pytest.fixture(scope="module", params=ALL)
def ran(request: pytest.FixtureRequest, base: str, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A finished run of three hospitals by each strategy, long enough that some report has a finding."""
    exp = experiment(
        base, tmp_path_factory.mktemp("ran"), strategy__name=request.param, train__rounds=6, data__reports=300
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAD_CACHE", str(tmp_path_factory.getbasetemp() / "fedrad-cache"))
        federate(exp)
    return exp


def check_bytes(exp: Experiment) -> None:
    """Those of a finished run are those of the formula."""
    setup = set_up(exp, read_corpus(exp).task)
    state, hospitals, rounds = setup.classifier.state(), exp.sites.count, exp.train.rounds
    layers = {
        key.removesuffix(".lora_A"): (state[f"{key.removesuffix('.lora_A')}.lora_B"].shape[0], state[key].shape[1])
        for key in state
        if key.endswith(".lora_A")
    }
    shapes = Shapes(layers=tuple(layers.values()), head=state["head.weight"].numel() + state["head.bias"].numel())
    ranks = (setup.lora.rank,) * hospitals
    found = result(Path(exp.run.out))["bytes"]
    assert isinstance(found, dict)
    expected = [traffic(strategy_of(exp), setup.lora, shapes, ranks, 0, number) for number in range(1, rounds + 1)]
    assert found["up"] == [4 * hospitals * each.up for each in expected]
    # The first round brings everything once, frozen factors and constants too; each other, what the one before changed.
    whole = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert found["down"] == [hospitals * whole, *(4 * hospitals * each.down for each in expected[:-1])]


def test_bytes_up_and_down_are_those_of_the_formula(ran: Experiment) -> None:
    check_bytes(ran)


@pytest.mark.parametrize("name", ["fedavg", "fedex", "flora"])  # the last two send residuals of all hospitals
def test_so_are_those_of_one_hospital(base: str, tmp_path: Path, name: str) -> None:
    exp = experiment(base, tmp_path / "run", strategy__name=name, sites__count=1, train__rounds=4)
    federate(exp)
    check_bytes(exp)


def test_what_is_written_is_plain_lora_and_says_what_the_server_scored(ran: Experiment) -> None:
    """Folded or not, the exported adapter is the function that was evaluated."""
    run = Path(ran.run.out)
    assert not any(".base_A" in key or ".base_B" in key or "lora_R" in key for key in files(run))
    classifier = Classifier.load(run)
    corpus = read_corpus(ran)
    found = classifier.predict(list(corpus.reports.select(corpus.test)["text"]))
    truth = tokenize(corpus.reports, corpus.test, classifier.tokenizer, 40)
    scores = corpus.task.evaluate(found, truth).scores
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["per_label"] == pytest.approx(scores.per_label)
    assert scores.figures["micro F1"] > 0


def test_hospitals_of_different_ranks(base: str, tmp_path: Path) -> None:
    for name in ("flexlora", "flora"):
        exp = experiment(base, tmp_path / name, strategy__name=name, sites__ranks="2,1,2", lora__rank=2)
        grid = federate(exp)
        ranks = {
            reply.content["reply"]["site"]: {
                tensor.shape[0] for key, tensor in reply.content["adapter"].items() if key.endswith("lora_A")
            }
            for reply in grid.trained
        }
        assert ranks == {"site-000": {2}, "site-001": {1}, "site-002": {2}}
    with pytest.raises(ConfigError, match=r"sites.ranks.*flexlora, flora"):
        experiment(base, tmp_path / "no", sites__ranks="2,1,2")


def test_hospitals_with_terms_of_their_own(base: str, tmp_path: Path) -> None:
    exp = experiment(
        base, tmp_path / "run", sites__epsilons="8,2,0.5", sites__batches="8,4,8", sites__deltas="1e-5,1e-6,1e-4"
    )
    federate(exp)
    ledgers = [read_ledger(tmp_path / "run" / "ledger" / f"site-{i:03}") for i in range(3)]
    for ledger, cap, batch, delta in zip(ledgers, (8.0, 2.0, 0.5), (8, 4, 8), (1e-5, 1e-6, 1e-4), strict=True):
        assert 0.9 * cap < ledger.epsilon <= cap
        assert ledger.delta == delta
        assert {json.loads(row.plan)["expected_batch"] for row in ledger.rows} == {batch}
    figures = result(tmp_path / "run")
    assert figures["epsilon"] == {ledger.site: ledger.epsilon for ledger in ledgers}
    assert figures["delta"] == 1e-4


def test_absent_hospitals_spend_nothing(base: str, tmp_path: Path) -> None:
    exp = experiment(base, tmp_path / "run", sites__fraction=0.3, train__rounds=2, train__seed=1)
    federate(exp)
    charged = [read_ledger(path.parent) for path in (tmp_path / "run" / "ledger").glob("*/ledger.sqlite")]
    assert sum(len(ledger.rows) for ledger in charged) == 2  # one hospital a round
    assert set(result(tmp_path / "run")["epsilon"]) == {ledger.site for ledger in charged}  # type: ignore[arg-type]


def test_a_hospital_that_runs_out_halfway_is_left_out_and_the_rest_go_on(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger has a smaller cap than its plan needs, as if an earlier run had spent the rest."""
    from fedrad.simulation import hospitals as simulated

    opened, resumed = simulated.Ledger.open, simulated.Ledger.resume

    def smaller(terms: dict[str, Any]) -> dict[str, Any]:
        return {**terms, "cap": 5.0 if terms["site"] == "site-002" else terms["cap"]}

    monkeypatch.setattr(simulated.Ledger, "open", lambda directory, **terms: opened(directory, **smaller(terms)))
    monkeypatch.setattr(simulated.Ledger, "resume", lambda ledger, **terms: resumed(ledger, **smaller(terms)))
    exp = experiment(base, tmp_path / "run", sites__count=4, sites__quorum=3, train__rounds=4)
    grid = federate(exp)
    answered = [(r.content["reply"]["round"], r.content["reply"]["site"]) for r in grid.trained if "reply" in r.content]
    refused = [dict(r.content["failure"]) for r in grid.trained if "failure" in r.content]
    by_round = [sorted(site for number, site in answered if number == k) for k in (1, 2, 3, 4)]
    everybody = [f"site-{i:03}" for i in range(4)]
    without = [site for site in everybody if site != "site-002"]
    first = [round["round"] for round in refused]
    assert len(first) == 1  # asked once more, answered so, and never asked again
    assert refused[0]["code"] == "budget-exhausted"
    assert by_round == [everybody if k < first[0] else without for k in (1, 2, 3, 4)]
    assert by_round[0] == everybody
    epsilons = result(tmp_path / "run")["epsilon"]
    assert isinstance(epsilons, dict)
    assert epsilons["site-002"] <= 5.0 < epsilons["site-000"]
    # What it had spent stays in the mirror, round after round.
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for before, after in pairwise(lines):
        assert all(after["epsilon"][site] >= value for site, value in before["epsilon"].items())


def test_patients_as_the_unit(base: str, tmp_path: Path) -> None:
    exp = experiment(base, tmp_path / "run", privacy__unit="patient", train__rounds=2)
    federate(exp)
    figures = result(tmp_path / "run")
    assert figures["unit"] == "patient"
    assert "patient-level" in str(figures["statement"])
    for path in (tmp_path / "run" / "ledger").glob("*/ledger.sqlite"):
        plan = json.loads(read_ledger(path.parent).rows[0].plan)
        assert (plan["unit"], plan["reports_per_patient"]) == ("patient", 4)
