from __future__ import annotations

import math
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrad import files
from fedrad.errors import BudgetExhausted, LedgerBusy, LedgerError, LedgerTampered, PlanError
from fedrad.ledger import chain, ledger, witness
from fedrad.ledger import file as ledger_file
from fedrad.ledger.ledger import Ledger
from fedrad.ledger.witness import read_witness, witness_file
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.filter import FILTER, MECHANISM, Account, Founding
from fedrad.privacy.filter import PLAN as PLAN_RULE
from fedrad.privacy.plan import PrivacyPlan

PLAN = PrivacyPlan.calibrate(epsilon=1.0, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0)
FREE = PrivacyPlan.calibrate(epsilon=0.0, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "state", tmp_path / "witness"


def opened(place: tuple[Path, Path], cap: float = 1.0, delta: float = 1e-5, site: str = "st. mary") -> Ledger:
    return Ledger.open(place[0], site=site, cap=cap, delta=delta, witness=place[1])


def filled(place: tuple[Path, Path], rounds: int = 3) -> None:
    with opened(place) as book:
        for number in range(1, rounds + 1):
            book.record_intent(run="r", round=number, plan=PLAN, steps=2)


def edit(place: tuple[Path, Path], *statements: str) -> None:
    database = sqlite3.connect(place[0] / "ledger.sqlite")
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_charges_are_kept(place: tuple[Path, Path]) -> None:
    filled(place)
    with opened(place) as book:
        assert book.view.events == [PLAN.event(2)] * 3
        assert book.view.epsilon == epsilon([PLAN.event(6)], 1e-5)
        book.mark_done(2)
        rows = book.rows()
        assert [(r.seq, r.run, r.round, r.steps, r.done) for r in rows] == [
            (1, "r", 1, 2, False),
            (2, "r", 2, 2, True),
            (3, "r", 3, 2, False),
        ]
        assert rows[0].plan == PLAN.to_json()
        assert book.view.events == [PLAN.event(2)] * 3  # done lowers nothing
        book.verify()
        with pytest.raises(LedgerError, match="no charge 4"):
            book.mark_done(4)
    with opened(place) as book:
        assert [r.done for r in book.rows()] == [False, True, False]


def test_files_are_for_their_owner_only(place: tuple[Path, Path]) -> None:
    filled(place)
    for folder in place:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for file in folder.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_settings_that_durability_rests_on(place: tuple[Path, Path]) -> None:
    with opened(place) as book:
        assert book._database.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
        assert book._database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert book.durable


def test_only_a_ledger_without_a_witness_may_leave_the_disk_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    monkeypatch.setattr(ledger_file, "sync_folder", synced.append)

    def founded(name: str, **options: bool) -> tuple[int, str, bool]:
        with Ledger.open(tmp_path / name, site="a", cap=1.0, delta=1e-5, **options) as book:
            (level,) = book._database.execute("PRAGMA synchronous").fetchone()
            (journal,) = book._database.execute("PRAGMA journal_mode").fetchone()
            return level, journal, book.durable

    assert founded("simulated", durable=False) == (0, "truncate", False)  # OFF; the journal is what undoes a kill
    assert synced == []
    assert founded("real") == (3, "delete", True)
    assert len(synced) == 2
    with pytest.raises(LedgerError, match="must be durable"):
        Ledger.open(tmp_path / "b", site="a", cap=1.0, delta=1e-5, witness=tmp_path / "witness", durable=False)


@pytest.mark.parametrize(("first", "second"), [("report", "patient"), ("patient", "report")])
def test_one_ledger_counts_one_unit(place: tuple[Path, Path], first: str, second: str) -> None:
    """A patient-level step says nothing of one more report of a patient who stays, nor the other way round."""
    with opened(place) as book:
        book.record_intent(run="r", round=1, plan=replace(PLAN, unit=first), steps=1)
        before = book.view.events
        with pytest.raises(LedgerError, match=f"counts by {first}.* by {second}"):
            book.record_intent(run="r", round=2, plan=replace(PLAN, unit=second), steps=1)
        assert book.view.events == before
        book.record_intent(run="r", round=2, plan=replace(PLAN, unit=first), steps=1)


# --- the cap


@pytest.mark.parametrize("target", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("split", [[20], [4] * 5, [7, 7, 6]])
def test_a_calibrated_plan_is_never_refused_but_one_more_step_is(
    tmp_path: Path, target: float, split: list[int]
) -> None:
    plan = PrivacyPlan.calibrate(epsilon=target, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0)
    with Ledger.open(tmp_path / "state", site="a", cap=target, delta=1e-5) as book:
        for number, steps in enumerate(split):
            book.record_intent(run="r", round=number, plan=plan, steps=steps)
        assert book.view.epsilon <= target
        assert book.remaining_steps(plan) == 0
        with pytest.raises(BudgetExhausted, match="There is room for 0 steps"):
            book.record_intent(run="r", round=99, plan=plan, steps=1)
        assert len(book.rows()) == len(split)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1.0, 1.5, 3.0])), min_size=1, max_size=4), st.floats(0.3, 2)
)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_cap_is_never_exceeded(tmp_path: Path, rounds: list[tuple[int, float]], cap: float) -> None:
    state = tmp_path / str(time.monotonic_ns())
    with Ledger.open(state, site="a", cap=cap, delta=1e-5) as book:
        for number, (steps, target) in enumerate(rounds):
            plan = PrivacyPlan.calibrate(
                epsilon=target, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0
            )
            before, room = book.rows(), book.remaining_steps(plan)
            try:
                book.record_intent(run="r", round=number, plan=plan, steps=steps)
            except BudgetExhausted:
                assert steps > room
                assert book.rows() == before
            else:
                assert steps <= room
            assert book.view.epsilon <= cap
    with Ledger.open(state, site="a", cap=cap, delta=1e-5) as book:
        assert book.view.epsilon <= cap


