"""A site's round: charged before it is trained, answered once, and safe to kill at any moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.errors import BudgetExhausted, FederationError, LedgerError
from fedrad.files import partial_of
from fedrad.ledger.ledger import Ledger
from fedrad.training import site as module
from fedrad.training import site_state
from fedrad.training.local import TrainingState, run_steps
from fedrad.training.site import RoundRequest, train_round
from fedrad.training.site_state import adapter_digest
from tests import small

STEPS = 3
STATE = "round.safetensors"


class Stopped(Exception):
    """Stands for a crash."""


def request(round: int, run: str = "run", rounds: int = 2) -> RoundRequest:
    return RoundRequest(run, round, STEPS, last=round == rounds)


def answer(
    here: small.Ready, directory: Path, incoming: Mapping[str, Tensor], asked: RoundRequest, cap: float = 8.0
) -> tuple[dict[str, Tensor], int]:
    """The reply, and how many rows the ledger then has: opened anew, as each message finds it."""
    with small.ledger(directory, cap=cap) as ledger:
        reply = train_round(here.site(directory), ledger, asked, incoming)
        return reply, len(ledger.rows())


def charges(directory: Path) -> list[tuple[str, int, int, bool]]:
    with small.ledger(directory) as ledger:
        return [(row.run, row.round, row.steps, row.done) for row in ledger.rows()]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_rounds_over_the_disk_are_the_loop_in_one_go(tmp_path: Path, optimizer: str) -> None:
    exp = small.experiment(train__optimizer=optimizer, train__rounds=3, train__average=0.5)
    here = small.ready(exp)
    once = run_steps(here.inputs, here.plan, here.recipe, here.state, 3 * STEPS, site="site-000")
    adapter: Mapping[str, Tensor] = small.ready(exp).state.adapter
    for round in (1, 2, 3):
        adapter, rows = answer(small.ready(exp), tmp_path / "site", adapter, request(round, rounds=3))
        assert rows == round

    assert once.averaged > STEPS  # the mean reaches over a round's end
    assert small.same(adapter, once.result())


# The ledger comes first


def test_the_charge_is_on_disk_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = small.ready(small.experiment())
    on_disk: list[int] = []

    def crash(*args: object, **kwargs: object) -> TrainingState:
        copy = tmp_path / "seen.sqlite"
        copy.write_bytes((tmp_path / "site" / "ledger.sqlite").read_bytes())
        on_disk.append(copy.read_bytes().count(b'"steps":3,"time"'))
        raise Stopped

    monkeypatch.setattr(module, "run_steps", crash)
    with pytest.raises(Stopped):
        answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert on_disk == [1]
    assert charges(tmp_path / "site") == [("run", 1, STEPS, False)]
    assert not (tmp_path / "site" / STATE).exists()


def test_a_round_that_can_not_be_charged_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of the test above: training starts only where the intent was written."""
    here = small.ready(small.experiment())
    trained: list[str] = []
    monkeypatch.setattr(module, "run_steps", lambda *args, **kwargs: trained.append("a step"))
    monkeypatch.setattr(Ledger, "record_intent", lambda self, **kwargs: (_ for _ in ()).throw(LedgerError("disk full")))
    with pytest.raises(LedgerError):
        answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert trained == []


def test_the_cap_stops_a_round_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = small.ready(small.experiment())
    answer(here, tmp_path / "site", here.state.adapter, request(1))
    before = (tmp_path / "site" / STATE).read_bytes()
    monkeypatch.setattr(module, "run_steps", lambda *args, **kwargs: pytest.fail("a step was taken"))
    with pytest.raises(BudgetExhausted):
        answer(here, tmp_path / "site", here.state.adapter, request(2), cap=6.0)

    assert charges(tmp_path / "site") == [("run", 1, STEPS, True)]
    assert (tmp_path / "site" / STATE).read_bytes() == before


def test_the_planned_rounds_fit_and_one_more_does_not(tmp_path: Path) -> None:
    here = small.ready(small.experiment())
    adapter = here.state.adapter
    for round in (1, 2):
        adapter, _ = answer(here, tmp_path / "site", adapter, request(round))
    for beyond in (3, 0, -1):
        with pytest.raises(FederationError, match="none of the run's, whose plan is for 6 steps"):
            answer(here, tmp_path / "site", adapter, request(beyond))
    with pytest.raises(BudgetExhausted):
        answer(here, tmp_path / "site", adapter, request(1, run="another"))


