"""A whole federation in one process: ServerApp, ClientApp, ledgers and run directory, against centralized training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from safetensors.torch import load_file

from fedrad.config import Experiment
from fedrad.data.load import load_corpus
from fedrad.errors import ConfigError, DataError, ModelError, QuorumLost, SitesMissing
from fedrad.federation import hospital
from fedrad.federation.messages import Reply, content_of, read_answer
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.simulation import centralized
from fedrad.tasks.classifier import Classifier
from fedrad.training import warm_start
from fedrad.training.site import open_round
from tests.grid import InProcessGrid, federate, forget, small
from tests.model import tiny

SITES = ["site-000", "site-001", "site-002"]


@pytest.fixture(autouse=True)
def _few_centring_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", 40)


@pytest.fixture(scope="module")
def three(base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, InProcessGrid, Path]:
    """Three sites on two nodes, two rounds of two steps."""
    out = tmp_path_factory.mktemp("three") / "run"
    experiment = small(base, run__out=str(out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "_CENTRING_REPORTS", 40)
        patch.setenv("FEDRAD_CACHE", str(tmp_path_factory.getbasetemp() / "fedrad-cache"))
        return experiment, federate(experiment, nodes=2), out


def result_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def adapter_bytes(out: Path) -> dict[str, bytes]:
    """Every tensor of the run's result."""
    return bytes_of(sorted((out / "adapter").rglob("*.safetensors")))


def tensor_bytes(out: Path) -> dict[str, bytes]:
    """Every tensor of the run's result and of its last checkpoint."""
    return adapter_bytes(out) | bytes_of([out / "checkpoint.safetensors"])


def bytes_of(files: list[Path]) -> dict[str, bytes]:
    assert files
    return {
        f"{file.name}:{name}": tensor.numpy().tobytes() for file in files for name, tensor in load_file(file).items()
    }


def test_the_run_directory_holds_what_it_should(three: tuple[Experiment, InProcessGrid, Path]) -> None:
    experiment, _, out = three
    assert Experiment.load(out / "experiment.toml") == experiment
    lines = metrics_of(out)
    assert [(line["round"], line["step"], line["split"]) for line in lines] == [
        (0, 0, "test"),
        (1, 2, "test"),
        (2, 4, "test"),
    ]
    assert lines[0]["epsilon"] == {}
    result = result_of(out)
    assert list(result["epsilon"]) == list(lines[-1]["epsilon"]) == SITES
    assert result["weighted_f1"] == lines[-1]["weighted_f1"]
    assert result["steps"] == 4
    assert result["delta"] == 1e-5
    assert result["noise"] == "seeded"
    assert list(result["reports"]["declared"]) == SITES
    assert sorted(path.name for path in (out / "ledger").iterdir()) == SITES
    assert Classifier.load(out).predict(["edema", "no edema"]).shape == (2, 14)


def test_the_result_stands_beside_the_start_and_the_label_prior(
    three: tuple[Experiment, InProcessGrid, Path],
) -> None:
    _, _, out = three
    figures, rounds = result_of(out), metrics_of(out)

    assert figures["before"] == {key: rounds[0][key] for key in figures["before"]}
    assert figures["label_prior"]["weighted_f1"] > 0
    assert set(figures["positives"]) == set(figures["per_label"])
    assert all(count <= figures["reports"]["test"] for count in figures["positives"].values())
    noisy = ("Noise-dominated", "Too few positives")  # four steps on ninety reports
    assert any(note.startswith(noisy) for note in figures["notes"])


def test_epsilon_is_met_from_below_and_is_what_the_ledgers_say(three: tuple[Experiment, InProcessGrid, Path]) -> None:
    _, _, out = three
    result, lines = result_of(out), metrics_of(out)
    for site in SITES:
        with Ledger.open(out / "ledger" / site, site=site, cap=8.0, delta=1e-5) as ledger:
            assert [(row.round, row.steps, row.done) for row in ledger.rows()] == [(1, 2, True), (2, 2, True)]
            assert result["epsilon"][site] == composed_epsilon(ledger.view.events, 1e-5)
            # One step more would be over the target: what was planned was used.
            event = ledger.view.events[-1]
            assert composed_epsilon([*ledger.view.events, event], 1e-5) > 8.0
        assert 7.9 < result["epsilon"][site] <= 8.0
        assert 0 < lines[1]["epsilon"][site] < result["epsilon"][site]
    assert result["epsilon_max"] == max(result["epsilon"].values())


