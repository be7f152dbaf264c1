"""Edits, deletions and older copies are noticed, with controls that show what notices them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrad.errors import LedgerError, LedgerTampered
from fedrad.ledger import chain, witness
from fedrad.ledger.ledger import Ledger
from fedrad.ledger.witness import read_witness, witness_file
from tests.ledger.ledgers import PLAN, edit, filled, opened


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
    with pytest.raises(LedgerTampered, match="not give a new budget"):
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