# Once and only once


def test_a_retry_gets_the_same_bytes_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = small.ready(small.experiment(privacy__noise="system"))
    first, rows = answer(here, tmp_path / "site", here.state.adapter, request(1))
    monkeypatch.setattr(module, "run_steps", lambda *args, **kwargs: pytest.fail("it was trained again"))
    again, rows_again = answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert small.same(first, again)
    assert rows == rows_again == 1


def test_a_lost_state_is_charged_again_and_gives_other_noise(tmp_path: Path) -> None:
    """Control of the test above: without the stored reply, the same request costs a second time."""
    here = small.ready(small.experiment(privacy__noise="system", privacy__epsilon=2.0))
    first, _ = answer(here, tmp_path / "site", here.state.adapter, request(1))
    (tmp_path / "site" / STATE).unlink()
    again, rows = answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert rows == 2
    assert not small.same(first, again)


def test_the_same_round_for_another_adapter_is_refused(tmp_path: Path) -> None:
    here = small.ready(small.experiment())
    answer(here, tmp_path / "site", here.state.adapter, request(1))
    other = {name: tensor + 1e-3 for name, tensor in here.state.adapter.items()}
    with pytest.raises(FederationError, match="another adapter"):
        answer(here, tmp_path / "site", other, request(1))

    assert len(charges(tmp_path / "site")) == 1


def test_an_earlier_round_is_refused(tmp_path: Path) -> None:
    here = small.ready(small.experiment())
    adapter, _ = answer(here, tmp_path / "site", here.state.adapter, request(1))
    answer(here, tmp_path / "site", adapter, request(2))
    with pytest.raises(FederationError, match="comes after"):
        answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert len(charges(tmp_path / "site")) == 2


# One charge, one reply: a round that was cut off is taken again for its charge, and nothing else is


def cut_off(here: small.Ready, directory: Path, asked: RoundRequest, witness: Path | None = None) -> None:
    """Charges the round, takes its steps, and ends before anything of them is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_state, "save", lambda *args, **kwargs: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped), small.ledger(directory, witness=witness) as ledger:
            train_round(here.site(directory), ledger, asked, here.state.adapter)


@pytest.mark.parametrize("noise", ["system", "seeded"])
def test_a_round_that_was_cut_off_is_answered_for_its_charge(tmp_path: Path, noise: str) -> None:
    here = small.ready(small.experiment(privacy__noise=noise))
    undisturbed, _ = answer(here, tmp_path / "other", here.state.adapter, request(1))
    cut_off(here, tmp_path / "site", request(1))
    assert charges(tmp_path / "site") == [("run", 1, STEPS, False)]
    reply, rows = answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert charges(tmp_path / "site") == [("run", 1, STEPS, True)]
    assert rows == 1
    assert small.same(reply, undisturbed) == (noise == "seeded")


def test_a_changed_adapter_is_charged_again_and_leaves_the_first_no_way_back(tmp_path: Path) -> None:
    """A server that only claims to resume: two adapters for one charge would be two releases."""
    here = small.ready(small.experiment(privacy__epsilon=2.0))
    cut_off(here, tmp_path / "site", request(1))
    other = {name: tensor + 1e-3 for name, tensor in here.state.adapter.items()}
    _, rows = answer(here, tmp_path / "site", other, request(1))
    assert rows == 2
    with pytest.raises(FederationError, match="another adapter"):
        answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert [done for *_, done in charges(tmp_path / "site")] == [False, True]


@pytest.mark.parametrize("changed", [{"settings": "others"}, {"run": "another"}, {"last": True, "settings": "others"}])
def test_only_the_same_request_is_answered_for_that_charge(tmp_path: Path, changed: dict[str, Any]) -> None:
    here = small.ready(small.experiment(privacy__epsilon=2.0))
    cut_off(here, tmp_path / "site", request(1))
    _, rows = answer(here, tmp_path / "site", here.state.adapter, replace(request(1), **changed))

    assert rows == 2


def test_an_answer_that_was_resent_is_not_computed_anew_after_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended before the ledger noted the answer; the retry that resends it must note it first."""
    here = small.ready(small.experiment(privacy__noise="system", privacy__epsilon=2.0))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark_done", lambda self, seq: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            answer(here, tmp_path / "site", here.state.adapter, request(1))
    assert answer(here, tmp_path / "site", here.state.adapter, request(1))[1] == 1
    (tmp_path / "site" / STATE).unlink()

    assert answer(here, tmp_path / "site", here.state.adapter, request(1))[1] == 2


