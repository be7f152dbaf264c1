"""The arithmetic under every figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.measure import Ratio, Seconds, growth, interleaved, machine, median, ratio, table, turns, write_json


def test_turns_go_forwards_and_backwards() -> None:
    assert list(turns(["A", "B"], 3)) == [(0, "A"), (0, "B"), (1, "B"), (1, "A"), (2, "A"), (2, "B")]


def test_everything_runs_once_unmeasured_and_once_a_round() -> None:
    calls: list[tuple[str, int]] = []

    times = interleaved({name: lambda number, name=name: calls.append((name, number)) for name in "AB"}, 2)

    assert calls == [("A", 0), ("B", 0), ("A", 0), ("B", 0), ("B", 1), ("A", 1)]
    assert {name: len(list_) for name, list_ in times.items()} == {"A": 2, "B": 2}


def test_cpu_seconds_are_counted_and_sleep_is_not() -> None:
    import time

    times = interleaved({"busy": lambda _: sum(range(2_000_000)), "asleep": lambda _: time.sleep(0.05)}, 1)

    assert times["busy"][0].cpu > 0.005
    assert times["asleep"][0].cpu < 0.02 < times["asleep"][0].wall


def test_a_ratio_is_of_medians_and_its_range_is_over_rounds() -> None:
    ours = [Seconds(1.0, 9.0), Seconds(2.0, 9.0), Seconds(30.0, 9.0)]
    theirs = [Seconds(4.0, 1.0), Seconds(4.0, 1.0), Seconds(10.0, 1.0)]

    assert median(ours) == Seconds(2.0, 9.0)
    assert ratio(ours, theirs) == Ratio(0.5, 0.25, 3.0, 3)
    assert str(ratio(ours, theirs)) == "0.50 (0.25..3.00)"


def test_lists_of_different_rounds_are_no_ratio() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([Seconds(1, 1)], [Seconds(1, 1), Seconds(1, 1)])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux only")
def test_growth_sees_memory_that_is_gone_again() -> None:
    assert 55 < growth(lambda: bytearray(b"x" * 60_000_000)[:1]) < 200
    assert growth(lambda: None) < 20


def test_a_table_is_aligned() -> None:
    assert table(("name", "s"), [("a", 1), ("long name", 22.5)]).splitlines() == [
        "| name      |    s |",
        "|-----------|-----:|",
        "| a         |    1 |",
        "| long name | 22.5 |",
    ]


def test_figures_are_written_with_the_machine(tmp_path: Path) -> None:
    write_json(tmp_path / "figures.json", {"ratio": Ratio(1.0, 0.5, 2.0, 3)})

    written = json.loads((tmp_path / "figures.json").read_text("utf-8"))

    assert written["ratio"] == {"value": 1.0, "low": 0.5, "high": 2.0, "rounds": 3}
    assert written["machine"]["torch"] == machine()["torch"]
    write_json(None, {})  # no path: nothing to do
