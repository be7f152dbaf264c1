"""A SuperLink and hospitals as processes of their own on loopback, with TLS and node keys; every wait has a limit."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BIN = Path(sys.executable).parent
APP = Path(__file__).parents[2] / "deployment"


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new key at ``path`` (0600), in the format of ssh-keygen; the public one beside it as ``.pub``."""
    key = ec.generate_private_key(ec.SECP384R1())
    secret, public = serialization.PrivateFormat, serialization.PublicFormat
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, secret.OpenSSH, serialization.NoEncryption()))
    path.with_suffix(path.suffix + ".pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, public.OpenSSH)
    )
    return key


def certificates(folder: Path) -> None:
    """ca.crt, server.pem and server.key, as docs/deployment.md makes them with openssl."""
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("ca", "server")}
    names = {
        name: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
        for name, text in (("ca", "fedrad federation CA"), ("server", "localhost"))
    }
    now = datetime.datetime.now(datetime.UTC)

    def builder(name: str) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(names[name])
            .issuer_name(names["ca"])
            .public_key(keys[name].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[name].public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["ca"].public_key()), critical=False)
        )

    localhost = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    ca = builder("ca").add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    server = builder("server").add_extension(x509.SubjectAlternativeName(localhost), critical=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.sign(keys["ca"], hashes.SHA256()).public_bytes(pem))
    (folder / "server.pem").write_bytes(server.sign(keys["ca"], hashes.SHA256()).public_bytes(pem))
    (folder / "server.key").write_bytes(
        keys["server"].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Loopback:
    """The processes of one test. ``folder`` is the parent of every Flower home, by which they are found again."""

    folder: Path
    port: int = field(default_factory=free_port)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Starts a process of the user ``name``, in its folder, with its own Flower home and caches."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        with (home / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=home,
                env=self.environment(name) | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def environment(self, name: str) -> dict[str, str]:
        home = self.folder / name
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(home / "flwr"),
            "FEDRAD_CACHE": str(home / "cache"),
        }

    def log(self, name: str) -> str:
        path = self.folder / name / "log"
        return path.read_text() if path.exists() else ""

    def superlink(self) -> None:
        """The server, with certificates, waiting for registered nodes."""
        home = self.folder / "server"
        (home / "flwr").mkdir(parents=True)
        certificates(home)
        (home / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "tls"\n\n[superlink.tls]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{home / "ca.crt"}"\n'
        )
        tls = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key"]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--database", "superlink.db"]
        flags = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        process = self.start("server", ["flower-superlink", *tls, *flags, *where])
        self.wait(lambda: self._listens(), 120, "the SuperLink does not listen", process, "server")

    def hospital(self, name: str, policy: Mapping[str, object], *, register: bool = True) -> subprocess.Popen[bytes]:
        """A SuperNode with a key and a policy of its own."""
        (self.folder / name).mkdir(exist_ok=True)
        key = self.folder / name / "node.key"
        private_key(key)
        if register:
            code, said = self.flwr("supernode", "register", f"{key}.pub", "tls", "--name", name)
            assert code == 0, said
        return self.node(name, policy, ["--auth-supernode-private-key", str(key)])

    def node(self, name: str, policy: Mapping[str, object], identity: list[str]) -> subprocess.Popen[bytes]:
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in policy.items())
        tls = [] if "--insecure" in identity else ["--root-certificates", str(self.folder / "server" / "ca.crt")]
        where = ["--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1", "--port", str(free_port())]
        return self.start(name, ["flower-supernode", *tls, *identity, *where, "--node-config", config])

    def flwr(self, *arguments: str, limit: float = 120) -> tuple[int, str]:
        """A ``flwr`` command of the server's operator: exit status and output."""
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env=self.environment("server"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
        return done.returncode, done.stdout

    def run(self, config: Mapping[str, object], limit: float) -> tuple[str, str, str]:
        """``flwr run`` to its end: the run's status, its details, and what was streamed."""
        pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        _, said = self.flwr("run", str(APP), "tls", "--stream", "--run-config", pairs, limit=limit)
        newest: dict[str, Any] = {}

        def finished() -> bool:
            runs = self._json("list", "tls")["runs"]
            newest.update(max(runs, key=lambda run: str(run["pending-at"])))
            return str(newest["status"]).startswith("finished")

        self.wait(finished, 120, f"the run does not end:\n{said}")
        return str(newest["status"]), str(newest["status-details"]), said

    def online(self) -> int:
        """How many SuperNodes are connected."""
        nodes = self._json("supernode", "list", "tls")["nodes"]
        return sum(str(node["status"]) == "online" for node in nodes)

    def wait(
        self,
        condition: Callable[[], bool],
        limit: float,
        message: str,
        process: subprocess.Popen[bytes] | None = None,
        name: str = "server",
    ) -> None:
        """Waits until ``condition`` holds, the process has ended, or the limit is reached: the last two fail."""
        deadline = time.monotonic() + limit
        while not condition():
            gone = process is not None and process.poll() is not None
            if gone or time.monotonic() > deadline:
                why = "its process has ended" if gone else f"within {limit:g} s"
                pytest.fail(f"{message} ({why}). Log of {name}:\n{self.log(name)[-3000:]}")
            time.sleep(0.5)

    def left(self) -> list[psutil.Process]:
        """What still runs of this test: found by its Flower home, since a SuperExec outlives the one who started it."""
        found = []
        for process in psutil.process_iter():
            try:
                home = process.environ().get("FLWR_HOME", "")
                if process.status() != psutil.STATUS_ZOMBIE and home.startswith(f"{self.folder}{os.sep}"):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def end(self) -> None:
        """Ends everything, by pid: politely, then not."""
        for signal in ("terminate", "kill"):
            processes = self.left()
            for process in processes:
                try:
                    getattr(process, signal)()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(processes, timeout=20)
        for process in self.started:
            process.wait(20)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _json(self, *arguments: str) -> dict[str, Any]:
        _, said = self.flwr(*arguments, "--format", "json")
        found: dict[str, Any] = json.loads(said[said.index("{") :])
        return found
