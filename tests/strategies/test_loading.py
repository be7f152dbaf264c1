"""How a strategy's name becomes code: another package called ``strategies`` is noticed, and so is a broken one."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fedrad import installed
from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.training.strategy import strategy_of
from strategies.fedavg import FedAvg


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in front of everything that Python looks through, and ``strategies`` not imported yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "strategies"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", ["strategies.py", "strategies/__init__.py"])
@pytest.mark.parametrize("complete", [False, True])
def test_another_package_of_that_name_is_noticed(afresh: Path, file: str, complete: bool) -> None:
    (afresh / "strategies").mkdir()
    (afresh / file).write_text("OF = 'somebody else'\n")
    if complete:  # as where two installed packages share the folder: fedrad's other files are there
        (afresh / "strategies" / "fedavg.py").write_text("class FedAvg: pass\n")

    with pytest.raises(ConfigError) as raised:
        strategy_of(Experiment())
    said = str(raised.value)
    assert str(afresh / file) in said
    assert "instead of the package 'strategies'" in said
    for name in [name for name in sys.modules if name.partition(".")[0] == "strategies"]:
        del sys.modules[name]


def test_our_own_package_is_found(afresh: Path) -> None:
    """Control: nothing lies in front of it. A folder without ``__init__.py`` hides nothing."""
    (afresh / "strategies").mkdir()
    assert type(strategy_of(Experiment())).__name__ == FedAvg.__name__


@pytest.mark.parametrize("value", ["nowhere.at_all:Thing", "strategies.fedavg:Nothing"])
def test_a_strategy_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    broken = EntryPoint("broken", value, "fedrad.strategies")
    monkeypatch.setitem(installed.installed(), "broken", broken)
    with pytest.raises(ConfigError, match=rf"'broken' \({value}\) can't be imported"):
        strategy_of(Experiment.from_flat({"strategy.name": "broken"}))


def test_what_is_no_strategy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(installed.installed(), "odd", EntryPoint("odd", "pathlib:Path", "fedrad.strategies"))
    with pytest.raises(ConfigError, match="'odd' is not a fedrad"):
        Experiment.from_flat({"strategy.name": "odd"})
