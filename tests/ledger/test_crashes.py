"""Kills, full disks and crashes never leave a ledger with fewer steps than were taken."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrad import files
from fedrad.errors import LedgerError
from fedrad.ledger import ledger, witness
from fedrad.ledger.ledger import Ledger
from fedrad.ledger.witness import read_witness
from tests.ledger.ledgers import PLAN, filled, opened, simulated


def test_a_crash_between_ledger_and_witness_is_repaired(
    place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(place, 2)

    def fails(folder: Path, seen: witness.Witness) -> None:
        raise LedgerError("no space")

    with opened(place) as book:
        monkeypatch.setattr(ledger, "write_witness", fails)
        for _ in range(2):  # a second attempt must not run two rows ahead of the witness
            with pytest.raises(LedgerError, match="no space"):
                book.record_intent(run="r", round=3, plan=PLAN, steps=1)
        monkeypatch.undo()
    with opened(place) as book:
        assert len(book.view.events) == 3
    seen = read_witness(place[1], "st. mary")
    assert seen is not None
    assert seen.count == 3


def test_a_crash_while_founding_leaves_nothing_behind(
    place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "write_witness", lambda *_: dies(place[0]))
    with pytest.raises(KeyboardInterrupt):
        opened(place)
    monkeypatch.undo()
    (place[0] / "ledger.sqlite").unlink()  # as if it had died a moment earlier, before the renaming
    (place[0] / "ledger.sqlite.partial").write_text("half")
    filled(place)
    assert not (place[0] / "ledger.sqlite.partial").exists()


def test_a_full_disk_is_an_error_and_no_charge(place: tuple[Path, Path]) -> None:
    with opened(place) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        pages = book._database.execute("PRAGMA page_count").fetchone()[0]
        book._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError, match="full"):
            book.record_intent(run="r" * 20_000, round=2, plan=PLAN, steps=1)
        assert len(book.view.events) == 1
        book.record_intent(run="r", round=2, plan=PLAN, steps=1)
        book.verify()


def test_an_unwritable_place_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="can't be used"):
        Ledger.open(tmp_path / "file", site="a", cap=1.0, delta=1e-5)
    with pytest.raises(LedgerError, match="can't be used"):
        Ledger.open(tmp_path / "ok", site="a", cap=1.0, delta=1e-5, witness=tmp_path / "file")


@pytest.mark.parametrize("journal", [True, False])
def test_a_charge_that_was_cut_off_while_it_was_written_is_undone(tmp_path: Path, journal: bool) -> None:
    """The files as a kill finds them in the middle of a transaction; without the journal that undoes it, a control."""
    with simulated(tmp_path / "a") as book:
        for number in range(30):
            book.record_intent(run="r", round=number, plan=PLAN, steps=1)
        book._database.execute("PRAGMA cache_size = 1")  # pages are written before the commit
        book._database.execute("BEGIN IMMEDIATE")
        book._database.execute("UPDATE intent SET body = body || zeroblob(9000), hash = 'half'")
        (tmp_path / "b").mkdir()
        for name in ("ledger.sqlite", "ledger.sqlite-journal")[: 1 + journal]:
            (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
        book._database.execute("ROLLBACK")
    if journal:
        with simulated(tmp_path / "b") as left:
            assert [row.round for row in left.rows()] == list(range(30))
    else:
        with pytest.raises(LedgerError):
            simulated(tmp_path / "b")


# A site that trains for ever. It says "step" only after the charge, as the training loop does with its noisy steps.
LOOP = """
import math, os, sys
from pathlib import Path
from fedrad.ledger import ledger
from fedrad.privacy.plan import PrivacyPlan
plan = PrivacyPlan.calibrate(epsilon=0.0, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0)
real = ledger.write_witness
def dies(folder, seen):
    if seen.count > 3: os.kill(os.getpid(), 9)
    real(folder, seen)
with ledger.Ledger.open(Path(sys.argv[1]), site="a", cap=math.inf, delta=1e-5, witness=Path(sys.argv[2])) as book:
    if sys.argv[3] == "before the witness": ledger.write_witness = dies
    if sys.argv[3] == "before the commit": book._database.set_trace_callback(
        lambda sql: os.kill(os.getpid(), 9) if sql == "COMMIT" and len(book.rows()) > 2 else None)
    for number in range(10**9):
        book.record_intent(run="r", round=number, plan=plan, steps=2)
        os.write(1, b"step\\n")
"""


def killed(place: tuple[Path, Path], how: str, after: int, seconds: float) -> int:
    """Kills the loop; returns how many rounds' steps it had begun."""
    with subprocess.Popen(
        [sys.executable, "-c", LOOP, *map(str, place), how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        begun = 0
        if how == "at random":
            begun = sum(bool(process.stdout.readline()) for _ in range(after))
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        begun += len(process.stdout.read().splitlines())
    return begun


SIMULATED = LOOP.replace("witness=Path(sys.argv[2])", "durable=False")


@pytest.mark.slow
def test_a_kill_leaves_a_simulated_ledger_whole_too(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert SIMULATED != LOOP
    monkeypatch.setattr(sys.modules[__name__], "LOOP", SIMULATED)
    begun = 0
    for attempt, how in enumerate(["at random"] * 4 + ["before the commit"]):
        begun += killed(place, how, after=40, seconds=0.01)
        with Ledger.open(place[0], site="a", cap=math.inf, delta=1e-5, durable=False) as book:
            on_record = sum(event.steps for event in book.view.events)
        assert 2 * begun <= on_record <= 2 * (begun + attempt + 1)


def steps_on_record(place: tuple[Path, Path]) -> int:
    with Ledger.open(place[0], site="a", cap=math.inf, delta=1e-5, witness=place[1]) as book:
        book.verify()
        seen = read_witness(place[1], "a")
        assert seen is not None
        assert seen.count == len(book.rows())
        return sum(event.steps for event in book.view.events)


@pytest.mark.slow
def test_kill_at_random_never_leaves_the_ledger_short(place: tuple[Path, Path]) -> None:
    rng = random.Random(0)
    begun = 0
    for attempt in range(6):
        begun += killed(place, "at random", after=1 + 3 * attempt, seconds=rng.random() * 0.03)
        on_record = steps_on_record(place)
        # at most one round a kill was charged and not begun
        assert 2 * begun <= on_record <= 2 * (begun + attempt + 1)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "begun", "charged"), [("before the commit", 3, 3), ("before the witness", 3, 4)])
def test_kill_at_the_worst_moments(place: tuple[Path, Path], how: str, begun: int, charged: int) -> None:
    assert killed(place, how, 0, 0) == begun
    assert steps_on_record(place) == 2 * charged


def test_the_charge_is_synced_before_the_step(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The witness is written with fsync after the commit: file first, then its folder."""
    order: list[str] = []
    real_fsync, real_sync = os.fsync, files.sync_folder
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("file"), real_fsync(fd))[1])
    monkeypatch.setattr(files, "sync_folder", lambda folder: (order.append("folder"), real_sync(folder))[1])
    with opened(place) as book:
        order.clear()
        book._database.set_trace_callback(lambda sql: order.append("commit") if sql == "COMMIT" else None)
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
    assert [o for i, o in enumerate(order) if i == 0 or order[i - 1] != o][:3] == ["commit", "file", "folder"]
