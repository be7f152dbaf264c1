"""A site's ledger: every noisy step it is charged for, on disk, before the step is taken. Epsilon comes from here
alone.

Guarantee:
    When `Ledger.record_intent` returns, the charge survives a kill and a power cut (as far as the disk honours fsync),
    and the epsilon of all charges together, this one included, is at most the site's cap at the ledger's delta. So
    whatever is killed whenever, the ledger never holds fewer steps than were taken; a retried round is charged again.
    One process at a time: the lock is the kernel's, so a killed process frees it. Nothing lowers a charge.

What is noticed: an edited, removed, added or reordered row, a truncated, half-written or replaced file (hash chain, and
SQLite's own checks); and, given a witness folder outside the state directory, also a deleted or rolled-back ledger.

What can't be: somebody who may write both folders can set both back, or rewrite the whole chain. Without a witness, a
deleted ledger looks like a new one, and an older copy like the newest. Locks and fsync need a local file system.

A simulation has hundreds of ledgers and no patient to lose: it may open them with ``durable=False``. Then nothing waits
for the disk: a charge survives a kill of the process, as before, but not a power cut or a crash of the machine.
"""

from __future__ import annotations

import math
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from fedrad.errors import BudgetExhausted, LedgerBusy, LedgerError, LedgerTampered, PlanError
from fedrad.privacy import accounting, chain
from fedrad.privacy.accounting import Event
from fedrad.privacy.chain import Row
from fedrad.privacy.durable import explained, locked, private_folder, sync_folder
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.witness import Witness, read_witness, witness_file, write_witness

_VERSION = 1
_fields = lru_cache(maxsize=256)(asdict)  # of a plan, to be read only; a simulation's hospitals follow a few
_SCHEMA = """
CREATE TABLE meta (facts TEXT NOT NULL);
CREATE TABLE intent (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE done (seq INTEGER PRIMARY KEY, time TEXT NOT NULL);
"""


