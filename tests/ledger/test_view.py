"""Looking at a ledger: it changes nothing, believes only what the chain says, and works while it is in use."""

from __future__ import annotations

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedrad.errors import BudgetExhausted, LedgerError, LedgerTampered
from fedrad.ledger import chain
from fedrad.ledger import view as ledger_view
from fedrad.ledger.ledger import Ledger
from fedrad.ledger.view import read_ledger
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.plan import PrivacyPlan

DELTA = 1e-5
# 200 steps of q = 256/3000 and sigma = 2 spend 2.815562.
GOLDEN = 2.815562
PLAN = PrivacyPlan(
    unit="report",
    relation="add-or-remove-one",
    declared_size=3000,
    expected_batch=256,
    clip=1.0,
    noise_multiplier=2.0,
    steps=200,
    epsilon=2.82,
    delta=DELTA,
    noise="system",
)
FREE = PrivacyPlan.calibrate(epsilon=0.0, delta=DELTA, declared_size=3000, expected_batch=256, steps=20, clip=1.0)


def opened(directory: Path, cap: float = 8.0) -> Ledger:
    return Ledger.open(directory, site="st. mary", cap=cap, delta=DELTA)


def charge(directory: Path, run: str, rounds: int, steps: int = 10, cap: float = 8.0) -> None:
    with opened(directory, cap) as book:
        for number in range(1, rounds + 1):
            book.record_intent(run=run, round=number, plan=PLAN, steps=steps)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A state directory with three charges, the second of them done. Its name needs quoting in a URI."""
    directory = tmp_path / "state #1?mode=rw"
    charge(directory, "r", 3)
    with opened(directory) as book:
        book.mark_done(2)
    return directory


def fingerprint(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, time of change and permissions of every file, and of the folder itself."""
    found = {f.name: (f.read_bytes(), f.stat().st_mtime_ns, f.stat().st_mode) for f in directory.iterdir()}
    return found | {".": (b"", directory.stat().st_mtime_ns, directory.stat().st_mode)}


def test_a_view_is_what_the_ledger_says(place: Path) -> None:
    view = read_ledger(place)

    with opened(place) as book:
        assert list(view.rows) == book.rows()
        assert view.epsilon == book.view.epsilon
    assert (view.site, view.delta, view.steps) == ("st. mary", DELTA, 30)
    assert [row.done for row in view.rows] == [False, True, False]
    assert (view.runs, view.units, view.seeded) == (("r",), ("report",), False)
    assert view.plans == (PLAN.__dict__,)


def test_looking_changes_nothing(place: Path) -> None:
    before = fingerprint(place)
    read_ledger(place)

    assert fingerprint(place) == before
    with opened(place) as book:  # the control: opening it to write does leave a trace
        book.record_intent(run="r", round=4, plan=PLAN, steps=1)
    assert fingerprint(place) != before


def test_a_ledger_in_use_can_be_looked_at_and_the_hospital_goes_on(place: Path) -> None:
    with opened(place) as book:
        assert len(read_ledger(place).rows) == 3
        book.record_intent(run="r", round=4, plan=PLAN, steps=1)
        assert len(read_ledger(place).rows) == 4


