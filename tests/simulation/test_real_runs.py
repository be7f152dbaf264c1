"""The real ``flwr run``, held bit by bit to the run in one process and, with one hospital, to centralized training.

Nothing is left running.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from fedrad.config import Experiment
from fedrad.simulation import centralized, flower_run, simulate, superlink
from tests import small
from tests.simulation.left import Left

ROOT = Path(__file__).parents[2]
LIMIT = 900  # seconds that one real run may take on a machine that does other things as well
MARK = "FEDRAD_TEST_MARK"


def settings(**changes: object) -> dict[str, object]:
    """As small as a run gets: a tiny model, few reports, two rounds of three steps."""
    flat: dict[str, object] = {
        "model.name": small.model_folder(),
        "data.bank": "chest-xray",
        "data.reports": 120,
        "data.max-length": 40,
        "lora.rank": 2,
        "lora.targets": "query,value",
        "privacy.noise": "seeded",
        "train.rounds": 2,
        "train.local-steps": 3,
        "train.batch": 16,
        "train.threads": 1,
        "train.warm-start": "synthetic",
        "train.warm-reports": 64,
        "train.warm-epochs": 1,
        "sites.connect-timeout": 300.0,
    }
    return flat | {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}


def overrides(changes: Mapping[str, object]) -> list[str]:
    """Settings as ``--set`` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


@dataclass(frozen=True)
class Caller:
    """Somebody in a folder of their own who calls ``fedrad`` or ``flwr``. What they start carries a mark."""

    folder: Path
    mark: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            MARK: self.mark,
            "FEDRAD_CACHE": str(self.folder / "cache"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, command: list[str], **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | more,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def simulate(self, changes: Mapping[str, object], *arguments: str) -> subprocess.Popen[str]:
        """The real ``flwr run``."""
        sets = [part for text in overrides(changes) for part in ("--set", text)]
        return self.start([sys.executable, "-m", "fedrad", "simulate", "mimic", "--grid", "flower", *sets, *arguments])

    def left(self) -> list[psutil.Process]:
        """What carries the mark and still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    someone = Caller(tmp_path, uuid.uuid4().hex)
    yield someone
    for process in someone.left():
        process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output, within the limit."""
    try:
        said, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # the wrapper ends what it started
        said, _ = process.communicate(timeout=120)
        pytest.fail(f"no end within {LIMIT} s:\n{said}")
    return process.returncode, said


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_three_hospitals_are_the_same_through_flwr_run_and_in_one_process(caller: Caller) -> None:
    changes = settings(sites__count=3)
    code, said = ended(caller.simulate(changes, "--out", "results", "--verbose"))

    assert code == 0, said
    assert caller.left() == []
    ports = {int(port) for port in re.findall(r"SuperLink on 127\.0\.0\.1:(\d+)", said)}
    assert [listens(port) for port in ports] == [False]
    results = caller.folder / "results"
    result = json.loads((results / "result.json").read_text())
    assert sorted(result["epsilon"]) == ["site-000", "site-001", "site-002"]
    assert all(0 < value <= 8.0 for value in result["epsilon"].values())
    assert sorted(path.name for path in (results / "ledger").iterdir()) == sorted(result["epsilon"])
    assert {"adapter", "experiment.toml", "metrics.jsonl", "result.json"} <= {path.name for path in results.iterdir()}
    assert Experiment.load(results / "experiment.toml").sites.count == 3
    assert all(word in said for word in ("weighted F1", "epsilon site-002", "seeded: simulation only"))

    one, other = caller.folder / "in-process", caller.folder / "other-seed"
    simulate.simulate("mimic", overrides(changes), one)
    simulate.simulate("mimic", overrides(changes | {"train.seed": 1}), other)

    assert (one / "metrics.jsonl").read_text() == (results / "metrics.jsonl").read_text()
    assert json.loads((one / "result.json").read_text())["epsilon"] == result["epsilon"]
    files = ["adapter/adapter_model.safetensors", "adapter/head.safetensors", "checkpoint.safetensors"]
    for file in files:
        left, right = load_file(one / file), load_file(results / file)
        assert len(left) > 0
        assert small.same(left, right)
    # The comparison would see a difference: another seed gives another adapter.
    assert not any(small.same(load_file(other / file), load_file(results / file)) for file in files)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_one_hospital_is_centralized_to_the_last_bit(caller: Caller) -> None:
    """Through other processes, another cache, and another way to cut the steps into rounds."""
    code, said = ended(caller.simulate(settings(sites__count=1), "--out", "one"))
    assert code == 0, said
    one = caller.folder / "one"

    changes = {"run__out": str(caller.folder / "central"), "train__rounds": 1, "train__local_steps": 6}
    result, directory = centralized.train(Experiment.from_flat(settings(**changes)))

    for file in ("adapter_model.safetensors", "head.safetensors"):
        assert small.same(load_file(one / "adapter" / file), load_file(directory / "adapter" / file))
    assert json.loads((one / "result.json").read_text())["epsilon"] == result.epsilon


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_sigterm_in_the_middle_ends_everything_and_the_run_can_be_gone_on_with(caller: Caller) -> None:
    changes = settings(train__rounds=30)
    process = caller.simulate(changes, "--out", "results")
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("round 1/"):
            break
    else:
        pytest.fail("the run ended too early:\n" + "".join(seen))
    running = caller.left()
    assert len(running) > 3  # or the test would show nothing

    process.send_signal(signal.SIGTERM)

    code, said = ended(process)
    assert code == 128 + signal.SIGTERM, said
    assert caller.left() == []
    results, whole = caller.folder / "results", caller.folder / "whole"
    assert not (results / "result.json").exists()

    simulate.resume(results)  # through flwr run, as it began

    simulate.simulate("mimic", overrides(changes), whole)
    Left(results).check(Left(whole))


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_flwr_run_alone_refuses_a_relative_path(caller: Caller) -> None:
    """Its local SuperLink runs where it was first started, which may be anywhere."""
    port, home = superlink.free_port(), str(caller.folder / "home")
    own = {"FLWR_HOME": home, "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port), "RAY_TMPDIR": "/tmp"}
    config = 'data.name="table" data.path="reports.csv" data.label-columns="edema,fracture"'
    try:
        ran, said = ended(
            caller.start(["flwr", "run", str(ROOT / "simulations/mimic"), "--stream", "--run-config", config], **own)
        )
        assert ran == 0  # which is why there is a wrapper
        deadline = time.monotonic() + 60
        while True:
            _, listed = ended(caller.start(["flwr", "list", "--format", "json"], **own))
            (run,) = json.loads(listed[listed.index("{") :])["runs"]
            if run["status"].startswith("finished") or time.monotonic() > deadline:
                break
        assert run["status"] == "finished:failed", said
        assert "data.path: give an absolute path" in run["status-details"]
    finally:
        flower_run._end_processes(home, port)
    assert caller.left() == []