def test_a_copy_from_the_middle_of_a_round_gives_no_second_answer(tmp_path: Path) -> None:
    """Put back after the answer left, it holds as many charges as the witness knows of; the witness knows of more."""
    here, site, witness = small.ready(small.experiment(privacy__epsilon=2.0)), tmp_path / "site", tmp_path / "witness"

    def rows() -> int:
        with small.ledger(site, witness=witness) as ledger:
            train_round(here.site(site), ledger, request(1), here.state.adapter)
            return len(ledger.rows())

    cut_off(here, site, request(1), witness)
    shutil.copytree(site, tmp_path / "copy")
    assert rows() == 1  # for the charge of the round that was cut off
    shutil.rmtree(site)
    shutil.copytree(tmp_path / "copy", site)

    assert rows() == 2


def test_a_masked_round_is_charged_again(tmp_path: Path) -> None:
    here = small.ready(small.experiment(privacy__epsilon=2.0))
    masked = replace(request(1), masked=True)
    cut_off(here, tmp_path / "site", masked)

    assert answer(here, tmp_path / "site", here.state.adapter, masked)[1] == 2


def test_a_charge_that_a_lowered_cap_has_no_room_for_pays_for_nothing(tmp_path: Path) -> None:
    here = small.ready(small.experiment(privacy__epsilon=2.0))
    cut_off(here, tmp_path / "site", request(1))
    with pytest.raises(BudgetExhausted):
        answer(here, tmp_path / "site", here.state.adapter, request(1), cap=0.5)


def test_an_answer_of_another_process_is_not_given_twice(tmp_path: Path) -> None:
    """Of a simulated site, whose ledger is free while it trains."""
    here = small.ready(small.experiment())
    cut_off(here, tmp_path / "site", request(1))
    with small.ledger(tmp_path / "site") as ledger:
        slow = module.open_round(tmp_path / "site", ledger, request(1), here.plan, here.state.adapter)
    answer(here, tmp_path / "site", here.state.adapter, request(1))
    with pytest.raises(FederationError, match="another process"), small.ledger(tmp_path / "site") as ledger:
        module.close_round(tmp_path / "site", ledger, request(1), slow, here.state)


def test_a_crash_between_state_and_done_costs_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = small.ready(small.experiment())
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark_done", lambda self, seq: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            answer(here, tmp_path / "site", here.state.adapter, request(1))
    _, rows = answer(here, tmp_path / "site", here.state.adapter, request(1))

    assert rows == 1


def test_a_new_run_starts_fresh_but_on_the_same_ledger(tmp_path: Path) -> None:
    exp = small.experiment(privacy__epsilon=2.0, train__average=0.9)
    here = small.ready(exp)
    alone, _ = answer(here, tmp_path / "alone", here.state.adapter, request(1, run="b"))
    answer(here, tmp_path / "site", here.state.adapter, request(1, run="a"))
    second, rows = answer(here, tmp_path / "site", here.state.adapter, request(1, run="b"))

    assert rows == 2
    assert small.same(alone, second)  # moments, step and averages of run a left no trace


# The file


def test_the_state_is_for_its_owner_only(tmp_path: Path) -> None:
    here = small.ready(small.experiment())
    old = os.umask(0)
    try:
        answer(here, tmp_path / "site", here.state.adapter, request(1))
    finally:
        os.umask(old)

    assert (tmp_path / "site").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "site").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file.name
    assert not list((tmp_path / "site").glob("*.partial"))


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "foreign"])
def test_a_damaged_state_stops_the_round(tmp_path: Path, damage: str) -> None:
    here = small.ready(small.experiment())
    answer(here, tmp_path / "site", here.state.adapter, request(1))
    path = tmp_path / "site" / STATE
    whole = path.read_bytes()
    if damage == "foreign":
        path.write_bytes(site_state.save({"surprise": np.zeros(1)}, metadata={"run": "run"}))
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "zeros": bytes(len(whole)), "empty": b""}[damage])
    with pytest.raises(LedgerError, match="remove"):
        answer(here, tmp_path / "site", here.state.adapter, request(2))

    assert len(charges(tmp_path / "site")) == 1