def test_the_servers_answers_are_what_left_the_hospitals(three: tuple[Experiment, InProcessGrid, Path]) -> None:
    """Every reply of the run is on the closed list, and the two sites of one node answered apart."""
    _, grid, _ = three
    replies = [read_answer(message.content, Reply) for message in grid.trained]
    assert all(isinstance(reply, Reply) for reply in replies)
    assert sorted((reply.round, reply.site) for reply in replies) == [(r, site) for r in (1, 2) for site in SITES]
    assert {message.metadata.src_node_id for message in grid.trained} == {10, 11}
    values = [reply.adapter["head.weight"].numpy().tobytes() for reply in replies if isinstance(reply, Reply)]
    assert len(set(values)) == 6


def test_the_same_seeds_give_the_same_bits_in_any_order_on_any_number_of_nodes(
    three: tuple[Experiment, InProcessGrid, Path], tmp_path: Path
) -> None:
    experiment, grid, out = three
    forget()
    again = Experiment.from_flat({**experiment.flat(), "run.out": str(tmp_path / "run")})
    shuffled = federate(again, nodes=3, shuffle=5)
    assert [read_answer(m.content, Reply).site for m in shuffled.trained] != [
        read_answer(m.content, Reply).site for m in grid.trained
    ]
    assert tensor_bytes(tmp_path / "run") == tensor_bytes(out)
    assert metrics_of(tmp_path / "run") == metrics_of(out)
    assert result_of(tmp_path / "run")["epsilon"] == result_of(out)["epsilon"]


def test_another_seed_gives_other_bits(three: tuple[Experiment, InProcessGrid, Path], tmp_path: Path) -> None:
    """Negative control of the comparison above; and without seeds two runs differ as well."""
    experiment, _, out = three
    for key, value in (("train.seed", 1), ("privacy.noise", "system")):
        other = tmp_path / key
        federate(Experiment.from_flat({**experiment.flat(), key: value, "run.out": str(other)}))
        ours, theirs = tensor_bytes(other), tensor_bytes(out)
        assert ours.keys() == theirs.keys()
        assert ours != theirs


@pytest.mark.parametrize("optimizer", [{}, {"train__optimizer": "adam", "train__learning_rate": 0.05}])
def test_one_hospital_is_centralized_training_bit_for_bit(
    base: str, optimizer: dict[str, object], tmp_path: Path
) -> None:
    def experiment(name: str) -> Experiment:
        return small(base, sites__count=1, run__out=str(tmp_path / name), train__rounds=3, **optimizer)

    federate(experiment("federated"), nodes=1)
    forget()
    central, directory = centralized.train(experiment("central"))
    assert directory == tmp_path / "central"
    ours = adapter_bytes(tmp_path / "federated")
    assert ours == adapter_bytes(directory)
    assert len(ours) >= 4
    # The centralized run above goes in rounds too, so what is lost between rounds would be lost in both.
    in_one_go = {"train.rounds": 1, "train.local-steps": 6, "run.out": str(tmp_path / "one")}
    straight, _ = centralized.train(Experiment.from_flat({**experiment("one").flat(), **in_one_go}))
    assert ours == adapter_bytes(tmp_path / "one")
    assert dict(straight.epsilon) == dict(central.epsilon)
    federated = result_of(tmp_path / "federated")
    assert federated["epsilon"] == result_of(directory)["epsilon"] == dict(central.epsilon)
    # Before the first round a federation has heard of no epsilon, where a centralized run knows that it is 0.
    assert metrics_of(tmp_path / "federated")[1:] == metrics_of(directory)[1:]
    texts = load_corpus("synthetic", reports=20, seed=3)["text"]
    one, other = (Classifier.load(tmp_path / name).predict(texts) for name in ("federated", "central"))
    assert np.array_equal(one, other)
    assert len(np.unique(one)) > 2


def failing(site: str, round: int) -> Callable[..., Any]:
    def fails(directory: Path, ledger: Ledger, request: Any, *rest: Any) -> Any:
        if directory.name == site and request.round == round:
            raise DataError("a row of the table is gone")
        return open_round(directory, ledger, request, *rest)

    return fails


def test_a_run_goes_on_without_a_failed_site_if_the_quorum_allows_and_says_so(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hospital, "open_round", failing("site-001", 1))
    experiment = small(base, run__out=str(tmp_path / "run"))  # whose default is half of the hospitals, rounded up
    grid = federate(experiment)
    assert len(grid.trained) == 6  # asked again in round 2
    out = capsys.readouterr().out
    assert "note: site-001 is missing from 1 of 2 rounds: 1" in out
    assert result_of(tmp_path / "run")["missed_rounds"] == {"site-001": [1]}
    assert "site-001" in out
    assert "data" in out
    result = result_of(tmp_path / "run")
    assert list(result["epsilon"]) == SITES
    assert result["epsilon"]["site-001"] < result["epsilon"]["site-000"]  # one round less
    assert list(metrics_of(tmp_path / "run")[1]["epsilon"]) == ["site-000", "site-002"]


