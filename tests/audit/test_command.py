"""``fedrad audit``: its exit code, its last line, its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedrad.audit import battery
from fedrad.audit.bounds import Guesses
from fedrad.audit.outcome import Outcome
from fedrad.cli import app as cli

FINE = Outcome(
    "gradient", "final head", "report", "", 1.5, 1e-5, 0.4, 0.6, 0.95, Guesses(1000, 200, 130), 1.0, 0.7, 0.99
)
CAUGHT = replace(FINE, broken="noise off", bound=4.1, gaussian_bound=7.0, pair_bound=8.0)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["audit", *(str(argument) for argument in arguments)])


def found(monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome) -> None:
    def battery_of(**_: Any) -> Iterator[Outcome]:
        yield from outcomes

    monkeypatch.setattr(battery, "run_battery", battery_of)


def test_where_all_is_well_it_ends_with_zero_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found(monkeypatch, FINE, CAUGHT)
    shown = call("--out", tmp_path / "new")
    assert shown.exit_code == 0
    last = shown.stdout.splitlines()[-1]
    assert last.startswith("audit passed: 1 of 1 bounds are below their claims, 1 of 1 negative controls were caught")
    written = json.loads((tmp_path / "new" / "audit.json").read_text())
    assert written["passed"] is True
    assert written["versions"]["fedrad"]
    assert {"kind", "view", "epsilon", "delta", "bound", "confidence", "canaries", "guesses", "seconds"} <= set(
        written["audits"][0]
    )
    assert [row["canaries"] for row in written["audits"]] == [1000, 1000]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (replace(FINE, bound=1.6), "0 of 1 bounds"),
        (replace(FINE, gaussian_bound=1.6), "0 of 1 bounds"),
        (replace(FINE, pair_bound=1.6), "0 of 1 bounds"),
        (replace(CAUGHT, bound=1.4, pair_bound=1.4), "0 of 1 negative controls"),
    ],
)
def test_a_refuted_claim_or_a_missed_control_ends_with_one(
    wrong: Outcome, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, *(wrong if wrong.broken == right.broken else right for right in (FINE, CAUGHT)))
    shown = call()
    assert shown.exit_code == 1
    assert shown.stdout.splitlines()[-1].startswith("audit FAILED")
    assert says in shown.stdout.splitlines()[-1]


def test_what_makes_no_sense_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    assert call("--set", "privacy.epsilon=1").exit_code == 2
    assert call("--quick", "--attacks").exit_code == 2
    assert call("--attacks", "--set", "privacy.epsilom=1").exit_code == 2
    assert call("--attacks", "--decoder", "random").exit_code == 2
    (tmp_path / "audit.json").write_text("precious")
    assert call("--out", tmp_path).exit_code == 3
    assert (tmp_path / "audit.json").read_text() == "precious"
