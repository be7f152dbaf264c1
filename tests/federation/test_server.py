"""What a server refuses before it asks any hospital."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.federation import server
from fedrad.simulation.client import app
from fedrad.simulation.grid import InProcessGrid
from tests.model import tiny

NO_TEST_SET: dict[str, object] = {"data.name": "none", "data.label-columns": "chexpert"}


def test_a_server_of_real_hospitals_builds_no_public_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took minutes, and then each hospital refused, with the reason in its own log only."""
    monkeypatch.chdir(tmp_path)
    base = tiny.save(tmp_path / "base", "bert")
    flat = {**NO_TEST_SET, "model.name": base, "run.out": str(tmp_path / "run"), "data.max-length": 64}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=flat)
    with pytest.raises(ConfigError, match=r"model\.name: a warm start needs a public base"):
        server.app(InProcessGrid(app, [], flat), context)
    assert not (tmp_path / "run").exists()


def test_a_public_base_and_a_cold_start_are_welcome(tmp_path: Path) -> None:
    server.refuse_to_build(Experiment.from_flat(NO_TEST_SET))
    server.refuse_to_build(Experiment.from_flat({**NO_TEST_SET, "model.name": tiny.save_public(tmp_path / "p")}))
    cold = {**NO_TEST_SET, "model.name": tiny.save(tmp_path / "b", "bert"), "train.warm-start": "none"}
    server.refuse_to_build(Experiment.from_flat(cold))