def test_without_the_quorum_the_run_fails_and_writes_no_result(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hospital, "open_round", failing("site-001", 2))
    with pytest.raises(QuorumLost, match=r"round 2: 2 of 3 .*site-001: data"):
        federate(small(base, run__out=str(tmp_path / "run"), sites__quorum=3))
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "adapter").exists()
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()  # of round 1


class Killed(BaseException):
    """Stands for the end of a process: nothing catches it on its way."""


class Mortal(InProcessGrid):
    """A hospital's process may die where Flower's Ray worker would: then Flower answers for it."""

    def answer(self, message: Message) -> Message:
        try:
            return super().answer(message)
        except Killed:
            reason = "<class 'ray.exceptions.OutOfMemoryError'>:<'the node is running low on memory'>"
            return Message(Error(code=0, reason=reason), reply_to=message)


# What is interrupted, and how it knows the site.
PLACES: dict[str, tuple[str, Callable[..., str]]] = {
    "before it charged": ("open_round", lambda directory, *given: directory.name),
    "while it trained": ("run_steps", lambda *given, **named: named["site"]),
    "after it had answered": ("reply_of", lambda request, *given: request.site),
}


@pytest.mark.parametrize("when", PLACES)
def test_a_hospital_that_is_killed_once_does_not_end_the_run(
    base: str,
    three: tuple[Experiment, InProcessGrid, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """Its plan uses up its budget exactly, so a round that was charged twice would be missing at the end."""
    deaths: list[str] = []

    inside, site_of = PLACES[when]
    real = getattr(hospital, inside)

    def dies_once(*given: Any, **named: Any) -> Any:
        if site_of(*given, **named) != "site-001" or deaths:
            return real(*given, **named)
        deaths.append("site-001")
        raise Killed

    monkeypatch.setattr(hospital, inside, dies_once)
    grid = federate(small(base, run__out=str(tmp_path / "run")), grid=Mortal)

    result, plain = result_of(tmp_path / "run"), result_of(three[2])
    assert deaths == ["site-001"]
    assert len(grid.trained) == 7  # three hospitals, two rounds, and once more
    assert result["unconfirmed"] == []
    assert result["epsilon"] == plain["epsilon"]  # the cap, whatever happened
    assert result["missed_rounds"] == {}
    # Charged once: the second answer is the first, or what the first would have been.
    assert metrics_of(tmp_path / "run") == metrics_of(three[2])


def test_a_dead_node_takes_its_sites_with_it(base: str, tmp_path: Path) -> None:
    """Node 10 serves two of the three sites; with a quorum of two that is too many."""

    def dies(node: int, message: Message) -> bool:
        return node == 10 and "request" in message.content.config_records

    with pytest.raises(QuorumLost, match="1 of 3") as lost:
        federate(small(base, run__out=str(tmp_path / "run"), sites__quorum=2), fails=dies)
    assert "site-000: Flower error" in str(lost.value)
    assert "site-002: Flower error" in str(lost.value)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_base_model_without_a_vocabulary_stops_the_server_before_it_looks_for_hospitals(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    tiny.save(folder, "bert")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    experiment = small(str(folder), run__out=str(tmp_path / "run"), sites__connect_timeout=0.1)
    with pytest.raises(ModelError, match="can't read 100% of an ordinary chest report"):
        federate(experiment, nodes=0)
    assert not (tmp_path / "run").exists()


def test_nobody_there_is_an_error_within_the_limit(base: str, tmp_path: Path) -> None:
    experiment = small(base, run__out=str(tmp_path / "run"), sites__connect_timeout=0.1)
    with pytest.raises(SitesMissing, match=r"0 of 3 hospitals connected"):
        federate(experiment, nodes=0)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_relative_path_is_refused(base: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.out"):
        federate(small(base, run__out="here"))


def test_a_run_without_privacy_says_so(base: str, tmp_path: Path) -> None:
    experiment = small(base, run__out=str(tmp_path / "run"), privacy__epsilon=0.0, train__rounds=1)
    grid = federate(experiment)
    result = result_of(tmp_path / "run")
    assert result["epsilon"] == dict.fromkeys(SITES)
    assert result["private"] is False
    assert "WITHOUT" in result["statement"]
    # A reply that carries infinity is still on the list.
    assert content_of(read_answer(grid.trained[0].content, Reply))
