"""The fused grid is the in-process grid up to rounding, with every hospital's own ledger, failures and closed list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from fedrad.config import Experiment
from fedrad.errors import ConfigError, QuorumLost
from fedrad.federation import hospital, server
from fedrad.ledger.ledger import Ledger
from fedrad.model.export import import_peft
from fedrad.simulation import client as simulated_client
from fedrad.simulation import one_pass as fused
from fedrad.simulation.grid import InProcessGrid
from fedrad.simulation.one_pass import FusedGrid
from tests.grid import forget, simulated_nodes, small
from tests.model import tiny


class Listening:
    """Remembers what passed; put in front of a grid class."""

    replies: list[Any]

    def pull_messages(self, message_ids: Any) -> Any:
        found = super().pull_messages(message_ids)  # type: ignore[misc]
        self.replies = [*getattr(self, "replies", []), *found]
        return found


class ListeningFused(Listening, FusedGrid):
    pass


class ListeningOneByOne(Listening, InProcessGrid):
    pass


def run(experiment: Experiment, kind: type[InProcessGrid], app: ClientApp = simulated_client.app) -> Any:
    forget()
    config = experiment.flat()
    grid = kind(app, simulated_nodes(experiment.sites.count), config)
    server.app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(config)))
    return grid


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("base"), "bert")


def both(base: str, folder: Path, **changes: object) -> tuple[Any, Any]:
    one = run(small(base, run__out=str(folder / "one"), **changes), ListeningOneByOne)
    together = run(small(base, run__out=str(folder / "together"), **changes), ListeningFused)
    return one, together


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return import_peft(folder / "adapter")[1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sites__partition": "dirichlet", "sites__count": 5, "lora__targets": "all-linear", "model__pooling": "cls"},
        {"lora__targets": "", "strategy__weights": "declared"},
        {"train__optimizer": "adam", "train__learning_rate": 0.01},
        {"privacy__epsilon": 0.0, "lora__freeze_a": True},
        {"strategy__name": "rolora", "train__rounds": 3},
        {"strategy__name": "rolora", "strategy__alternate": "step"},
        {"strategy__name": "fedsb"},
        {"strategy__name": "fedex", "lora__targets": "all-linear"},
        {"strategy__name": "refactor", "train__rounds": 3},
        {"strategy__name": "flora", "sites__ranks": "2,1,2"},
        {"strategy__name": "flexlora", "sites__ranks": "1,1,2"},
        {"privacy__unit": "patient"},
        {"sites__fraction": 0.6, "train__rounds": 4},
        {"sites__epsilons": "8,2,1", "sites__batches": "8,4,8", "strategy__weights": "inverse-variance"},
    ],
)
def test_a_run_is_the_same_up_to_rounding(base: str, tmp_path: Path, changes: dict[str, object]) -> None:
    one, together = both(base, tmp_path, **changes)
    left, right = adapter(tmp_path / "one"), adapter(tmp_path / "together")
    assert left.keys() == right.keys()
    largest = max(float(tensor.abs().max()) for tensor in left.values())
    difference = max(float((left[name] - right[name]).abs().max()) for name in left)
    assert difference < 1e-4 * largest
    print(f"largest difference of a run: {difference / largest:.1e} of the largest entry")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "together")]
    for key in ("epsilon", "epsilon_max", "steps", "reports", "statement", "unconfirmed", "bytes"):
        assert results[0][key] == results[1][key]
    # What left, message by message: the same fields, and the same values beside the adapter.
    for mine, theirs in zip(one.replies, together.replies, strict=True):
        assert set(mine.content) == set(theirs.content)
        if "reply" in theirs.content:
            assert dict(mine.content["reply"]) == dict(theirs.content["reply"])


def test_noise_and_samples_are_each_hospital_s_own_as_before(base: str, tmp_path: Path) -> None:
    """Control: with another seed the difference is a thousand times what the test above allows."""
    run(small(base, run__out=str(tmp_path / "one")), InProcessGrid)
    run(small(base, run__out=str(tmp_path / "other"), train__seed=1), FusedGrid)
    left, right = adapter(tmp_path / "one"), adapter(tmp_path / "other")
    largest = max(float(tensor.abs().max()) for tensor in left.values())
    assert max(float((left[name] - right[name]).abs().max()) for name in left) > 0.1 * largest


def test_every_ledger_is_charged_as_one_by_one(base: str, tmp_path: Path) -> None:
    experiment = both(base, tmp_path)[0].run_config
    for index in range(3):
        rows = []
        for name in ("one", "together"):
            folder = tmp_path / name / "ledger" / f"site-{index:03}"
            delta = float(experiment["privacy.delta"])
            with Ledger.open(folder, site=f"site-{index:03}", cap=float("inf"), delta=delta) as ledger:
                rows.append([(row.round, row.steps, row.plan, row.done) for row in ledger.rows()])
        assert rows[0] == rows[1]
        assert [(number, steps, done) for number, steps, _, done in rows[1]] == [(1, 2, True), (2, 2, True)]


def test_the_intent_of_all_is_written_before_the_first_step(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*given: object) -> None:
        raise RuntimeError("zyzzyva, a report")

    monkeypatch.setattr(fused, "run_steps_together", dies)
    experiment = small(base, run__out=str(tmp_path / "run"))
    with pytest.raises(QuorumLost, match="internal"):
        run(experiment, FusedGrid)
    for index in range(3):
        folder = tmp_path / "run" / "ledger" / f"site-{index:03}"
        with Ledger.open(folder, site=f"site-{index:03}", cap=8.0, delta=experiment.privacy.delta) as ledger:
            assert [(row.round, row.steps, row.done) for row in ledger.rows()] == [(1, 2, False)]


def test_one_hospital_that_fails_does_not_stop_the_others(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = hospital.open_round

    def fails_at_one(directory: Path, *rest: Any) -> Any:
        if directory.name == "site-001" and rest[1].round == 1:
            raise ValueError("zyzzyva, a report")
        return real(directory, *rest)

    monkeypatch.setattr(hospital, "open_round", fails_at_one)
    grid = run(small(base, run__out=str(tmp_path / "run"), sites__quorum=2), ListeningFused)
    failures = [dict(m.content["failure"]) for m in grid.replies if "failure" in m.content]
    assert failures == [{"site": "site-001", "round": 1, "code": "internal"}]
    assert "zyzzyva" not in "".join(capfd.readouterr())
    # In round 2 it lags by two steps, so it trains on its own, and takes part.
    rounds = [dict(m.content["reply"])["round"] for m in grid.replies if "reply" in m.content]
    assert sorted(rounds) == [1, 1, 2, 2, 2]


def test_a_repeated_round_is_answered_with_the_same_bytes(base: str, tmp_path: Path) -> None:
    grid = run(small(base, run__out=str(tmp_path / "run")), Asked)
    again = grid.answer_together(grid.asked[-1])
    before = grid.told[-1]
    for content, message in zip(again, before, strict=True):
        assert content["reply"] == message.content["reply"]
        assert content["adapter"] == message.content["adapter"]


class Asked(FusedGrid):
    """Remembers the rounds' requests and replies."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: list[Any] = []
        self.told: list[Any] = []

    def answers(self, messages: Any) -> Any:
        replies = list(super().answers(messages))
        if any(message.metadata.message_type == "train" for message in messages):
            self.asked.append(list(messages))
            self.told.append(replies)
        return iter(replies)


def test_an_app_of_its_own_and_opacus_are_refused(base: str, tmp_path: Path) -> None:
    experiment = small(base, run__out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="--grid inprocess"):
        run(experiment, FusedGrid, ClientApp())
    with pytest.raises(ConfigError, match="leaf"):
        run(small(base, run__out=str(tmp_path / "run"), privacy__gradients="opacus"), FusedGrid)