@pytest.mark.parametrize("moment", ["writing", "renaming"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_kill_while_the_state_is_replaced_costs_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, durable: bool
) -> None:
    """A simulated site removes the old state before it renames the new one: either must be found afterwards."""
    here = small.ready(small.experiment(privacy__epsilon=2.0, train__rounds=3))

    def train(round: int) -> int:
        with Ledger.open(tmp_path, site="site-000", cap=8.0, delta=1e-5, durable=durable) as ledger:
            train_round(here.site(tmp_path), ledger, request(round, rounds=3), here.state.adapter)
            return len(ledger.rows())

    def killed(*_: object, **__: object) -> None:
        raise Stopped

    train(1)
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fdopen") if moment == "writing" else (Path, "replace")), killed)
        with pytest.raises(Stopped):
            train(2)
    assert (tmp_path / STATE).exists() == (durable or moment == "writing")
    assert train(2) == 2
    saved = site_state.load_state(tmp_path, durable=durable)
    assert saved is not None
    assert (saved.round, saved.step) == (2, 2 * STEPS)
    assert not list(tmp_path.glob("*.partial"))


def test_half_a_first_state_is_none(tmp_path: Path) -> None:
    partial_of(tmp_path / STATE).write_bytes(site_state.save({"reply/a": np.zeros(9)})[:-1])
    assert site_state.load_state(tmp_path, durable=False) is None


def test_the_state_holds_no_count_and_no_report(tmp_path: Path) -> None:
    here = small.ready(small.experiment())
    answer(here, tmp_path / "site", here.state.adapter, request(1))
    with site_state.safe_open(tmp_path / "site" / STATE, framework="pt") as file:
        facts, names = dict(file.metadata()), {key.partition("/")[2].partition("|")[0] for key in file.keys()}

    assert set(facts) == {"run", "round", "left", "bound", "request", "step", "averaged"}
    assert facts["left"] == "clear"
    assert names == set(here.state.adapter)


def test_the_digest_tells_names_shapes_and_bits() -> None:
    tensor = torch.arange(6.0)
    digests = {
        adapter_digest({"a": tensor}),
        adapter_digest({"b": tensor}),
        adapter_digest({"a": tensor.reshape(2, 3)}),
        adapter_digest({"a": tensor.double()}),
        adapter_digest({"a": torch.nextafter(tensor, tensor + 1)}),
    }

    assert len(digests) == 5
    assert adapter_digest({"a": tensor, "b": tensor}) == adapter_digest({"b": tensor, "a": tensor.clone()})


# Killed


@pytest.mark.slow
def test_kill_9_in_a_round_never_leaves_the_ledger_short(tmp_path: Path) -> None:
    steps, directory = 400, tmp_path / "site"
    process = subprocess.Popen(
        [sys.executable, "-c", f"from tests import small; small.train_and_tell({str(directory)!r}, {steps})"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = 0
    while told < 2:
        line = process.stdout.readline()
        assert line, "the process ended before it was killed"
        told = int(line)
    process.send_signal(signal.SIGKILL)
    told = max([told, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait()

    assert process.returncode == -signal.SIGKILL
    assert told < steps
    assert charges(directory) == [("run", 1, steps, False)]  # all of them, though only some were taken
    assert not (directory / STATE).exists()
    here = small.ready(
        small.experiment(privacy__noise="system", train__rounds=1, train__local_steps=steps, train__batch=4)
    )
    other = {name: tensor + 1e-3 for name, tensor in here.state.adapter.items()}
    asked = RoundRequest("run", 1, steps, last=True)
    with small.ledger(directory) as ledger:
        with pytest.raises(BudgetExhausted):  # another question is no second chance
            train_round(here.site(directory), ledger, asked, other)
        train_round(here.site(directory), ledger, asked, here.state.adapter)
    assert charges(directory) == [("run", 1, steps, True)]