def test_a_ledger_that_is_being_written_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_view, "_PATIENCE", 0.05)
    with closing(sqlite3.connect(place / "ledger.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError, match="being written to"):
            read_ledger(place)
        writer.execute("ROLLBACK")
    assert len(read_ledger(place).rows) == 3


def test_a_charge_that_was_cut_off_is_left_to_the_hospital(place: Path, tmp_path: Path) -> None:
    """A journal that has to be rolled back, which only a writer may do: as a power cut in mid-write leaves it."""
    cut = tmp_path / "cut"
    cut.mkdir()
    with closing(sqlite3.connect(place / "ledger.sqlite", isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        for number in range(1000, 1200):  # more than the cache holds, so that pages go to the file before the commit
            writer.execute("INSERT INTO intent VALUES (?, ?, '')", (number, "x" * 3000))
        for name in ("ledger.sqlite", "ledger.sqlite-journal"):
            shutil.copy(place / name, cut / name)
        writer.execute("ROLLBACK")
    before = fingerprint(cut)

    with pytest.raises(LedgerError, match="interrupted by a kill") as caught:
        read_ledger(cut)

    assert not isinstance(caught.value, LedgerTampered)
    assert fingerprint(cut) == before
    with opened(cut):
        pass
    assert len(read_ledger(cut).rows) == 3


TAMPERING = {
    "steps lowered": "UPDATE intent SET body = replace(body, '\"steps\":10', '\"steps\":1') WHERE seq = 2",
    "last but one removed": "DELETE FROM intent WHERE seq = 2",
    "first removed": "DELETE FROM intent WHERE seq = 1",
    "delta changed": "UPDATE meta SET facts = replace(facts, '1e-05', '0.1')",
    "no founding facts": "DELETE FROM meta",
    "no charges": "DROP TABLE intent",
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_noticed(place: Path, how: str) -> None:
    with closing(sqlite3.connect(place / "ledger.sqlite")) as database, database:
        database.execute(TAMPERING[how])

    with pytest.raises(LedgerTampered):
        read_ledger(place)


def test_negative_control_without_the_chain_an_edit_is_not_noticed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = read_ledger(place).epsilon
    with closing(sqlite3.connect(place / "ledger.sqlite")) as database, database:
        database.execute(TAMPERING["steps lowered"])
        database.execute("UPDATE intent SET body = json_set(body, '$.previous', 'x'), hash = 'x'")
    monkeypatch.setattr(chain, "sha256", lambda text: "x")

    assert read_ledger(place).epsilon < spent


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 20)

    with pytest.raises(LedgerError, match="is not a ledger, or it is damaged"):
        read_ledger(tmp_path)


def test_a_wrong_folder_is_named_and_the_right_ones_below_it(place: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no folder"):
        read_ledger(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LedgerError, match="Name a hospital's state directory"):
        read_ledger(empty)
    for name in ("site-001", "site-000"):
        charge(tmp_path / "run" / "ledger" / name, "r", 1)
    for above in (tmp_path / "run", tmp_path / "run" / "ledger"):
        with pytest.raises(LedgerError, match=r"site-000 \(and 1 more\)"):
            read_ledger(above)
    assert not (empty / "ledger.sqlite").exists()


def test_an_empty_ledger_has_spent_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "state"):
        pass
    view = read_ledger(tmp_path / "state")

    assert (view.epsilon, view.curve(), view.runs, view.seeded) == (0.0, (), (), False)
    assert (view.left(2.0).epsilon, view.left(2.0).steps) == (2.0, None)


def test_the_curve_composes_and_ends_at_what_is_spent(place: Path) -> None:
    view = read_ledger(place)
    curve = view.curve()

    assert curve == tuple(epsilon([PLAN.event(10 * n)], DELTA) for n in (1, 2, 3))
    assert curve[-1] == view.epsilon
    assert curve[-1] < 3 * curve[0]


def test_what_is_left_is_what_the_ledger_would_still_take(place: Path) -> None:
    left = read_ledger(place).left(1.5)
    assert left.steps is not None

    with opened(place, cap=1.5) as book:
        with pytest.raises(BudgetExhausted):
            book.record_intent(run="r", round=4, plan=PLAN, steps=left.steps + 1)
        book.record_intent(run="r", round=4, plan=PLAN, steps=left.steps)
    after = read_ledger(place).left(1.5)
    assert after.steps == 0
    assert 0 <= after.epsilon < left.epsilon


def test_nothing_is_left_below_what_is_spent(place: Path) -> None:
    left = read_ledger(place).left(0.1)

    assert (left.epsilon, left.steps) == (0.0, 0)
    for cap in (-1.0, math.inf, math.nan):
        with pytest.raises(LedgerError, match="cap"):
            read_ledger(place).left(cap)


def test_steps_without_noise_and_seeded_ones_are_seen(tmp_path: Path) -> None:
    seeded = PrivacyPlan(**{**vars(PLAN), "noise": "seeded"})
    with opened(tmp_path / "seeded") as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        book.record_intent(run="r", round=2, plan=seeded, steps=1)
    with opened(tmp_path / "free", cap=math.inf) as book:
        book.record_intent(run="r", round=1, plan=FREE, steps=1)

    assert read_ledger(tmp_path / "seeded").seeded
    assert len(read_ledger(tmp_path / "seeded").plans) == 2
    assert read_ledger(tmp_path / "free").epsilon == math.inf
    assert read_ledger(tmp_path / "free").left(8.0).steps == 0


# Runs add up


def test_runs_on_one_shard_add_up_whatever_their_names(tmp_path: Path) -> None:
    state = tmp_path / "state"
    charge(state, "monday", 10, cap=2.82)
    charge(state, "another name", 10, cap=2.82)
    view = read_ledger(state)

    assert view.epsilon == pytest.approx(GOLDEN, abs=5e-7)
    assert view.epsilon == epsilon([PLAN.event(200)], DELTA)  # one run of the sum of steps
    assert view.runs == ("monday", "another name")
    assert len(view.plans) == 1
    with pytest.raises(BudgetExhausted, match="room for 0 steps"):
        charge(state, "a third", 1, cap=2.82)
    assert read_ledger(state) == view


def test_negative_control_with_a_ledger_for_each_run_the_third_would_be_taken(tmp_path: Path) -> None:
    for run in ("monday", "another name", "a third"):
        charge(tmp_path / run, run, 10, cap=2.82)

    spent = [read_ledger(tmp_path / run).epsilon for run in ("monday", "another name", "a third")]
    assert max(spent) < epsilon([PLAN.event(300)], DELTA)
    assert epsilon([PLAN.event(300)], DELTA) > 2.82
