"""Whatever a server proposes, under every key there is: the outcome is the same whatever a hospital's reports are.

A proposal that is refused before a report is read can tell nothing of one, so only those that reach the reading are
answered by two hospitals, which differ in all that their reports can: how many there are, of how many patients, how
long, and how labelled. Of each key it is one value that reaches the reading, as far as one of the first few does, with
those of the other keys of its section; FEDRAD_EVERY_PROPOSAL=1 tries every value by itself as well.
"""

from __future__ import annotations

import csv
import math
import os
import random
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import FedradError
from fedrad.federation import client
from fedrad.federation.messages import Failure, Reply, read_answer
from fedrad.federation.node_config import read_policy
from fedrad.federation.state_delta import delta_of
from fedrad.keys import KEYS, SECTIONS, Key
from fedrad.ledger.view import read_ledger
from fedrad.training.setup import set_up
from tests.counted import Passes
from tests.grid import LABELS, Mercy, forget
from tests.model import tiny

EVERY = bool(os.environ.get("FEDRAD_EVERY_PROPOSAL"))
AT_MOST = 4  # values of a key that are tried until one reaches the reading
_WHOLE = [0, 1, 2, 3, 8, 39, 40, 41, 1000, -1, 2**31, 2**63, 10**30]
_REAL = [0.0, -1.0, 1.0, 0.5, 1e-300, 5e-324, 1e-6, 1e3, 1e30, 1e39, 1.7e308, math.nan, math.inf, -math.inf]
_TEXT = ["", "x", "x" * 10_000, "text", "patient", "edema", "edema,effusion", "\0", "../..", "yes=1,no=0", "é" * 50]
_LIST = ["", "1", "0.5", "1,2,3", "-1", "nan", "1e300", "x", "query", "key,value", "dense", "x," * 1000]
# What would use up this machine, not tell of reports.
TOO_MUCH: dict[str, list[Any]] = {
    "train.threads": [0, 1, 2, -1, 10**6],
    "train.local-steps": [0, 1, 2, 3, -1, 101, 10**30],
    "train.rounds": [0, 1, 2, 1000, -1, 10**30],
}


def proposals(key: Key) -> list[Any]:
    """Values of every kind, right and wrong, in an order that depends on the key's name alone."""
    of_kind: dict[Any, list[Any]] = {bool: [True, False, 1], int: _WHOLE, float: _REAL, str: _TEXT}
    found = TOO_MUCH.get(key.name) or ([*key.words, "no such word"] if key.words else of_kind.get(key.type, _LIST))
    shuffled = random.Random(key.name).sample(found, len(found))
    return sorted(shuffled, key=lambda value: value == key.default)  # which says least, so it comes last


def hospital(folder: Path, rows: list[list[Any]]) -> Mercy:
    mercy = Mercy(folder, train__rounds=1, train__local_steps=1, train__batch=4)
    with mercy.table.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "patient", *LABELS], *rows])
    return mercy


class Asked:
    """A server's question to one hospital, each time as if it were the first that it ever asked."""

    def __init__(self, mercy: Mercy, counted: Passes) -> None:
        self.mercy, self.counted, self.number = mercy, counted, 0

    def outcome(self, change: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
        """All that a server could tell two hospitals by, but for the noised numbers."""
        self.number += 1
        folder = self.mercy.folder / str(self.number)
        at = folder / "state"
        self.mercy.node |= {"state-dir": str(at), "witness-dir": str(folder / "witness")}
        forget()
        self.counted.counts()
        content = self.mercy.ask(self.mercy.request(rounds=1, state=delta_of(state)), **change)
        answer = read_answer(content, Reply)
        found: dict[str, Any] = {f.name: getattr(answer, f.name) for f in fields(answer) if f.name != "adapter"}
        if isinstance(answer, Reply):
            found["adapter"] = {name: (tensor.dtype, tensor.shape) for name, tensor in answer.adapter.items()}
        charged = (at / "ledger.sqlite").exists()
        found["charges"] = [(row.run, row.round, row.steps) for row in read_ledger(at).rows] if charged else []
        found["kept"] = sorted(str(file.relative_to(at)) for file in at.rglob("*")) if at.exists() else []
        return found | {"kind": type(answer), "passes": self.counted.counts()}


class Reached(Exception):
    """Reports would be read now."""


@pytest.fixture
def hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Asked, Asked]]:
    counted = Passes(monkeypatch)
    many = [[f"{tiny.TEXTS[i % 3]} {i}", f"p{i}", i % 2, i % 3 // 2] for i in range(37)]
    few = [[f"{tiny.TEXTS[i]} " * 60, "p0", 1, -1] for i in range(2)]
    yield Asked(hospital(tmp_path / "many", many), counted), Asked(hospital(tmp_path / "few", few), counted)
    forget()


def fitting(asked: Asked, change: dict[str, Any]) -> dict[str, Tensor]:
    """The state that a server would send with this proposal; any, if there is none that fits."""
    mercy = asked.mercy
    try:
        proposed = Experiment.from_flat({**mercy.experiment.flat(), **change})
        policy = read_policy(mercy.node)
        setup = set_up(policy.own(proposed), policy.task_for(proposed), policy.rank or proposed.lora.rank)
    except (FedradError, OSError):  # the latter: a name that no file system takes
        return mercy.state
    return setup.classifier.state()


@pytest.mark.parametrize("section", SECTIONS)
def test_no_key_tells_two_hospitals_apart(
    section: str, hospitals: tuple[Asked, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    many, _ = hospitals
    read: list[str] = []

    def reads(*args: object) -> None:
        read.append("a report")
        raise Reached

    def reaches(change: dict[str, Any]) -> bool:
        """Whether a hospital would read its reports. Otherwise it has refused, and no report can have told it to."""
        read.clear()
        with monkeypatch.context() as watched:
            watched.setattr(client, "read_whole_corpus", reads)
            many.outcome(change, fitting(many, change))
        return bool(read)

    def compare(change: dict[str, Any]) -> None:
        outcomes = [asked.outcome(change, fitting(many, change)) for asked in hospitals]
        assert outcomes[0] == outcomes[1], change
        # Once reports are read nothing is refused any more, and what is answered is charged for.
        assert outcomes[0]["kind"] is Reply, (change, outcomes[0])
        assert outcomes[0]["charges"], change

    together: dict[str, Any] = {}
    for key in (key for key in KEYS.values() if key.section == section):
        tried = proposals(key)
        for value in tried if EVERY else ():
            if reaches({key.name: value}):
                compare({key.name: value})
        joined = next((value for value in tried[:AT_MOST] if reaches(together | {key.name: value})), None)
        if joined is not None:
            together[key.name] = joined
        elif alone := [value for value in tried[:AT_MOST] if not EVERY and reaches({key.name: value})]:
            compare({key.name: alone[0]})
    assert together
    compare(together)


def test_the_comparison_would_see_a_hospital_that_counts(hospitals: tuple[Asked, Asked]) -> None:
    """Control: where passes are not padded, the two are told apart; a hospital without a report fails."""
    many, few = hospitals
    for asked in hospitals:
        asked.mercy.node["pad-passes"] = False
    one, other = (asked.outcome({}, asked.mercy.state) for asked in (many, few))
    assert one["passes"] != other["passes"]
    assert {key: value for key, value in one.items() if key != "passes"} == {
        key: value for key, value in other.items() if key != "passes"
    }
    few.mercy.table.write_text("text\n")
    assert few.outcome({}, few.mercy.state)["kind"] is Failure
