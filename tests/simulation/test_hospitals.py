"""What a simulation's process keeps: one object for one run, and no answer depends on it."""

from __future__ import annotations

from pathlib import Path

from fedrad.simulation import client
from tests.grid import forget, small


def test_a_process_works_for_one_simulation_at_a_time(tmp_path: Path) -> None:
    forget()
    config, folder = small("unused").flat(), str(tmp_path / "ledger")
    first = client.simulation_of(config, folder)
    assert client.simulation_of(dict(config), folder) is first
    for other, place in (({**config, "train.seed": 1}, folder), (config, str(tmp_path / "elsewhere"))):
        second = client.simulation_of(other, place)
        assert second is not first
        assert list(client._running.values()) == [second]
    assert client.simulation_of(config, folder) is not first  # it was given up for the others
    forget()
    assert client._running == {}


def test_settings_that_are_equal_but_not_the_same_are_told_apart(tmp_path: Path) -> None:
    """1 and 1.0 are one key of a dictionary, and two settings."""
    forget()
    config = small("unused").flat()
    whole = client.simulation_of({**config, "privacy.epsilon": 1}, str(tmp_path))
    assert client.simulation_of({**config, "privacy.epsilon": 1.0}, str(tmp_path)) is not whole
    forget()
