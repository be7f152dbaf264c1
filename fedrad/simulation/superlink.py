"""Flower's SuperLink for one simulation, started with patience.

``flwr run`` would start one itself, and kill it unless it answers within 15 seconds, a constant of Flower's: a loaded
machine takes longer to import it. And it would ask whether it answers through ``http_proxy``, where there is one.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fedrad.errors import FederationError

FLOWER_SUPERLINK = str(Path(sys.executable).parent / "flower-superlink")
PATIENCE = (90.0, 240.0)  # seconds that the first and the second attempt may take
_SIGN_OF_LIFE = 20.0


def start_superlink(home: Path, environment: Mapping[str, str]) -> int:
    """Starts a SuperLink of this run's own on a free port of loopback, makes it the default of this Flower home, and
    waits until it answers. One that ends or takes too long is started once more, with more patience.

    Args:
        home: an existing folder, ``FLWR_HOME`` of ``environment``.

    Returns:
        the port.

    Raises:
        FederationError: twice in vain; with the last lines of its log, which is gone with the folder.
    """
    problems = []
    for patience in PATIENCE:
        port = free_port()
        print(f"starting Flower: SuperLink on 127.0.0.1:{port} ...", flush=True)
        process = _started(home, environment, port)
        if not (problem := _trouble(process, port, patience)):
            (home / "config.toml").write_text(
                f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
            )
            return port
        process.kill()
        process.wait()
        problems.append(problem)
    raise FederationError(
        f"Flower's SuperLink did not start, twice: {problems[0]}, then {problems[1]}. The machine may be too busy for"
        f" it, or too short of memory; --grid inprocess does without. {log_tail(home)}"
    )


def _started(home: Path, environment: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    command = [FLOWER_SUPERLINK, "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--database", str(home / "state.db")]
    try:
        with log_file(home).open("ab") as log:
            # In a session of its own: Ctrl-C is for us, who end it in order.
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
    except OSError as error:
        raise FederationError(
            f"Flower can't be started: {FLOWER_SUPERLINK}: {error.strerror}. Install flwr[simulation] beside"
            " fedrad, or take --grid inprocess."
        ) from None


def _trouble(process: subprocess.Popen[bytes], port: int, patience: float) -> str:
    """Why it does not answer; nothing once it does."""
    begun = told = time.monotonic()
    while process.poll() is None:
        if _answers(port):
            return ""
        now = time.monotonic()
        if now - begun > patience:
            return f"it did not answer within {patience:g} s"
        if now - told > _SIGN_OF_LIFE:
            print(f"  waiting for Flower's SuperLink: {now - begun:.0f} of at most {patience:g} s", flush=True)
            told = now
        time.sleep(0.2)
    return f"it ended with exit code {process.returncode}"


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)  # which knows nothing of proxies
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_file(home: Path) -> Path:
    """Where the SuperLink, and what it starts, write."""
    return home / "superlink.log"


def log_tail(home: Path, lines: int = 15) -> str:
    """The end of its log, for an error; nothing if there is none."""
    try:
        last = log_file(home).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "\n".join(["Last lines of its log:", *(line[:300] for line in last)]) if last else "Its log is empty."