def test_a_second_plan_is_counted_by_the_filter_from_the_first_step_on(place: tuple[Path, Path]) -> None:
    other = replace(PLAN, noise_multiplier=2 * PLAN.noise_multiplier, steps=100)
    with opened(place, cap=3.0) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=20)
        assert book.view.account == Account((PLAN.event(20),), PLAN_RULE)
        assert book.view.epsilon == epsilon([PLAN.event(20)], 1e-5)
        book.record_intent(run="s", round=1, plan=other, steps=5)
        spent, account = book.view.epsilon, book.view.account
        assert account.rule == FILTER
        assert spent > epsilon([PLAN.event(20), other.event(5)], 1e-5)
    with opened(place, cap=3.0) as book:  # read back from the disk
        assert (book.view.epsilon, book.view.account) == (spent, account)
    with opened(place, cap=8.0) as book:  # the order stays as it was founded
        assert (book.view.epsilon, book.view.account) == (spent, account)


def test_a_first_plan_that_fills_the_cap_keeps_others_out_until_the_cap_is_raised(place: tuple[Path, Path]) -> None:
    other = replace(PLAN, noise_multiplier=10 * PLAN.noise_multiplier)
    with opened(place, cap=1.0) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        assert book.remaining_steps(other) == 0
        with pytest.raises(BudgetExhausted, match="first plan fills the cap by itself: in full, its 20 steps"):
            book.record_intent(run="s", round=1, plan=other, steps=1)
        assert book.remaining_steps(PLAN) == 19
        book.record_intent(run="r", round=2, plan=PLAN, steps=1)
    with opened(place, cap=1.3) as book:
        book.record_intent(run="s", round=1, plan=other, steps=1)


