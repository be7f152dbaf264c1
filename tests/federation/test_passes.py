"""The number of passes of a real hospital's round, through its ClientApp, does not tell how many reports there are."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedrad.errors import LedgerBusy
from fedrad.federation import client, lockout
from fedrad.federation.messages import Failure, Reply, read_answer
from fedrad.federation.state_delta import delta_of
from fedrad.ledger.durable import locked
from tests.counted import Passes
from tests.grid import LABELS, Mercy, forget
from tests.model import tiny


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    forget()
    yield
    forget()


def hospital(folder: Path, base: str, units: int, unit: str, batch: int, **node: Any) -> Mercy:
    """With so many reports, or so many patients with 1 to 4 reports each; 40 are declared."""
    proposed = {"privacy__unit": unit, "privacy__reports_per_patient": 2, "data__patient_column": "patient"}
    mercy = Mercy(folder, base=base, train__batch=batch, **proposed)
    with mercy.table.open("w", newline="") as file:
        owners = [k for k in range(units) for _ in range(1 + k % 4 if unit == "patient" else 1)]
        rows = [[f"{tiny.TEXTS[i % 3]} {i}", f"p{owner}", i % 2, i % 3 // 2] for i, owner in enumerate(owners)]
        csv.writer(file).writerows([["text", "patient", *LABELS], *rows])
    mercy.node |= {"unit": unit, "max-sampling-rate": 1.0, "reports-per-patient": 3} | node
    return mercy


def rounds(mercy: Mercy, counted: Passes) -> tuple[list[tuple[int, list[int]]], list[dict[str, Any]]]:
    """Passes and adapters of two rounds; pre-flight, which is the first step of each, included."""
    state, passes, adapters = mercy.state, [], []
    for number in (1, 2):
        forget()
        counted.counts()
        answer = read_answer(mercy.ask(mercy.request(round=number, state=delta_of(state))), Reply)
        assert isinstance(answer, Reply), answer
        passes.append(counted.counts())
        adapters.append({name: tensor.numpy().tobytes() for name, tensor in answer.adapter.items()})
        state = {**state, **answer.adapter}
    return passes, adapters


@pytest.mark.parametrize("unit", ["report", "patient"])
@pytest.mark.parametrize("batch", [64, 20, 2])  # q = 1 (the batch is above the declared size), 0.5, 0.05
def test_20_and_38_reports_run_the_same_passes(
    unit: str, batch: int, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Passes(monkeypatch)
    padded, bare = (
        [
            rounds(hospital(tmp_path / f"{name}-{units}", base, units, unit, batch, **{"pad-passes": pad}), counted)
            for units in (20, 38)
        ]
        for name, pad in (("padded", True), ("bare", False))
    )
    assert padded[0][0] == padded[1][0]
    assert padded[0][0][0] == padded[0][0][1]  # nor do they differ from round to round
    # Control: without padding they do differ.
    assert bare[0][0] != bare[1][0]
    # And what leaves is the same, to the bit.
    assert [adapters for _, adapters in padded] == [adapters for _, adapters in bare]


def test_a_server_that_asks_for_every_report_gets_half_of_them(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Passes(monkeypatch)
    half = hospital(tmp_path / "a", base, 38, "report", 64, **{"max-sampling-rate": 0.5})
    asked = hospital(tmp_path / "b", base, 38, "report", 20, **{"max-sampling-rate": 0.5})
    assert rounds(half, counted) == rounds(asked, counted)


def test_a_shard_that_outgrew_its_declared_size_is_named_in_the_hospitals_own_log(
    base: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for units in (44, 45):
        mercy = hospital(tmp_path / str(units), base, units, "report", 8)
        answer = read_answer(mercy.ask(mercy.request()), Reply)
        assert isinstance(answer, Reply)
        assert ("declared-size" in capfd.readouterr().err) is (units == 45)


@pytest.mark.parametrize("seconds", [0.5, 59.9, 60.1, 150.0])
def test_answers_leave_at_whole_multiples(
    seconds: float, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers and refusals alike, however long the work took."""
    clock, slept = [1000.0], list[float]()
    asked_meanwhile: list[bool] | None = []

    def works(*args: Any) -> Any:
        clock[0] += seconds
        return real(*args)

    def sleeps(time: float) -> None:
        slept.append(time)
        clock[0] += time
        # Whoever asks again before the answer leaves is refused, whether the work is done or not.
        if asked_meanwhile is not None:
            asked_meanwhile.append(Path(mercy.node["state-dir"], "stopped").exists())
            with pytest.raises(LedgerBusy):
                os.close(locked(Path(mercy.node["state-dir"])))

    real = client.inputs_of
    monkeypatch.setattr(client, "inputs_of", works)
    monkeypatch.setattr(lockout, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lockout, "sleep", sleeps)
    mercy = hospital(tmp_path, base, 20, "report", 2, **{"answer-every": 60.0})
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    took = clock[0] - 1000.0
    assert took % 60 == pytest.approx(0, abs=1e-6)
    assert 0 <= took - seconds < 60
    assert asked_meanwhile == [True]
    assert not Path(mercy.node["state-dir"], "stopped").exists()
    os.close(locked(Path(mercy.node["state-dir"])))
    asked_meanwhile = None
    mercy.table.write_text("text\n")
    assert isinstance(read_answer(mercy.ask(mercy.request(round=2)), Reply), Failure)
    assert (clock[0] - 1000.0) % 60 == pytest.approx(0, abs=1e-6)
    # Control: at once, if the hospital does not say so.
    slept.clear()
    del mercy.node["answer-every"]
    mercy.ask(mercy.request(round=3))
    assert slept == []
