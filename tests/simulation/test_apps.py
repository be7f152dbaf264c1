"""The Flower apps of simulations/ and deployment/: thin, complete, with any number of hospitals on whatever nodes."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedrad.config import Experiment
from fedrad.corpora import CORPORA
from fedrad.errors import ConfigError, SitesMissing
from fedrad.federation import client, server
from fedrad.federation.participants import connect
from fedrad.keys import flatten
from fedrad.rules import FUSED, refusals
from fedrad.simulation import client as simulated_client
from fedrad.simulation.apps import app_defaults
from tests.grid import InProcessGrid, simulated_nodes

ROOT = Path(__file__).parents[2]
DEPLOYMENT = ROOT / "deployment"
APPS = [*sorted(path.parent for path in ROOT.glob("simulations/*/pyproject.toml")), DEPLOYMENT]
each_app = pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)


@pytest.fixture
def importable(app: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(app)
    package = "hospitals" if app == DEPLOYMENT else app.name
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def differences(config: dict[str, object]) -> dict[str, str]:
    """Where a run configuration is not what ``Experiment`` knows: Flower overrides listed keys only, by type."""
    known = Experiment().flat()
    wrong = dict.fromkeys(known.keys() - config.keys(), "missing")
    wrong |= dict.fromkeys(config.keys() - known.keys(), "unknown")
    return wrong | {
        key: f"{type(config[key]).__name__}, not {type(value).__name__}"
        for key, value in known.items()
        if key in config and type(config[key]) is not type(value)
    }


@each_app
def test_every_key_can_be_overridden(app: Path) -> None:
    assert differences(app_defaults(app)) == {}


def test_the_decoder_of_the_protocol_app_is_its_app_with_other_keys() -> None:
    app = ROOT / "simulations" / "protocol"
    changes = flatten(tomllib.loads((app / "decoder.toml").read_text()))

    experiment = Experiment.from_flat({**app_defaults(app), **changes})

    assert (experiment.model.task, experiment.model.name, experiment.lora.layers) == ("causal-lm", "smollm2", 1)
    assert refusals(experiment, FUSED) == []


@each_app
def test_a_key_that_is_missing_unknown_or_of_another_type_is_noticed(app: Path) -> None:
    config = app_defaults(app)
    del config["sites.count"]
    config |= {"sites.number": 4, "privacy.epsilon": 8}

    assert differences(config) == {
        "sites.count": "missing",
        "sites.number": "unknown",
        "privacy.epsilon": "int, not float",
    }


@each_app
def test_the_defaults_are_an_experiment(app: Path) -> None:
    defaults = app_defaults(app)

    exp = Experiment.from_flat({**defaults, "data.path": "/data"})

    read = {
        "mimic": "synthetic",
        "ct_rate": "ct-rate",
        "openi": "openi",
        "protocol": "protocol",
        "deployment": "synthetic",
    }
    assert exp.data.name == read[app.name]
    if not CORPORA[exp.data.name].generated:  # the others need the user's data, and say so
        with pytest.raises(ConfigError, match=r"data\.path"):
            Experiment.from_flat(defaults)


@each_app
def test_nothing_is_installed_for_a_run(app: Path) -> None:
    """A name in this list would be downloaded for each run, in front of the tested packages."""
    assert tomllib.loads((app / "pyproject.toml").read_text())["project"]["dependencies"] == []


@each_app
def test_the_modules_are_the_librarys(app: Path, importable: str) -> None:
    components = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    assert components == {
        "serverapp": f"{importable}.server_app:app",
        "clientapp": f"{importable}.client_app:app",
    }

    assert importlib.import_module(f"{importable}.server_app").app is server.app
    registered = importlib.import_module(f"{importable}.client_app").app
    assert registered is (client.app if app == DEPLOYMENT else simulated_client.app)
    assert client.app is not simulated_client.app


# Hospitals and nodes


def wanted(count: int, limit: float = 0.2) -> Experiment:
    return Experiment.from_flat({"sites.count": count, "sites.connect-timeout": limit})


def hospital(name: str, **changes: object) -> dict[str, object]:
    return {
        "site": name,
        "data-path": "/data/reports.csv",
        "label-columns": "chexpert",
        "state-dir": "/state",
        "epsilon-cap": 2.0,
        "declared-size": 100,
    } | changes


def nodes(*configs: dict[str, Any], app: ClientApp = client.app) -> InProcessGrid:
    return InProcessGrid(app, configs, Experiment().flat())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_simulated_hospitals_are_dealt_out_to_the_nodes_there_are(count: int) -> None:
    simulated, hospitals = connect(nodes(*simulated_nodes(2), app=simulated_client.app), wanted(count))

    assert simulated
    assert [(h.site, h.node, h.index) for h in hospitals] == [
        (f"site-{index:03d}", 10 + index % 2, index) for index in range(count)
    ]


def test_real_hospitals_name_themselves() -> None:
    simulated, hospitals = connect(nodes(hospital("st-olaf"), hospital("mercy", **{"declared-size": 70})), wanted(2))

    assert not simulated
    assert [(h.site, h.node, h.declared_weight) for h in hospitals] == [("mercy", 11, 70), ("st-olaf", 10, 100)]


def test_the_server_waits_for_hospitals_that_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = nodes(hospital("mercy"), hospital("st-olaf"))
    there = iter([[], [11], [10, 11]])
    monkeypatch.setattr(grid, "get_node_ids", lambda: next(there))

    _, hospitals = connect(grid, wanted(2, limit=60.0))

    assert [h.site for h in hospitals] == ["mercy", "st-olaf"]


@pytest.mark.parametrize("present", [[], ["mercy"]])
def test_waiting_has_a_limit_and_says_who_was_there(present: list[str]) -> None:
    with pytest.raises(SitesMissing) as raised:
        connect(nodes(*(hospital(name) for name in present)), wanted(2))

    assert f"{len(present)} of 2 hospitals connected" in str(raised.value)
    assert (present[0] if present else "none") in str(raised.value)
    assert "sites.connect-timeout" in str(raised.value)


def test_a_node_with_a_wrong_configuration_is_not_a_hospital(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SitesMissing, match="1 of 2"):
        connect(nodes(hospital("mercy"), {"site": "st-olaf", "data-path": "secret/place.csv"}), wanted(2))

    said = capsys.readouterr()
    assert "node configuration is wrong" in said.out
    assert "secret" not in said.out  # the path stays at the hospital, in its own log
    assert "epsilon-cap" in said.err


def test_two_nodes_with_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="same hospital"):
        connect(nodes(hospital("mercy"), hospital("mercy")), wanted(2))


def test_one_node_that_calls_itself_simulated_does_not_turn_a_deployment_into_a_simulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = nodes(hospital("mercy"), *simulated_nodes(1))
    real = grid.answer

    def answer(message: Message) -> Message:  # the second node runs another app
        grid.app = client.app if message.metadata.dst_node_id == 10 else simulated_client.app
        return real(message)

    monkeypatch.setattr(grid, "answer", answer)
    with pytest.raises(ConfigError, match="keep them apart"):
        connect(grid, wanted(1))


def test_a_simulations_app_finds_no_hospitals_at_real_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SitesMissing, match="0 of 1"):
        connect(nodes(hospital("mercy"), app=simulated_client.app), wanted(1))

    assert "another app" in capsys.readouterr().out