def test_a_fixed_mechanism_takes_no_other_steps_and_any_number_of_runs(place: tuple[Path, Path]) -> None:
    state, other = place[0], replace(PLAN, noise_multiplier=2 * PLAN.noise_multiplier)
    mechanism = (PLAN.sampling_rate, PLAN.noise_multiplier)
    with Ledger.open(state, site="a", cap=1.0, delta=1e-5, mechanism=mechanism) as book:
        for run in "rst":
            book.record_intent(run=run, round=1, plan=replace(PLAN, steps=len(book.rows()) + 5), steps=5)
        assert book.view.account == Account((PLAN.event(15),), MECHANISM)
        assert book.view.epsilon == epsilon([PLAN.event(15)], 1e-5)
        with pytest.raises(LedgerError, match=r"noise multiplier .* only; this plan is one"):
            book.record_intent(run="u", round=1, plan=other, steps=1)
    with Ledger.open(state, site="a", cap=1.0, delta=1e-5) as book, pytest.raises(LedgerError, match="only; this plan"):
        book.record_intent(run="u", round=1, plan=other, steps=1)  # also for who does not know of it
    with pytest.raises(LedgerError, match=r"founded for steps of sampling rate 0\.1 .*that is fixed"):
        Ledger.open(state, site="a", cap=1.0, delta=1e-5, mechanism=(0.1, 99.0))
    with Ledger.open(place[1], site="b", cap=1.0, delta=1e-5):
        pass
    with pytest.raises(LedgerError, match="founded for steps of any kind"):
        Ledger.open(place[1], site="b", cap=1.0, delta=1e-5, mechanism=mechanism)


def test_a_ledger_of_version_1_is_read_as_if_its_cap_had_been_1(place: tuple[Path, Path]) -> None:
    state = place[0]
    with Ledger.open(state, site="a", cap=8.0, delta=1e-5):
        pass
    edit(place, """UPDATE meta SET facts = '{"delta":1e-05,"nonce":"0","site":"a","version":1}'""")
    with Ledger.open(state, site="a", cap=8.0, delta=1e-5) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        assert book.view.epsilon == epsilon([PLAN.event(1)], 1e-5)
        book.record_intent(run="s", round=1, plan=replace(PLAN, steps=19), steps=1)
        assert book.view.account.order == Founding(1.0, 1e-5).order(PLAN.event(1))
    edit(place, """UPDATE meta SET facts = '{"delta":1e-05,"nonce":"0","site":"a","version":3}'""")
    with pytest.raises(LedgerError, match="another version of fedrad"):
        Ledger.open(state, site="a", cap=8.0, delta=1e-5)


def test_a_retried_round_is_charged_again(place: tuple[Path, Path]) -> None:
    with opened(place) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=2)
        once = book.view.epsilon
        book.record_intent(run="r", round=1, plan=PLAN, steps=2)
        assert len(book.view.events) == 2
        assert book.view.epsilon > once


def test_steps_without_noise_need_an_infinite_cap(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "a", site="a", cap=1e9, delta=1e-5) as book, pytest.raises(BudgetExhausted):
        book.record_intent(run="r", round=1, plan=FREE, steps=1)
    with Ledger.open(tmp_path / "b", site="a", cap=math.inf, delta=1e-5) as book:
        assert book.remaining_steps(FREE) == 20
        book.record_intent(run="r", round=1, plan=FREE, steps=1)
        assert book.view.epsilon == math.inf
    with Ledger.open(tmp_path / "b", site="a", cap=100.0, delta=1e-5) as book, pytest.raises(BudgetExhausted):
        book.record_intent(run="r", round=2, plan=PLAN, steps=1)  # what was published without noise stays published


def test_a_lowered_cap_stops_at_once(place: tuple[Path, Path]) -> None:
    filled(place)
    with opened(place, cap=0.1) as book, pytest.raises(BudgetExhausted):
        book.record_intent(run="r", round=4, plan=PLAN, steps=1)


@pytest.mark.parametrize("steps", [0, -1, True, 1.5])
def test_steps_must_be_counted(place: tuple[Path, Path], steps: int) -> None:
    with opened(place) as book, pytest.raises(PlanError):
        book.record_intent(run="r", round=1, plan=PLAN, steps=steps)


def test_delta_and_site_are_fixed(place: tuple[Path, Path]) -> None:
    filled(place, 1)
    with pytest.raises(LedgerError, match="delta 1e-05, and that is fixed"):
        opened(place, delta=1e-6)
    with pytest.raises(LedgerError, match="not of 'b'"):
        Ledger.open(place[0], site="b", cap=1.0, delta=1e-5)
    for cap, delta in [(-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0)]:
        with pytest.raises(LedgerError):
            opened(place, cap=cap, delta=delta)
    opened(place).close()  # and no failed opening kept the lock


