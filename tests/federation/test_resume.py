"""A run with real hospitals that is cut off anywhere, at the server, at the hospital or both, and goes on."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from safetensors.torch import load_file

from fedrad.config import Experiment
from fedrad.errors import ConfigError, QuorumLost
from fedrad.federation import client, server
from fedrad.federation.flower_internals import PROCESS_DIED
from fedrad.ledger.view import read_ledger
from fedrad.training import warm_start
from tests import small
from tests.faults import Killed, faults, points
from tests.grid import InProcessGrid, Mercy
from tests.secure_run import SITES, five, run, stage_of

_runs = count(100)


@pytest.fixture(autouse=True)
def _few_centring_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", 40)


class DiesAlone(InProcessGrid):
    """A hospital's process that dies takes nobody along: the server gets Flower's error."""

    def answer(self, message: Message) -> Message:
        try:
            return super().answer(message)
        except Killed:
            return Message(Error(min(PROCESS_DIED), "the process died"), reply_to=message)


def one_run(mercy: Mercy, grid: type[InProcessGrid] = InProcessGrid, **changes: object) -> None:
    """The whole ServerApp with this one hospital; each time under another run id of Flower's."""
    config = mercy.experiment.flat() | {"data.path": str(mercy.table), "run.out": str(mercy.folder / "run")} | changes
    experiment = Experiment.from_flat(config)
    context = Context(
        run_id=next(_runs), node_id=0, node_config={}, state=RecordDict(), run_config=dict(experiment.flat())
    )
    server.app(grid(client.app, [mercy.node], experiment.flat()), context)


def result(mercy: Mercy) -> tuple[dict[str, Any], list[tuple[int, bool]], float]:
    view = read_ledger(Path(mercy.node["state-dir"]))
    return (
        load_file(mercy.folder / "run" / "checkpoint.safetensors"),
        [(r.round, r.done) for r in view.rows],
        view.epsilon,
    )


def looked_at(mercy: Mercy) -> None:
    """What a person does after a crash at the hospital."""
    (Path(mercy.node["state-dir"]) / "stopped").unlink(missing_ok=True)


def resumed(mercy: Mercy) -> None:
    looked_at(mercy)
    unfinished = (mercy.folder / "run" / "experiment.toml").exists()
    if not (mercy.folder / "run" / "result.json").exists():
        one_run(mercy, **({"run.resume": True} if unfinished else {}))


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "at"), [(InProcessGrid, ""), (DiesAlone, "/state/|/witness/")])
def test_a_hospital_or_the_whole_machine_dies_anywhere(
    base: str, tmp_path: Path, grid: type[InProcessGrid], at: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """``DiesAlone``: the server asks again, and ends for want of a quorum where the hospital has locked itself out. The
    two differ only where it is the hospital that dies."""
    whole = Mercy(tmp_path / "whole", base=base)
    with faults(whole.folder) as counted:
        one_run(whole)
    tensors, rows, epsilon = result(whole)
    assert rows == [(1, True), (2, True)]
    first = next(i for i, change in enumerate(counted.passed) if "/run/start" in change)
    cuts = points(counted.passed, first + 2, at=at)
    assert len(cuts) > 8
    for cut_at in cuts:
        mercy = Mercy(tmp_path / f"cut-{cut_at}", base=base)
        mercy.experiment = Experiment.from_flat(mercy.experiment.flat() | {"model.name": base})
        try:
            with faults(mercy.folder, cut_at) as cut:
                one_run(mercy, grid)
        except (Killed, QuorumLost):
            pass
        resumed(mercy)
        after, charged, spent = result(mercy)
        assert (charged, spent) == (rows, epsilon), cut.passed[-1]
        assert small.same(after, tensors), cut.passed[-1]
    capfd.readouterr()


def interrupted(mercy: Mercy) -> None:
    """Cut off when the first round is finished and the second has not begun."""
    with faults(mercy.folder) as counted:
        one_run(mercy)
    at = [i for i, change in enumerate(counted.passed, start=1) if change.endswith("metrics.jsonl")][1]
    again = Mercy(mercy.folder / "again", base=mercy.experiment.model.name)
    mercy.__dict__.update(again.__dict__)
    with faults(mercy.folder, at), pytest.raises(Killed):
        one_run(mercy)


def test_other_settings_other_code_and_another_hospital_are_refused(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mercy = Mercy(tmp_path / "mercy", base=base)
    interrupted(mercy)
    with pytest.raises(ConfigError, match=r"run\.out: .* is not an empty folder.*--resume"):
        one_run(mercy)
    with pytest.raises(ConfigError, match=r"privacy\.clip: a resumed run keeps its settings"):
        one_run(mercy, **{"run.resume": True, "privacy.clip": 2.0})
    with monkeypatch.context() as patch:
        patch.setattr("fedrad.training.checkpoint.version", lambda name: "9.9")
        with pytest.raises(ConfigError, match=r"was begun with .*fedrad \S+ \(now 9\.9\)"):
            one_run(mercy, **{"run.resume": True})
    node = dict(mercy.node)
    mercy.node["declared-size"] = 50
    with pytest.raises(ConfigError, match="mercy declares another size"):
        one_run(mercy, **{"run.resume": True})
    mercy.node = node
    assert [round for round, _ in result(mercy)[1]] == [1]

    one_run(mercy, **{"run.resume": True})
    with pytest.raises(ConfigError, match="is finished"):
        one_run(mercy, **{"run.resume": True})


# Secure aggregation: a masked round is not repeated


def test_a_masked_round_that_was_cut_off_is_left_out(base: str, tmp_path: Path) -> None:
    experiment = five(base, tmp_path / "run", train__rounds=3)

    def dies(node: int, message: Message) -> bool:
        record = message.content.config_records.get("stage-request")
        if stage_of(message) == "unmask" and record is not None and record["round"] == 2:
            raise Killed
        return False

    with pytest.raises(Killed):
        run(experiment, fails=dies)
    charged = {site: len(read_ledger(tmp_path / "run" / "ledger" / site).rows) for site in SITES}
    assert set(charged.values()) == {2}
    grid, _, figures = run(Experiment.from_flat(experiment.flat() | {"run.resume": True}))

    assert figures["missed_rounds"] == {site: [2] for site in SITES}
    assert figures["unconfirmed"] == []  # their next answers said what round 2 had cost
    assert grid.sites("train") == SITES
    views = [read_ledger(tmp_path / "run" / "ledger" / site) for site in SITES]
    assert [[row.round for row in view.rows] for view in views] == [[1, 2, 3]] * 5
    assert figures["epsilon"] == {view.site: view.epsilon for view in views}


def test_a_masked_run_that_was_cut_off_between_rounds_loses_none(base: str, tmp_path: Path) -> None:
    experiment = five(base, tmp_path / "run")
    with faults(tmp_path / "run") as counted:
        run(experiment)
    before_round_2 = [i for i, change in enumerate(counted.passed, 1) if change.endswith("checkpoint.safetensors")][3]
    again = five(base, tmp_path / "again")
    with faults(tmp_path / "again", before_round_2), pytest.raises(Killed):
        run(again)
    _, _, figures = run(Experiment.from_flat(again.flat() | {"run.resume": True}))

    assert figures["missed_rounds"] == {}
