"""A run that is cut off anywhere goes on from its last finished round: the same bits, and no step charged twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.simulation import centralized, simulate
from fedrad.training import warm_start
from fedrad.training.unfinished import alone_in, experiment_of
from tests.faults import Killed, faults, points
from tests.simulation.left import Left
from tests.simulation.test_in_process import settings


@pytest.fixture(autouse=True)
def _few_centring_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", 40)


def small_settings(**changes: object) -> dict[str, object]:
    return settings(
        **{"sites__count": 2, "data__reports": 60, "train__average": 0.75, "model__centre": False} | changes
    )


def simulated(out: Path, grid: simulate.GridName, **changes: object) -> None:
    given = [f"{key}={json.dumps(value)}" for key, value in small_settings(**changes).items()]
    simulate.simulate("mimic", given, out, grid=grid)


def central(out: Path, **changes: object) -> None:
    centralized.train(Experiment.from_flat(small_settings(sites__count=1, run__out=str(out), **changes)))


def cut_off_anywhere(
    tmp_path: Path,
    begin: Callable[[Path], None],
    go_on: Callable[[Path], Any],
    *,
    at: str = "",
    bits: Callable[[str], bool] = lambda _: True,
) -> None:
    """Begins the run again and again, each time cut off at another of ``points``, and goes on with it.

    Args:
        at: before which changes.
        bits: whether a run that was cut off before this change has the same bits.
    """
    with faults(tmp_path / "whole") as counted:
        begin(tmp_path / "whole")
    undisturbed = Left(tmp_path / "whole")
    started = counted.passed.index("rename /experiment.toml") + 1  # before, there is no run to go on with
    cuts = points(counted.passed, started + 1, at=at)
    assert len(cuts) > 8
    for cut_at in cuts:
        out = tmp_path / f"cut-{cut_at}"
        with faults(out, cut_at) as cut, pytest.raises(Killed):
            begin(out)
        assert cut.passed == counted.passed[:cut_at]
        go_on(out)
        Left(out).check(undisturbed, bits=bits(cut.passed[-1]))


@pytest.mark.slow
def test_centralized_training_goes_on(tmp_path: Path) -> None:
    cut_off_anywhere(tmp_path, central, lambda out: centralized.train(experiment_of(out)))


@pytest.mark.slow
def test_a_simulation_goes_on(tmp_path: Path) -> None:
    """With a strategy that keeps a state of its own at the server."""
    cut_off_anywhere(tmp_path, lambda out: simulated(out, "inprocess", strategy__name="fedavgm"), simulate.resume)


@pytest.mark.slow
def test_a_server_that_adds_the_noise_goes_on(tmp_path: Path) -> None:
    """What the server's own ledger adds to the simulation above: the changes to it and to what follows it."""

    def begin(out: Path) -> None:
        simulated(out, "inprocess", privacy__unit="hospital", privacy__delta=1e-3)

    cut_off_anywhere(tmp_path, begin, simulate.resume, at=r"/ledger/server|checkpoint|metrics|certificate")


@pytest.mark.slow
def test_all_hospitals_in_one_pass_go_on(tmp_path: Path) -> None:
    """All are charged before one trains: the changes inside a round come in another order than above.

    The pass of a round that is repeated is smaller where some hospitals had kept their answers: then sums of other
    shapes are rounded otherwise."""
    kept = ("round.safetensors", "ledger.sqlite")
    cut_off_anywhere(
        tmp_path,
        lambda out: simulated(out, "fused"),
        simulate.resume,
        at=r"/ledger/|checkpoint",
        bits=lambda last: not last.endswith(kept),
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedrad", *arguments]


def set_all(changes: dict[str, object]) -> list[str]:
    return [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.mark.slow
@pytest.mark.parametrize("way", [["centralized"], ["simulate", "mimic"]])
def test_kill_9_and_resume_by_the_command_line(tmp_path: Path, way: list[str]) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    undisturbed = {"centralized": central, "simulate": partial(simulated, grid="inprocess")}  # in this process
    given = set_all(small_settings(train__rounds=6))
    process = subprocess.Popen(command(*way, *given, "--out", str(out)), stdout=subprocess.DEVNULL)
    while rounds_in(out) < 1:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists()
    subprocess.run(command(way[0], "--resume", str(out)), check=True, stdout=subprocess.DEVNULL)
    undisturbed[way[0]](whole, train__rounds=6)

    Left(out).check(Left(whole))


def rounds_in(out: Path) -> int:
    try:
        with safe_open(out / "checkpoint.safetensors", framework="np") as file:
            return int(file.metadata()["round"])
    except OSError:
        return 0


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A simulation that was cut off after the first of its rounds."""
    with faults(tmp_path / "whole") as counted:
        simulated(tmp_path / "whole", "inprocess")
    rounds = [i for i, change in enumerate(counted.passed, start=1) if change.endswith("metrics.jsonl")]
    with faults(tmp_path / "out", rounds[1]), pytest.raises(Killed):
        simulated(tmp_path / "out", "inprocess")
    return tmp_path / "out"


def test_what_can_not_be_resumed_says_why(unfinished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        simulate.resume(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is finished"):
        simulate.resume(tmp_path / "whole")
    with pytest.raises(ConfigError, match="fedrad simulate --resume"):
        centralized.train(experiment_of(unfinished))
    held = alone_in(unfinished)
    with pytest.raises(ConfigError, match="another process is still at work"):
        simulate.resume(unfinished)
    os.close(held)
    moved = unfinished.rename(tmp_path / "moved")
    simulate.resume(moved)
    Left(moved).check(Left(tmp_path / "whole"))