# --- one process at a time


def test_a_second_holder_is_refused(place: tuple[Path, Path]) -> None:
    with opened(place):
        with pytest.raises(LedgerBusy):
            opened(place)
        code = (
            "import sys; from pathlib import Path; from fedrad.ledger.ledger import Ledger; "
            "Ledger.open(Path(sys.argv[1]), site='st. mary', cap=1.0, delta=1e-5)"
        )
        other = subprocess.run([sys.executable, "-c", code, place[0]], capture_output=True, text=True, check=False)
        assert other.returncode != 0
        assert "LedgerBusy" in other.stderr
    opened(place).close()


def test_a_forked_process_may_not_write(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(place) as book:
        parent = os.getpid()
        monkeypatch.setattr(ledger.os, "getpid", lambda: parent + 1)
        with pytest.raises(LedgerBusy):
            book.record_intent(run="r", round=1, plan=PLAN, steps=1)


def test_a_closed_ledger_refuses(place: tuple[Path, Path]) -> None:
    with opened(place) as book:
        pass
    with pytest.raises(LedgerError):
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)


# --- tampering


def tampering_is_noticed(place: tuple[Path, Path], tamper: Callable[[tuple[Path, Path]], None]) -> bool:
    filled(place)
    older = place[0].parent / "older.sqlite"
    shutil.copy(place[0] / "ledger.sqlite", older)
    with opened(place) as book:
        book.record_intent(run="r", round=4, plan=PLAN, steps=2)
        book.record_intent(run="r", round=5, plan=PLAN, steps=2)
    tamper(place)
    try:
        opened(place).close()
    except LedgerTampered as error:
        return "estore" in str(error)  # it says what to do
    return False


def truncate(place: tuple[Path, Path], size: int) -> None:
    os.truncate(place[0] / "ledger.sqlite", size)


def scribble(place: tuple[Path, Path]) -> None:
    path = place[0] / "ledger.sqlite"
    content = bytearray(path.read_bytes())
    middle = content.index(b'"steps":2')
    content[middle + 8 : middle + 9] = b"1"
    path.write_bytes(content)


def half_written(place: tuple[Path, Path]) -> None:
    path = place[0] / "ledger.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def replace_by_new(place: tuple[Path, Path]) -> None:
    (place[0] / "ledger.sqlite").unlink()
    with Ledger.open(place[0], site="st. mary", cap=1.0, delta=1e-5) as book:  # without the witness: looks new
        for number in range(5):
            book.record_intent(run="r", round=number, plan=PLAN, steps=1)


def forge(place: tuple[Path, Path]) -> None:
    """A charge that was lowered and hashed anew: only the charge after it tells."""
    database = sqlite3.connect(place[0] / "ledger.sqlite")
    with database:
        (body,) = database.execute("SELECT body FROM intent WHERE seq = 2").fetchone()
        lower = body.replace('"steps":2', '"steps":1')
        assert lower != body
        database.execute("UPDATE intent SET body = ?, hash = ? WHERE seq = 2", (lower, chain.sha256(lower)))
    database.close()


