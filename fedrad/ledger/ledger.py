"""A site's ledger: every noisy step is written to disk as a charge before it is taken (a write-ahead log).

Epsilon is computed from the ledger only.

Guarantee:
    When `Ledger.record_intent` returns, the charge survives a kill and a power cut (as far as the disk honours fsync).
    All charges together, including this one, are within the site's cap at the ledger's delta, even if each plan was
    chosen after seeing the results of the last one (`filter` has the rules, the theorem and its assumptions). So the
    ledger never holds fewer steps than were taken, whatever is killed at whatever time; a retried round is charged
    again. A charge pays for one result: `unanswered` offers the last charge again only if ledger and witness both show
    that no result was handed out for it (`mark_done` is called first, and is synced). One process at a time can open
    the ledger; the kernel frees the lock of a killed process. Nothing lowers a charge.

Detected: an edited, removed, added or reordered row; a truncated, half-written or replaced file (by the hash chain and
SQLite's own checks); and with a witness folder outside the state directory also a deleted or rolled-back ledger.

Not detected: somebody who may write to both folders can set both back, or rewrite the whole chain. Without a witness, a
deleted ledger looks like a new one, and an old copy like the newest. Locks and fsync need a local file system.

A simulation has hundreds of ledgers and no patients to protect, so it may open them with ``durable=False``. Then
nothing waits for the disk: a charge still survives a kill of the process, but not a power cut or a machine crash.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Self

from fedrad.errors import LedgerError, LedgerTampered, PlanError
from fedrad.files import private_folder
from fedrad.ledger import chain
from fedrad.ledger.chain import LedgerView, Row
from fedrad.ledger.durable import explained, locked
from fedrad.ledger.file import LedgerFile, found
from fedrad.ledger.room import check_founding, check_room
from fedrad.ledger.witness import Witness, is_behind, read_witness, witness_file, write_witness
from fedrad.privacy import accounting
from fedrad.privacy.filter import Founding
from fedrad.privacy.plan import PrivacyPlan

_fields = lru_cache(maxsize=256)(asdict)  # the fields of a plan, read-only; a simulation has few different plans


class Ledger:
    """A context manager, opened with `Ledger.open`. It holds the lock until it is closed."""

    def __init__(
        self, directory: Path, *, site: str, cap: float, witness: Path | None, lock: int, durable: bool
    ) -> None:
        self._directory, self._site, self._cap, self._witness = directory, site, cap, witness
        self.durable = durable
        self.answered = 0  # the last charge whose result may have left the site; no result of a later one has
        self.view: LedgerView  # the checked content, set by `verify`
        self._file = LedgerFile(directory, lock=lock, durable=durable)
        self._path, self._database = self._file.path, self._file.database

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        site: str,
        cap: float,
        delta: float,
        witness: Path | None = None,
        durable: bool = True,
        mechanism: tuple[float, float] | None = None,
        shares_with: tuple[str, ...] = (),
    ) -> Ledger:
        """Opens and checks the site's ledger, or makes a new one if there has been none.

        Args:
            directory: the site's state directory (made 0700).
            site: the site's name; it identifies the witness.
            cap: the epsilon that the site never exceeds; ``math.inf`` only for simulations. The filter's order is
                chosen for the cap at the time the ledger is made; another cap later costs some epsilon.
            delta: the delta of every epsilon of this ledger. Fixed when the ledger is made.
            witness: a folder outside ``directory`` (and outside its backups) that records the ledger's length.
            durable: wait until each charge is on the disk. False is for simulated hospitals, which have no witness.
            mechanism: (sampling rate, noise multiplier) that every step must have. Fixed when the ledger is made, also
                for later calls that omit it.
            shares_with: sites whose ledgers may be on the same reports (`bindings`); recorded in the founding facts if
                nothing has been charged yet.

        Raises:
            LedgerBusy: another process has it open.
            LedgerTampered: rows, or the whole file, were changed or removed.
            LedgerError: it can't be written, or it was made for another site, delta or mechanism.
        """
        if not cap >= 0:
            raise LedgerError(f"The epsilon cap must be 0 or more, not {cap}.")
        if not accounting.SMALLEST_DELTA <= delta < 1:
            raise LedgerError(f"delta must be at least {accounting.SMALLEST_DELTA} and below 1, not {delta}.")
        if witness is not None and not durable:
            raise LedgerError("A ledger with a witness is a real hospital's: it must be durable.")
        directory = Path(directory).absolute()
        with explained(directory):
            private_folder(directory)
            lock = locked(directory)
        try:
            seen = read_witness(witness, site) if witness else None
            if not (directory / "ledger.sqlite").exists():
                if seen is not None and seen.count > 0:
                    raise LedgerTampered(
                        f"Site {site!r} has no ledger in {directory}, but {seen.count} charges are on record "
                        f"({witness_file(witness, site) if witness else ''}). Restore the newest ledger.sqlite "
                        f"(it was in {seen.directory}). A new folder does not give a new budget."
                    )
                with explained(directory):
                    founding = Founding(float(cap), float(delta), mechanism)
                    found(directory, site=site, founding=founding, durable=durable)
            with explained(directory):
                ledger = cls(directory, site=site, cap=float(cap), witness=witness, lock=lock, durable=durable)
        except BaseException:
            os.close(lock)
            raise
        try:
            ledger.verify()
            check_founding(ledger.view, delta, mechanism, f"The ledger in {directory}")
            ledger._agree_with_witness()
            if shares_with and not ledger.view.rows:
                ledger._file.note_consent(shares_with)
                ledger.verify()
                ledger._agree_with_witness()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def adopt(cls, directory: Path, *, site: str, delta: float, witness: Path) -> int:
        """Registers an existing ledger in a new witness folder, after a move or the loss of the witness.

        Only for a person who is sure that this is the newest copy of the ledger.

        Returns:
            How many charges it holds.

        Raises:
            LedgerTampered: the chain is broken, or the folder has another record of this site.
        """
        if not (Path(directory) / "ledger.sqlite").exists():
            raise LedgerError(f"There is no ledger in {directory}.")
        with cls.open(directory, site=site, cap=math.inf, delta=delta, witness=None) as ledger:
            ledger._witness, ledger.answered = witness, len(ledger.view.rows)  # nobody knows what was handed out
            if read_witness(witness, site) is None:
                ledger._write_witness()
            ledger._agree_with_witness()
            return len(ledger.view.rows)

    def record_intent(self, *, run: str, round: int, plan: PrivacyPlan, steps: int, request: str = "") -> int:
        """Charges all noisy steps of a round. None of them may be taken before it has returned.

        Args:
            request: digest of all that decides what the steps compute, for `unanswered`.

        Returns: the charge's number, for `mark_done`.

        Raises:
            BudgetExhausted: the steps would exceed the cap; nothing was written.
            LedgerTampered: somebody else wrote to the ledger or its witness.
            LedgerError: it could not be written, so the steps must not be taken (they may have been charged); or the
                plan's unit is not the ledger's, since one epsilon over reports and patients would protect neither.
            PlanError: the number of steps is not positive.
        """
        self.check_room(plan, steps)
        seq = len(self.view.rows) + 1
        body = chain.canonical(
            {
                "previous": self.view.head,
                "seq": seq,
                "run": run,
                "round": round,
                "steps": steps,
                "plan": _fields(plan),
                "request": request,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        hashed = chain.sha256(body)
        with self._file.writing():
            stored = self._database.execute("SELECT count(*), max(seq) FROM intent").fetchone()
            last = self._database.execute("SELECT hash FROM intent WHERE seq = ?", (seq - 1,)).fetchone()
            if stored[0] != seq - 1 or (last is not None and last[0] != self.view.head):
                raise LedgerTampered(f"{self._path} was changed by another program while it was open.")
            self._database.execute("INSERT INTO intent VALUES (?, ?, ?)", (seq, body, hashed))
        rows = (*self.view.rows, chain.parsed(body, False)[1])
        self.view = replace(self.view, rows=rows, hashes=(*self.view.hashes, hashed))
        self._write_witness()
        return seq

    def check_room(self, plan: PrivacyPlan, steps: int) -> None:
        """Raises what ``record_intent`` would, and writes nothing."""
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise PlanError(f"A round takes one step or more, not {steps}.")
        self._agree_with_witness()
        check_room(self.view, self._cap, plan, steps, f"The ledger in {self._directory}")

    def unanswered(self, *, run: str, round: int, plan: PrivacyPlan, steps: int, request: str) -> int:
        """The number of the last charge, if it is for this very request and nothing that it paid for was handed out.

        The steps may then be taken for that charge, whatever cut off those who took them before. 0: there is none.

        Raises:
            BudgetExhausted: the cap has been lowered since, and is too small for it.
        """
        self._agree_with_witness()
        view = self.view
        if not request or self.answered >= len(view.rows):
            return 0
        if not view.rows[-1].is_for(run, round, steps, chain.canonical(_fields(plan)), request):
            return 0
        check_room(replace(view, rows=view.rows[:-1]), self._cap, plan, steps, f"The ledger in {self._directory}")
        return len(view.rows)

    def mark_done(self, seq: int) -> None:
        """Records that the result of a charge is about to be handed out; call it before. It changes no charge."""
        if not 1 <= seq <= len(self.view.rows):
            raise LedgerError(f"There is no charge {seq} in {self._path}.")
        with self._file.writing():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._database.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (seq, now))
        self.answered = max(self.answered, seq)
        self._write_witness()  # so that an older copy of the file does not take it for unanswered

    def rows(self) -> list[Row]:
        """All charges, oldest first."""
        with explained(self._directory):
            done = {seq for (seq,) in self._database.execute("SELECT seq FROM done")}
        return [Row(**{**vars(row), "done": row.seq in done}) for row in self.view.rows]

    def verify(self) -> None:
        """Reads the whole ledger again into ``view``, and checks SQLite's pages, the founding facts and the chain.

        Raises:
            LedgerTampered: something was changed or removed.
        """
        self._version = self._file.version()
        read = chain.read_chain(self._database, self._path)
        if read.site != self._site:
            raise LedgerError(f"{self._path} is the ledger of site {read.site!r}, not of {self._site!r}.")
        self.view = read
        ((done,),) = self._database.execute("SELECT max(seq) FROM done").fetchall()
        self.answered = max(self.answered, done or 0)

    def close(self) -> None:
        """Closes the file and frees the lock."""
        self._file.close()

    def pause(self) -> None:
        """Frees the lock, so that any process may open the ledger, and keeps the file open for `resume`.

        For simulations, which use hundreds of ledgers in every round.

        Raises:
            LedgerError: it is durable; a real hospital's ledger is checked whenever it is opened.
        """
        self._file.pause()

    def resume(self, *, site: str, cap: float, delta: float) -> bool:
        """Takes the lock again, after `pause`.

        Returns:
            False if the file may have changed since it was checked (it was replaced or charged), or if this is another
            process. Then close it and open it again, which also detects writes that bypass SQLite.

        Raises:
            LedgerBusy: another process has it open.
        """
        if (site, delta) != (self._site, self.view.delta):
            return False
        self._cap = float(cap)
        return self._file.resume(self._version)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_witness(self) -> None:
        if self._witness is not None:
            write_witness(self._witness, self._as_witnessed())

    def _agree_with_witness(self) -> None:
        """Checks that the witness describes this ledger, and updates it if it lags."""
        if self._witness is None:
            return
        if seen := read_witness(self._witness, self._site):
            self.answered = max(self.answered, seen.answered)
        if is_behind(self._witness, self._as_witnessed(), self.view.hashes):
            self._write_witness()

    def _as_witnessed(self) -> Witness:
        return Witness(self._site, str(self._directory), len(self.view.rows), self.view.head, self.answered)
