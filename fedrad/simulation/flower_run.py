"""``flwr run`` with an honest exit status and nothing left running.

``flwr run`` exits 0 even when the run fails, and its local SuperLink outlives it with the environment and working
directory of whoever started it first. Here every run has a Flower home and a SuperLink of its own, the run's status is
asked for, and the processes that were started are ended by their pids.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from fedrad.config import Experiment
from fedrad.errors import FederationError
from fedrad.report.chatter import is_chatter
from fedrad.simulation.superlink import log_tail, start_superlink


def run_flower(folder: Path, experiment: Experiment, *, verbose: bool = False) -> None:
    """One ``flwr run`` of the app with this configuration; prints what the run prints.

    Raises:
        FederationError: the run did not complete.
    """
    with tempfile.TemporaryDirectory(prefix="fedrad-", ignore_cleanup_errors=True) as home, _sigterm_unwinds():
        # Flower resolves the app's modules in processes that the SuperLink starts: they must find this environment.
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": home,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": home,
            "PYTHONUNBUFFERED": "1",
            **_without_proxy(os.environ),
        }
        configuration = Path(home) / "run.toml"
        configuration.write_text(experiment.to_toml())
        command = [_FLWR, "run", str(folder), "--stream", "--run-config", str(configuration)]
        command += ["--federation-config", _federation(experiment)]
        run_id, status, details, port = None, "never started", "", 0
        try:
            port = start_superlink(Path(home), environment)
            run_id, said = _streamed(command, environment, verbose)
            if run_id is None:
                details = f"{said} {log_tail(Path(home))}"
            else:
                status, details = _final_status(run_id, environment)
        finally:
            if not status.startswith("finished"):
                _stop_runs(environment)
            _end_processes(home, port)
    if status != "finished:completed":
        raise FederationError(f"the run did not complete ({status}). {details}".strip())


_FLWR = str(Path(sys.executable).parent / "flwr")


def _without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Flower's processes talk to each other on loopback, over HTTP: none of that is for a proxy."""
    given = (environment.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    hosts = ",".join(filter(None, [*given, "127.0.0.1,localhost"]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def _streamed(command: Sequence[str], environment: Mapping[str, str], verbose: bool) -> tuple[str | None, str]:
    """Runs ``flwr run``, prints its stream, and returns the run's id, if there was a run, and its last lines."""
    run_id, last = None, list[str]()
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            for line in process.stdout or ():
                if found := re.search(r"Successfully started run (\d+)", line):
                    run_id = found[1]
                last = [*last[-4:], line.strip()]
                if verbose or not is_chatter(line):
                    print(line, end="", flush=True)
        except BaseException:
            process.terminate()  # else leaving the block would wait for it
            raise
    return run_id, " ".join(line for line in last if line)


def _federation(experiment: Experiment) -> str:
    """Virtual nodes and their share of the machine. Hospitals are logical: a node serves several where needed."""
    cores = os.cpu_count() or 1
    per_client = max(1, min(experiment.train.threads, cores))
    nodes = max(1, min(experiment.sites.count, 2 * cores // per_client))
    # Ray hides the GPUs from a process that has no share of one.
    gpus = "" if experiment.train.device == "cpu" else f" client-resources-num-gpus={_gpu_share(cores // per_client)}"
    return (
        f"num-supernodes={nodes} client-resources-num-cpus={per_client}{gpus} init-args-num-cpus={cores}"
        " init-args-log-to-driver=true"
    )


def _gpu_share(processes: int) -> float:
    """So that all processes that the cores allow find room on the GPUs; 0 where there is no GPU to share."""
    import torch  # seconds, and this process needs nothing else of it

    gpus = torch.cuda.device_count()
    return 1 / math.ceil(max(1, processes) / gpus) if gpus else 0.0


def _final_status(run_id: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The run's status and details; the log stream can end a moment before they are final."""
    status, details = "unknown", ""
    for _ in range(30):
        try:
            run = json.loads(_flower(["list", "--run-id", run_id, "--format", "json"], environment))["runs"][0]
        except (json.JSONDecodeError, KeyError, IndexError):
            run = {}
        status, details = str(run.get("status", status)), str(run.get("status-details") or details)
        if status.startswith("finished"):
            break
        time.sleep(1)
    return status, details


def _stop_runs(environment: Mapping[str, str]) -> None:
    """Asks Flower to stop what is still running, so that Ray is shut down by the process that started it."""
    with suppress(json.JSONDecodeError, KeyError):
        for run in json.loads(_flower(["list", "--format", "json"], environment))["runs"]:
            if not str(run["status"]).startswith("finished"):
                _flower(["stop", str(run["run-id"])], environment)
                time.sleep(3)


def _flower(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a ``flwr`` command prints; nothing if it takes too long."""
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(
            [_FLWR, *arguments], env=environment, text=True, capture_output=True, check=False, timeout=60
        ).stdout
    return ""


def _end_processes(home: str, port: int) -> None:
    """Ends what this run started, by pid: first politely, then not."""
    for _ in range(3):
        family = _family(home, port)
        if not family:
            return
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    end(process)
            _, family = psutil.wait_procs(family, timeout=15)


def _family(home: str, port: int) -> list[psutil.Process]:
    """The processes that have our own Flower home or port, and their descendants.

    Ray's processes write over their environment when they set their titles, so they are found as descendants.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get("FLWR_HOME") == home:
                found |= {member.pid: member for member in (process, *process.children(recursive=True))}
    with suppress(psutil.AccessDenied):  # macOS shows the ports of others to root only
        for connection in psutil.net_connections("tcp"):
            ours = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if ours and connection.pid and connection.pid not in found:
                with suppress(psutil.NoSuchProcess):
                    found[connection.pid] = psutil.Process(connection.pid)
    return list(found.values())


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Turns SIGTERM into an exception while a run is on, so that its processes are ended."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