STEPS_2_TO_1 = "replace(body, '\"steps\":2', '\"steps\":1')"
MORE_NOISE = "replace(body, 'noise_multiplier\":', 'noise_multiplier\":9')"
TAMPERING: dict[str, Callable[[tuple[Path, Path]], None]] = {
    "row edited": lambda p: edit(p, f"UPDATE intent SET body = {STEPS_2_TO_1} WHERE seq = 2"),
    "row forged": forge,
    "noise edited": lambda p: edit(p, f"UPDATE intent SET body = {MORE_NOISE}"),
    "hash edited": lambda p: edit(p, "UPDATE intent SET hash = 'f' WHERE seq = 5"),
    "middle row removed": lambda p: edit(p, "DELETE FROM intent WHERE seq = 2"),
    "last row removed": lambda p: edit(p, "DELETE FROM intent WHERE seq = 5"),
    "all rows removed": lambda p: edit(p, "DELETE FROM intent"),
    "renumbered": lambda p: edit(p, "DELETE FROM intent WHERE seq = 1", "UPDATE intent SET seq = seq - 1"),
    "row added": lambda p: edit(p, "INSERT INTO intent SELECT seq + 1, body, hash FROM intent WHERE seq = 5"),
    "facts edited": lambda p: edit(p, "UPDATE meta SET facts = replace(facts, '1e-05', '0.01')"),
    "facts removed": lambda p: edit(p, "DELETE FROM meta"),
    "table dropped": lambda p: edit(p, "DROP TABLE intent"),
    "bytes changed": scribble,
    "file deleted": lambda p: (p[0] / "ledger.sqlite").unlink(),
    "folder deleted": lambda p: shutil.rmtree(p[0]),
    "file emptied": lambda p: truncate(p, 0),
    "file cut": lambda p: truncate(p, 5000),
    "half written": half_written,
    "no database": lambda p: (p[0] / "ledger.sqlite").write_text("hello " * 1000) and None,
    "older copy": lambda p: shutil.copy(p[0].parent / "older.sqlite", p[0] / "ledger.sqlite") and None,
    "replaced by a new one": replace_by_new,
    "witness removed": lambda p: witness_file(p[1], "st. mary").unlink(),
    "witness damaged": lambda p: witness_file(p[1], "st. mary").write_text("{") and None,
    "witness of another": lambda p: (
        witness_file(p[1], "st. mary").write_text('{"site": "b", "directory": "", "count": 0, "head": ""}') and None
    ),
    "witness set back": lambda p: witness.write_witness(p[1], witness.Witness("st. mary", "", 1, "0" * 64)),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_noticed(place: tuple[Path, Path], how: str) -> None:
    assert tampering_is_noticed(place, TAMPERING[how])


def test_negative_control_an_untouched_ledger_opens(place: tuple[Path, Path]) -> None:
    assert not tampering_is_noticed(place, lambda p: None)


def test_negative_control_without_a_witness_a_deletion_is_not_noticed(tmp_path: Path) -> None:
    """What the documentation says can't be noticed; the witness is what notices it above."""
    for _ in range(2):
        with Ledger.open(tmp_path / "state", site="a", cap=1.0, delta=1e-5) as book:
            assert book.view.events == []
            book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        (tmp_path / "state" / "ledger.sqlite").unlink()


def test_negative_control_without_the_chain_an_edit_is_not_noticed(
    place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = chain.sha256
    monkeypatch.setattr(chain, "sha256", lambda text: "constant")
    assert not tampering_is_noticed(place, TAMPERING["row edited"])
    monkeypatch.setattr(chain, "sha256", original)
    with pytest.raises(LedgerTampered):
        opened(place)


def test_a_new_folder_is_no_new_budget(place: tuple[Path, Path]) -> None:
    filled(place)
    with pytest.raises(LedgerTampered, match="no new budget"):
        opened((place[0].parent / "elsewhere", place[1]))


def test_a_ledger_may_move_with_its_folder(place: tuple[Path, Path]) -> None:
    filled(place)
    moved = place[0].parent / "moved"
    place[0].rename(moved)
    with opened((moved, place[1])) as book:
        assert len(book.view.events) == 3
    seen = read_witness(place[1], "st. mary")
    assert seen is not None
    assert seen.directory == str(moved)


def test_writing_behind_its_back_is_noticed(place: tuple[Path, Path]) -> None:
    with opened(place) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        edit(place, "DELETE FROM intent")
        with pytest.raises(LedgerTampered):
            book.record_intent(run="r", round=2, plan=PLAN, steps=1)


@pytest.mark.parametrize("name", ["ledger.sqlite", "ledger.lock"])
def test_removal_while_open_is_noticed(place: tuple[Path, Path], name: str) -> None:
    with opened(place) as book:
        (place[0] / name).unlink()
        with pytest.raises(LedgerTampered):
            book.record_intent(run="r", round=1, plan=PLAN, steps=1)


def test_adopt(place: tuple[Path, Path], tmp_path: Path) -> None:
    filled(place)
    witness_file(place[1], "st. mary").unlink()
    with pytest.raises(LedgerTampered, match=r"Ledger\.adopt"):
        opened(place)
    assert Ledger.adopt(place[0], site="st. mary", delta=1e-5, witness=place[1]) == 3
    opened(place).close()
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger.adopt(tmp_path / "nothing", site="st. mary", delta=1e-5, witness=place[1])


def test_adopt_never_lowers_a_charge(place: tuple[Path, Path]) -> None:
    filled(place)
    shutil.copy(place[0] / "ledger.sqlite", place[0].parent / "older")
    with opened(place) as book:
        book.record_intent(run="r", round=4, plan=PLAN, steps=2)
    shutil.copy(place[0].parent / "older", place[0] / "ledger.sqlite")
    # one row behind the witness, and adopting does not help
    for attempt in (
        lambda: opened(place),
        lambda: Ledger.adopt(place[0], site="st. mary", delta=1e-5, witness=place[1]),
    ):
        with pytest.raises(LedgerTampered, match="older copy"):
            attempt()


# --- crashes


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
    with pytest.raises(LedgerError, match="can't be read"):
        Ledger.open(tmp_path / "ok", site="a", cap=1.0, delta=1e-5, witness=tmp_path / "file")


# Between the rounds of a simulation


def simulated(folder: Path, cap: float = math.inf) -> Ledger:
    return Ledger.open(folder, site="a", cap=cap, delta=1e-5, durable=False)


def test_a_paused_ledger_is_anybodys_and_goes_on_only_if_nobody_came(tmp_path: Path) -> None:
    with simulated(tmp_path / "a") as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        book.pause()
        with pytest.raises(LedgerError, match="closed"):
            book.record_intent(run="r", round=2, plan=PLAN, steps=1)
        assert book.resume(site="a", cap=math.inf, delta=1e-5)
        with pytest.raises(LedgerBusy):
            simulated(tmp_path / "a")
        book.record_intent(run="r", round=2, plan=PLAN, steps=1)
        book.pause()
        with simulated(tmp_path / "a") as other:
            assert len(other.rows()) == 2
            with pytest.raises(LedgerBusy):
                book.resume(site="a", cap=math.inf, delta=1e-5)
        assert book.resume(site="a", cap=math.inf, delta=1e-5)  # it was only looked at
        book.pause()
        with simulated(tmp_path / "a") as other:
            other.record_intent(run="r", round=3, plan=PLAN, steps=1)
        assert not book.resume(site="a", cap=math.inf, delta=1e-5)


def test_a_paused_ledger_notices_what_became_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    with simulated(folder) as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        book.pause()
        assert not book.resume(site="b", cap=1.0, delta=1e-5)
        assert not book.resume(site="a", cap=1.0, delta=1e-6)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            assert not book.resume(site="a", cap=1.0, delta=1e-5)
        copy = (folder / "ledger.sqlite").read_bytes()
        (folder / "ledger.sqlite").unlink()
        assert not book.resume(site="a", cap=1.0, delta=1e-5)
        (folder / "ledger.sqlite").write_bytes(copy)
        assert not book.resume(site="a", cap=1.0, delta=1e-5)


def test_a_cap_holds_after_a_pause(tmp_path: Path) -> None:
    with simulated(tmp_path / "a") as book:
        book.record_intent(run="r", round=1, plan=PLAN, steps=1)
        book.pause()
        assert book.resume(site="a", cap=book.view.epsilon, delta=1e-5)
        with pytest.raises(BudgetExhausted):
            book.record_intent(run="r", round=2, plan=PLAN, steps=1)


def test_a_real_hospitals_ledger_is_never_paused(place: tuple[Path, Path]) -> None:
    with opened(place) as book, pytest.raises(LedgerError, match="durable"):
        book.pause()


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
