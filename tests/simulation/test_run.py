"""``fedrad simulate`` before and around a run: the caller's paths, an honest exit status, what it ends.

Flower's commands are replaced by small ones here. The real ``flwr run`` is in ``test_real_runs.py``, the run in one
process in ``test_in_process.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from fedrad.config import Experiment
from fedrad.errors import ConfigError, FederationError
from fedrad.simulation import flower_run, in_process, simulate, superlink
from fedrad.simulation.apps import app_folder

ROOT = Path(__file__).parents[2]


# What is settled before anything starts


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Experiment]]:
    """The runs that would have been started."""
    runs: list[tuple[Path, Experiment]] = []
    monkeypatch.setattr(in_process, "run_in_process", lambda folder, exp, **options: runs.append((folder, exp)))
    return runs


def test_relative_paths_are_the_callers(
    planned: list[tuple[Path, Experiment]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    simulate.simulate("openi", ["data.path=reports", "model.name=./bert"], Path("results"))

    ((folder, exp),) = planned
    assert folder == ROOT / "simulations" / "openi"
    assert (exp.data.path, exp.model.name, exp.run.out) == (
        str(tmp_path / "reports"),
        str(tmp_path / "bert"),
        str(tmp_path / "results"),
    )
    assert exp.relative_paths() == []


def test_without_out_the_run_directory_is_the_callers_too(
    planned: list[tuple[Path, Experiment]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    simulate.simulate("mimic")
    simulate.simulate("mimic", ["run.name=tight"])

    first, second = (Path(exp.run.out) for _, exp in planned)
    assert first.parent == second.parent == tmp_path / "runs"
    assert first.name.endswith("-mimic")
    assert second.name.endswith("-tight")


def test_overrides_win_over_the_app_and_the_app_over_the_defaults(planned: list[tuple[Path, Experiment]]) -> None:
    simulate.simulate("openi", ["data.path=/x", "privacy.epsilon=1", "lora.targets="])

    ((_, exp),) = planned
    assert (exp.privacy.epsilon, exp.lora.targets, exp.data.name) == (1.0, (), "openi")


def test_every_mistake_is_told_and_nothing_starts(planned: list[tuple[Path, Experiment]]) -> None:
    with pytest.raises(ConfigError) as raised:
        simulate.simulate("openi", ["privacy.epsilom=1", "sites.count=0"])

    assert len(raised.value.problems) == 3  # and data.path is missing
    assert planned == []


def test_all_in_one_process_unless_flower_is_asked_for(
    planned: list[tuple[Path, Experiment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    flower: list[tuple[Path, Experiment]] = []
    monkeypatch.setattr(flower_run, "run_flower", lambda folder, exp, *, verbose: flower.append((folder, exp)))

    simulate.simulate("mimic", out=Path("/results"))
    assert (len(planned), len(flower)) == (1, 0)
    simulate.simulate("mimic", out=Path("/results"), grid="flower")

    (here, (folder, exp)) = planned[0], flower[0]
    assert (folder, exp.training_digest(), exp.run.app) == (here[0], here[1].training_digest(), "mimic")
    assert (here[1].run.grid, exp.run.grid) == ("inprocess", "flower")


def test_an_app_is_a_name_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")

    assert app_folder("mimic") == ROOT / "simulations" / "mimic"
    assert app_folder("ct-rate") == app_folder("ct_rate") == ROOT / "simulations" / "ct_rate"
    assert app_folder(str(tmp_path)) == tmp_path
    with pytest.raises(ConfigError, match="ct_rate, mimic, openi"):
        app_folder("nowhere")


@pytest.mark.parametrize(("sites", "threads"), [(1, 1), (3, 64), (500, 1)])
def test_there_are_no_more_nodes_than_hospitals(sites: int, threads: int) -> None:
    text = flower_run._federation(Experiment.from_flat({"sites.count": sites, "train.threads": threads}))

    given = dict(pair.split("=") for pair in text.split())
    cores = os.cpu_count() or 1
    assert 1 <= int(given["num-supernodes"]) <= min(sites, 2 * cores)
    # A client that asks for more than there is would wait for ever.
    assert 1 <= int(given["client-resources-num-cpus"]) <= int(given["init-args-num-cpus"]) == cores


# The status of a run: Flower's command is replaced by one that says what the test wants


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``flwr`` that does nothing and exits with 0; ``run`` prints ``run.txt``, ``list`` prints ``list.txt``. Its
    SuperLink answers and does nothing."""
    write_superlink(tmp_path / "flower-superlink")
    monkeypatch.setattr(superlink, "FLOWER_SUPERLINK", str(tmp_path / "flower-superlink"))
    fake = tmp_path / "flwr"
    fake.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import json, os, pathlib, sys
            here = pathlib.Path({str(tmp_path)!r})
            with (here / "calls.txt").open("a") as calls:
                print(*sys.argv[1:], file=calls)
            (here / "environment.json").write_text(json.dumps(dict(os.environ)))
            file = here / f"{{sys.argv[1]}}.txt"
            print(file.read_text() if file.exists() else "", end="")
            """)
    )
    fake.chmod(0o700)
    monkeypatch.setattr(flower_run, "_FLWR", str(fake))
    return tmp_path


def write_superlink(file: Path, before: str = "") -> None:
    """A ``flower-superlink`` that answers on its port, once ``before`` has run."""
    file.write_text(
        textwrap.dedent("""\
            import pathlib, sys
            from http.server import BaseHTTPRequestHandler, HTTPServer

            here = pathlib.Path(__file__).parent
            with (here / "starts.txt").open("a") as starts:
                print(*sys.argv[1:], file=starts)

            class Health(BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(200 if self.path == "/health" else 404)
                    self.end_headers()

            """)
        + before
        + '\nHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()\n'
    )
    file.write_text(f"#!{sys.executable}\n{file.read_text()}")
    file.chmod(0o700)


def status(folder: Path, status: str, details: str = "N/A") -> None:
    run = {"run-id": "77", "status": status, "status-details": details}
    (folder / "list.txt").write_text(json.dumps({"success": True, "runs": [run]}))


STARTED = "Successfully started run 77\n\x1b[92mINFO \x1b[0m:      [ROUND 1/2]\nround 1/2  test weighted F1 0.5\n"


def test_a_completed_run_is_a_success_and_its_lines_are_shown(flwr: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (flwr / "run.txt").write_text(STARTED)
    status(flwr, "finished:completed")

    simulate.simulate("mimic", grid="flower")
    quiet = capfd.readouterr().out
    simulate.simulate("mimic", grid="flower", verbose=True)
    verbose = capfd.readouterr().out

    assert "round 1/2" in quiet
    assert "ROUND 1/2" not in quiet
    assert "ROUND 1/2" in verbose


@pytest.mark.parametrize("outcome", ["finished:failed", "finished:stopped"])
def test_a_run_that_failed_is_an_error_with_its_reason_though_flwr_exits_with_0(flwr: Path, outcome: str) -> None:
    (flwr / "run.txt").write_text(STARTED)
    status(flwr, outcome, "round 1: 1 of 3 hospitals")

    with pytest.raises(FederationError, match=rf"{outcome}.*round 1: 1 of 3 hospitals"):
        simulate.simulate("mimic", grid="flower")


@pytest.mark.parametrize("given", [{}, {"no_proxy": "intern.example", "NO_PROXY": "other.example"}])
def test_nothing_on_loopback_goes_through_a_proxy(
    flwr: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    """A proxy at a port where nobody listens: neither our question nor Flower's may go there."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"} | given).items():
        monkeypatch.setenv(name, value)
    (flwr / "run.txt").write_text(STARTED)
    status(flwr, "finished:completed")

    simulate.simulate("mimic", grid="flower")

    environment = json.loads((flwr / "environment.json").read_text())
    assert environment["no_proxy"] == environment["NO_PROXY"]
    assert {"127.0.0.1", "localhost", *given.values()} == set(environment["no_proxy"].split(","))


def test_a_superlink_that_ends_is_started_once_more_on_another_port(flwr: Path) -> None:
    dies_once = 'if len((here / "starts.txt").read_text().splitlines()) < 2: sys.exit("no memory")'
    write_superlink(flwr / "flower-superlink", dies_once)
    (flwr / "run.txt").write_text(STARTED)
    status(flwr, "finished:completed")

    simulate.simulate("mimic", grid="flower")

    starts = [line.split() for line in (flwr / "starts.txt").read_text().splitlines()]
    ports = [start[start.index("--port") + 1] for start in starts]
    assert len(set(ports)) == 2


def test_one_that_ends_twice_is_an_error_with_the_end_of_its_log(flwr: Path) -> None:
    write_superlink(flwr / "flower-superlink", 'print("x" * 9999); sys.exit("ImportError: no module ray")')
    with pytest.raises(FederationError) as raised:
        simulate.simulate("mimic", grid="flower")
    said = str(raised.value)
    assert "twice: it ended with exit code 1, then it ended with exit code 1" in said
    assert said.endswith("ImportError: no module ray")
    assert len((flwr / "starts.txt").read_text().splitlines()) == 2
    assert not (flwr / "calls.txt").exists() or "run " not in (flwr / "calls.txt").read_text()


def test_one_that_never_answers_is_given_more_time_and_then_ended(flwr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = superlink.PATIENCE
    assert 15 < first < second  # longer than Flower's own
    monkeypatch.setattr(superlink, "PATIENCE", (0.5, 1.0))
    note = "(here / f\"{__import__('os').getpid()}.pid\").touch()"
    write_superlink(flwr / "flower-superlink", f"{note}; import time; time.sleep(600)")
    with pytest.raises(FederationError, match=r"did not answer within 0\.5 s, then it did not answer within 1 s"):
        simulate.simulate("mimic", grid="flower")
    assert not any(alive(int(file.stem)) for file in flwr.glob("*.pid"))


def test_flower_that_is_not_installed_is_an_error(flwr: Path) -> None:
    (flwr / "flower-superlink").unlink()
    with pytest.raises(FederationError, match=r"can't be started.*Install flwr\[simulation\]"):
        simulate.simulate("mimic", grid="flower")


def test_a_run_that_never_started_is_an_error_with_what_flwr_said(flwr: Path) -> None:
    (flwr / "run.txt").write_text("Error\n[code: 15] Invalid run configuration\n")

    with pytest.raises(FederationError, match=r"never started.*Invalid run configuration"):
        simulate.simulate("mimic", grid="flower")


def test_a_run_that_is_interrupted_is_stopped(flwr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (flwr / "run.txt").write_text(STARTED)
    status(flwr, "running")
    monkeypatch.setattr(flower_run.time, "sleep", lambda seconds: None)

    def interrupted(*_: object) -> tuple[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(flower_run, "_final_status", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate.simulate("mimic", grid="flower")

    assert "stop 77" in (flwr / "calls.txt").read_text()


# Ending processes


def stubborn(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process that ignores SIGTERM, in a session of its own, with a child that has lost its environment."""
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], env={});"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alive(pid: int) -> bool:
    """Whether it runs; where nobody reaps orphans, a zombie stays behind."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_a_run_started_is_ended_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = psutil.wait_procs
    monkeypatch.setattr(psutil, "wait_procs", lambda processes, timeout: wait(processes, min(timeout, 1.0)))
    ours, other = stubborn({"FLWR_HOME": str(tmp_path)}), stubborn({"FLWR_HOME": str(tmp_path / "other")})
    assert ours.stdout is not None
    assert other.stdout is not None
    children = [int(process.stdout.readline()) for process in (ours, other) if process.stdout]
    try:
        flower_run._end_processes(str(tmp_path), port=1)

        assert [alive(pid) for pid in (ours.pid, other.pid, *children)] == [False, True, False, True]
    finally:
        for pid in (ours.pid, other.pid, *children):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        other.wait(5)
