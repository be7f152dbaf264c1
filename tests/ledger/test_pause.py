"""Between the rounds of a simulation a ledger is paused, and goes on only if nobody used it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from fedrad.errors import BudgetExhausted, LedgerBusy, LedgerError
from tests.ledger.ledgers import PLAN, opened, simulated


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
