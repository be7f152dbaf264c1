"""A finished run in small, of which every test takes a copy: one site, two charges, an adapter, certificates."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrad.certificate.envelope import PAYLOAD_TYPE, sealed
from fedrad.certificate.issue import certify_run
from fedrad.privacy.plan import PrivacyPlan
from fedrad.secure.keys import new_identity_key
from fedrad.training.site import RoundRequest, train_round
from tests import small

SITE = "site-000"
KEY = new_identity_key()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise from the operating system, so that its certificate has nothing to hide behind."""
    directory = tmp_path_factory.mktemp("certified") / "run"
    experiment = small.experiment(privacy__noise="system", privacy__epsilon=3.0)
    here = small.ready(experiment)
    site = here.site(directory / "ledger" / SITE, SITE)
    adapter = dict(here.state.adapter)
    with small.ledger(site.directory, SITE, cap=3.0) as book:
        for round in (1, 2):
            request = RoundRequest("run", round, 3, last=round == 2, settings=experiment.digest())
            adapter |= train_round(site, book, request, adapter)
    small.TASK.export(
        here.setup.classifier, here.setup.base, directory / "adapter", max_length=40, privacy_statement="none"
    )
    (directory / "experiment.toml").write_text(experiment.to_toml())
    (directory / "result.json").write_text("{}")
    certify_run(directory, "centralized")
    return directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def certificate(run: Path) -> Path:
    return run / "certificate.json"


def content_of(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(base64.b64decode(json.loads(file.read_text())["payload"]))
    return content


def tamper(file: Path, change: Callable[[dict[str, Any]], None], *, key: bytes | None = KEY) -> None:
    """Changes the content and signs it again with this key; None: leaves the old signature on it."""
    old, content = json.loads(file.read_text()), content_of(file)
    change(content)
    if key is not None:
        file.write_bytes(sealed(content, key))
        return
    payload = base64.b64encode(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).decode()
    file.write_text(json.dumps({"payloadType": PAYLOAD_TYPE, "payload": payload, "signatures": old["signatures"]}))


def other_plan() -> PrivacyPlan:
    """Fewer steps, so that the noise is another."""
    return PrivacyPlan.calibrate(
        epsilon=3.0, delta=small.DELTA, declared_size=40, expected_batch=16, steps=2, clip=1.0, noise="system"
    )
