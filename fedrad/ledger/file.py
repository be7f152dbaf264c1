"""A ledger's file: making a new one, and writing to exactly the file that this process opened."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedrad.errors import LedgerBusy, LedgerError, LedgerTampered
from fedrad.files import sync_folder, write_whole
from fedrad.ledger.chain import VERSION, canonical
from fedrad.ledger.durable import explained, locked
from fedrad.privacy.filter import Founding

_SCHEMA = """
CREATE TABLE meta (facts TEXT NOT NULL);
CREATE TABLE intent (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE done (seq INTEGER PRIMARY KEY, time TEXT NOT NULL);
"""

_CONSENTS = "shares-reports-with"


class LedgerFile:
    """The database of a site, with the lock of its directory.

    Args:
        directory: the site's state directory, with a ledger in it.
        lock: the descriptor from `durable.locked`.
        durable: wait until each transaction is on the disk.
    """

    def __init__(self, directory: Path, *, lock: int, durable: bool) -> None:
        self.path, self._lock_path = directory / "ledger.sqlite", directory / "ledger.lock"
        self._directory, self._durable = directory, durable
        self._lock = lock
        self._pid = os.getpid()
        # Another thread may use the ledger between `pause` and `resume`; `_lock` admits one at a time.
        self.database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=durable)
        self._inode = self.path.stat().st_ino
        # EXTRA also syncs the folder after the rollback journal is removed, which commits the transaction. Without
        # syncing, creating and removing that file takes most of a charge's time, so it is truncated instead.
        self.database.execute(f"PRAGMA journal_mode = {'DELETE' if durable else 'TRUNCATE'}")
        self.database.execute(f"PRAGMA synchronous = {_synchronous(durable)}")

    def version(self) -> int:
        """A number that changes with every commit by another connection."""
        return int(self.database.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction.

        Raises:
            LedgerBusy: another process opened the file.
            LedgerTampered: it is no longer the file that was opened.
            LedgerError: it is closed, or can't be written.
        """
        if os.getpid() != self._pid:
            raise LedgerBusy(f"{self.path} was opened by another process; open it in the one that trains.")
        if self._lock < 0:
            raise LedgerError(f"{self.path} is closed.")
        with explained(self._directory):
            self._check_same()
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.database.execute("COMMIT")
            except BaseException:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise
            self._check_same()

    def note_consent(self, shares_with: tuple[str, ...]) -> None:
        """Adds sites to the founding facts of a ledger without charges.

        The ledger may be older than the consent, because the refusal that a person answers by consenting leaves an
        empty ledger.

        Raises: as ``writing``.
        """
        ((text,),) = self.database.execute("SELECT facts FROM meta").fetchall()
        facts = json.loads(text)
        known = facts.get(_CONSENTS, [])
        if not set(shares_with) <= set(known):
            facts[_CONSENTS] = sorted({*known, *shares_with})
            with self.writing():
                self.database.execute("UPDATE meta SET facts = ?", (canonical(facts),))

    def pause(self) -> None:
        """Frees the lock and keeps the file open.

        Raises:
            LedgerError: it is durable.
        """
        if self._durable:
            raise LedgerError(f"{self.path} is durable: close it instead.")
        os.close(self._lock)
        self._lock = -1

    def resume(self, version: int) -> bool:
        """Takes the lock again.

        Args:
            version: the result of `version` when the content was checked.

        Returns:
            False if this is another process, or the file may have changed since it was checked.

        Raises:
            LedgerBusy: another process has it open.
        """
        if os.getpid() != self._pid or not self.path.exists():
            return False
        with explained(self._directory):
            self._lock = locked(self._directory)
            return self._is_same() and self.version() == version

    def close(self) -> None:
        """Closes the file and frees the lock."""
        self.database.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _check_same(self) -> None:
        if not self._is_same():
            raise LedgerTampered(f"{self.path} or its lock was removed or replaced while it was open. Restore it.")

    def _is_same(self) -> bool:
        try:
            same = os.stat(self.path).st_ino == self._inode
            return same and os.stat(self._lock_path).st_ino == os.fstat(self._lock).st_ino
        except FileNotFoundError:
            return False


def found(directory: Path, *, site: str, founding: Founding, durable: bool) -> None:
    """Writes a new, empty ledger, under another name first, so that the real name never holds an incomplete one.

    Args:
        directory: the site's state directory, locked by the caller.
    """
    facts: dict[str, object] = {
        "version": VERSION,
        "site": site,
        "delta": founding.delta,
        "cap": founding.cap,
        "mechanism": founding.mechanism,
        # Distinguishes two ledgers of one site, so that a new one can't replace the recorded one unnoticed.
        "nonce": secrets.token_hex(16),
    }
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_SCHEMA)
        database.execute("INSERT INTO meta VALUES (?)", (canonical(facts),))
        database.commit()
        write_whole(directory / "ledger.sqlite", database.serialize(), durable=durable)
    if durable:
        sync_folder(directory.parent)


def _synchronous(durable: bool) -> str:
    """SQLite's setting. OFF still writes the rollback journal first, so a killed process leaves a valid ledger."""
    return "EXTRA" if durable else "OFF"