class Ledger:
    """Open it with `Ledger.open`, as a context manager; it holds the lock until it is closed."""

    def __init__(
        self, directory: Path, *, site: str, cap: float, witness: Path | None, lock: int, durable: bool
    ) -> None:
        self._directory, self._site, self._cap, self._witness = directory, site, cap, witness
        self.durable = durable
        self._lock = lock
        self._pid = os.getpid()
        self._path, self._lock_path = directory / "ledger.sqlite", directory / "ledger.lock"
        # Between `pause` and `resume` another thread may come by; `_lock` lets in one at a time.
        self._database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=durable)
        self._inode = self._path.stat().st_ino
        # EXTRA also syncs the folder after the rollback journal is gone, which is the moment a transaction counts.
        # Where nothing is synced, making and removing that file takes most of a charge's time: it stays, emptied.
        self._database.execute(f"PRAGMA journal_mode = {'DELETE' if durable else 'TRUNCATE'}")
        self._database.execute(f"PRAGMA synchronous = {_synchronous(durable)}")
        self._version = -1
        self._delta = 0.0
        self._genesis = ""
        self._rows: list[Row] = []
        self._hashes: list[str] = []

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
        shares_with: tuple[str, ...] = (),
    ) -> Ledger:
        """Opens the site's ledger, or founds it where there has been none, and checks all of it.

        Args:
            directory: the site's state directory (made 0700).
            site: the site's name; it names the witness.
            cap: the epsilon that the site never exceeds; ``math.inf`` only for simulations.
            delta: the delta that epsilon is stated at. Fixed when the ledger is founded.
            witness: a folder outside ``directory`` (and outside its backups) that remembers the ledger's length.
            durable: wait until each charge is on the disk. False is for simulated hospitals, which have no witness.
            shares_with: sites whose ledgers may be on the same reports (`bindings`): noted when a ledger is founded.

        Raises:
            LedgerBusy: another process has it open.
            LedgerTampered: rows, or the whole file, were changed or removed.
            LedgerError: it can't be written, or it was founded for another site or delta.
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
                        f"(it was in {seen.directory}). A new folder is no new budget."
                    )
                with explained(directory):
                    _found(directory, site=site, delta=delta, durable=durable, shares_with=shares_with)
            with explained(directory):
                ledger = cls(directory, site=site, cap=float(cap), witness=witness, lock=lock, durable=durable)
        except BaseException:
            os.close(lock)
            raise
        try:
            ledger.verify()
            if ledger._delta != delta:
                raise LedgerError(
                    f"The ledger in {directory} states epsilon at delta {ledger._delta}, and that is fixed. "
                    f"Set the site's delta back to {ledger._delta} instead of {delta}."
                )
            ledger._agree_with_witness()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def adopt(cls, directory: Path, *, site: str, delta: float, witness: Path) -> int:
        """Registers an existing ledger with a witness folder that knows nothing of it: after a move, or a lost witness.

        To be called by a person, who vouches that this is the newest copy of the ledger.

        Returns:
            How many charges it holds.

        Raises:
            LedgerTampered: the chain is broken, or the folder knows this site and says something else.
        """
        if not (Path(directory) / "ledger.sqlite").exists():
            raise LedgerError(f"There is no ledger in {directory}.")
        with cls.open(directory, site=site, cap=math.inf, delta=delta, witness=None) as ledger:
            ledger._witness = witness
            if read_witness(witness, site) is None:
                ledger._testify()
            ledger._agree_with_witness()
            return len(ledger._rows)

    def record_intent(self, *, run: str, round: int, plan: PrivacyPlan, steps: int) -> int:
        """Charges all noisy steps of a round. Only after it has returned may the first of them be taken.

        Returns:
            The charge's number, for `mark_done`.

        Raises:
            BudgetExhausted: the steps would exceed the cap; nothing was written.
            LedgerTampered: somebody else wrote to the ledger or its witness.
            LedgerError: it could not be written; the steps must not be taken (they may have been charged). Or the
                ledger counts another unit: one epsilon over reports and patients would be a promise to neither.
            PlanError: the number of steps is not positive.
        """
        self.check_room(plan, steps)
        seq = len(self._rows) + 1
        body = chain.canonical(
            {
                "previous": self._head(),
                "seq": seq,
                "run": run,
                "round": round,
                "steps": steps,
                "plan": _fields(plan),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        hashed = chain.sha256(body)
        with self._writing():
            stored = self._database.execute("SELECT count(*), max(seq) FROM intent").fetchone()
            last = self._database.execute("SELECT hash FROM intent WHERE seq = ?", (seq - 1,)).fetchone()
            if stored[0] != seq - 1 or (last is not None and last[0] != self._head()):
                raise LedgerTampered(f"{self._path} was changed by somebody else while it was open.")
            self._database.execute("INSERT INTO intent VALUES (?, ?, ?)", (seq, body, hashed))
        self._rows.append(chain.parsed(body, False)[1])
        self._hashes.append(hashed)
        self._testify()
        return seq

    def check_room(self, plan: PrivacyPlan, steps: int) -> None:
        """Whether these steps could be charged now; nothing is written.

        Raises: as ``record_intent``.
        """
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise PlanError(f"A round takes one step or more, not {steps}.")
        self._agree_with_witness()
        if self._rows and self._rows[-1].unit != plan.unit:
            raise LedgerError(
                f"The ledger in {self._directory} counts by {self._rows[-1].unit}, and this plan by {plan.unit}: no"
                " epsilon is true of both. Keep one privacy.unit for all runs of a site."
            )
        spent = accounting.epsilon([*self.events(), plan.event(steps)], self._delta)
        if spent > self._cap:
            raise BudgetExhausted(
                f"Site {self._site!r} has spent epsilon {self.epsilon():.6g} of {self._cap:.6g} (delta {self._delta}); "
                f"{steps} more steps would make it {spent:.6g}. There is room for {self.remaining_steps(plan)} steps."
            )

    def mark_done(self, seq: int) -> None:
        """Notes that a charge's steps were all taken. It changes no charge."""
        if not 1 <= seq <= len(self._rows):
            raise LedgerError(f"There is no charge {seq} in {self._path}.")
        with self._writing():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._database.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (seq, now))

    def rows(self) -> list[Row]:
        """All charges, oldest first."""
        with explained(self._directory):
            done = {seq for (seq,) in self._database.execute("SELECT seq FROM done")}
        return [Row(**{**vars(row), "done": row.seq in done}) for row in self._rows]

    def events(self) -> list[Event]:
        """All charges for the accountant, one each."""
        return [row.event for row in self._rows]

    def epsilon(self) -> float:
        """What all charges together have spent at the ledger's delta."""
        return accounting.epsilon(self.events(), self._delta)

    def remaining_steps(self, plan: PrivacyPlan) -> int:
        """How many more steps of this plan the cap has room for, at most ``plan.steps``."""
        fits, too_many = 0, plan.steps + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if accounting.epsilon([*self.events(), plan.event(middle)], self._delta) <= self._cap:
                fits = middle
            else:
                too_many = middle
        return fits

    def verify(self) -> None:
        """Reads the whole ledger again and checks SQLite's pages, the founding facts and the chain.

        Raises:
            LedgerTampered: something was changed or removed.
        """
        self._version = self._data_version()
        found = chain.read_chain(self._database, self._path)
        if found.site != self._site:
            raise LedgerError(f"{self._path} is the ledger of site {found.site!r}, not of {self._site!r}.")
        self._delta, self._genesis = found.delta, found.genesis
        self._rows, self._hashes = list(found.rows), list(found.hashes)

    def close(self) -> None:
        """Closes the file and frees the lock."""
        self._database.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def pause(self) -> None:
        """Frees the lock, so that any process may open the ledger, and keeps the file open for `resume`.

        For simulations, which come back to hundreds of ledgers in every round.

        Raises:
            LedgerError: it is durable: a real hospital's is checked whenever it is opened.
        """
        if self.durable:
            raise LedgerError(f"{self._path} is durable: close it instead.")
        os.close(self._lock)
        self._lock = -1

    def resume(self, *, site: str, cap: float, delta: float) -> bool:
        """Takes the lock again, after `pause`.

        Returns:
            False if the file may not be what was checked: it was replaced or charged meanwhile, by whomever, or this is
            another process. Close it and open it anew. (Somebody who writes around SQLite is noticed then as well.)

        Raises:
            LedgerBusy: another process has it open.
        """
        if os.getpid() != self._pid or (site, delta) != (self._site, self._delta) or not self._path.exists():
            return False
        self._cap = float(cap)
        with explained(self._directory):
            self._lock = locked(self._directory)
            return self._is_same_file() and self._data_version() == self._version

    def _data_version(self) -> int:
        """A number that changes with every commit by another connection."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _head(self) -> str:
        return self._hashes[-1] if self._hashes else self._genesis

    def _testify(self) -> None:
        if self._witness is not None:
            write_witness(self._witness, Witness(self._site, str(self._directory), len(self._rows), self._head()))

    def _agree_with_witness(self) -> None:
        """The witness must tell of this very ledger; it may lag by one row (a crash between the two writes)."""
        if self._witness is None:
            return
        seen = read_witness(self._witness, self._site)
        path, count = witness_file(self._witness, self._site), len(self._rows)
        if seen is None:
            if count > 0:
                raise LedgerTampered(
                    f"The ledger in {self._directory} has {count} charges, but its witness {path} is missing. Restore "
                    "the witness; or, if you vouch that this is the newest copy of the ledger, call Ledger.adopt."
                )
        elif seen.count > count:
            raise LedgerTampered(
                f"The ledger in {self._directory} has {count} charges, but {seen.count} are on record ({path}): it is "
                "an older copy. Restore the newest one."
            )
        elif seen.count < count - 1 or (seen.count > 0 and self._hashes[seen.count - 1] != seen.head):
            raise LedgerTampered(
                f"The ledger in {self._directory} and its witness {path} tell different stories. Restore both from the "
                "newest backup."
            )
        elif seen == Witness(self._site, str(self._directory), count, self._head()):
            return
        self._testify()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction on the very file that was opened, by the very process that opened it."""
        if os.getpid() != self._pid:
            raise LedgerBusy(f"{self._path} was opened by another process; open it in the one that trains.")
        if self._lock < 0:
            raise LedgerError(f"{self._path} is closed.")
        with explained(self._directory):
            self._same_file()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._same_file()

    def _same_file(self) -> None:
        if not self._is_same_file():
            raise LedgerTampered(f"{self._path} or its lock was removed or replaced while it was open. Restore it.")

    def _is_same_file(self) -> bool:
        try:
            same = os.stat(self._path).st_ino == self._inode
            return same and os.stat(self._lock_path).st_ino == os.fstat(self._lock).st_ino
        except FileNotFoundError:
            return False


def _synchronous(durable: bool) -> str:
    """SQLite's name for it. OFF still writes the rollback journal first, so a killed process leaves a whole ledger."""
    return "EXTRA" if durable else "OFF"


def _found(directory: Path, *, site: str, delta: float, durable: bool, shares_with: tuple[str, ...]) -> None:
    """A new, empty ledger: complete under another name first, so that a half-made one never has the real name."""
    partial = directory / "ledger.partial"
    for leftover in (partial, directory / "ledger.partial-journal"):
        leftover.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    # The nonce tells two ledgers of one site apart, so a fresh one can't pass for the one on record.
    facts: dict[str, object] = {"version": _VERSION, "site": site, "delta": delta, "nonce": secrets.token_hex(16)}
    if shares_with:
        facts["shares-reports-with"] = list(shares_with)
    database = sqlite3.connect(partial, isolation_level=None)
    try:
        database.execute(f"PRAGMA synchronous = {_synchronous(durable)}")
        database.executescript(_SCHEMA)
        database.execute("INSERT INTO meta VALUES (?)", (chain.canonical(facts),))
    finally:
        database.close()
    partial.rename(directory / "ledger.sqlite")
    if durable:
        sync_folder(directory)
        sync_folder(directory.parent)
