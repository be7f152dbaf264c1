"""What a ledger keeps, for whom, and who may open it."""

from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedrad import files
from fedrad.errors import LedgerBusy, LedgerError
from fedrad.ledger import file as ledger_file
from fedrad.ledger import ledger
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.accounting import epsilon
from tests.ledger.ledgers import PLAN, filled, opened


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
        with pytest.raises(LedgerError, match=f"has the unit {first}.* the unit {second}"):
            book.record_intent(run="r", round=2, plan=replace(PLAN, unit=second), steps=1)
        assert book.view.events == before
        book.record_intent(run="r", round=2, plan=replace(PLAN, unit=first), steps=1)


def test_delta_and_site_are_fixed(place: tuple[Path, Path]) -> None:
    filled(place, 1)
    with pytest.raises(LedgerError, match="the fixed delta 1e-05"):
        opened(place, delta=1e-6)
    with pytest.raises(LedgerError, match="not of 'b'"):
        Ledger.open(place[0], site="b", cap=1.0, delta=1e-5)
    for cap, delta in [(-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0)]:
        with pytest.raises(LedgerError):
            opened(place, cap=cap, delta=delta)
    opened(place).close()  # and no failed opening kept the lock


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
