"""Read-only access to a ledger, checked as strictly as for a charge, also while another process has it open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fedrad.errors import LedgerError
from fedrad.ledger.chain import LedgerView, read_chain
from fedrad.ledger.durable import ledger_file

_PATIENCE = 5.0  # seconds; a charge takes milliseconds


def read_ledger(directory: Path) -> LedgerView:
    """Reads a site's ledger, changes nothing, and never makes a charge fail.

    It does not check the witness: only the hospital, when it opens its ledger, can detect an older copy.

    Args:
        directory: a hospital's state directory, or ``ledger/<site>`` in a run directory.

    Raises:
        LedgerTampered: something in it was changed or removed.
        LedgerError: there is no ledger, or it can't be read now.
    """
    directory = Path(directory).absolute()
    path = ledger_file(directory)
    try:
        with closing(sqlite3.connect(":memory:")) as copy:
            # Copied at once, because a reader keeps the hospital from committing for as long as it reads.
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)) as source:
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # waits for a commit under way
                source.backup(copy)
            return read_chain(copy, path)
    except sqlite3.OperationalError as error:
        why, remedy = _explained(error)
        raise LedgerError(f"The ledger in {directory} can't be read now: {why}. {remedy}") from None
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path} is not a ledger, or it is damaged: {error}. Restore the newest copy.") from None


def _explained(error: sqlite3.OperationalError) -> tuple[str, str]:
    name = error.sqlite_errorname
    if name.startswith("SQLITE_READONLY"):
        why = "a charge was interrupted by a kill or a power cut, and only a writer can roll it back"
        return why, "Start the hospital, which rolls it back when it opens its ledger; then try again."
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "it is being written to", "Try again."
    return str(error), "Check that you may read it."
