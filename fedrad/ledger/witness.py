"""The witness of a ledger: a small file outside the state directory with the ledger's length and its last hash.

It detects the loss or the rollback of a ledger (in the literature: freshness or anti-rollback protection). There is one
file for each site, named by the site and not by the directory: the budget belongs to the site's reports, so a new state
directory does not give a new budget.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedrad.errors import LedgerTampered
from fedrad.files import private_folder, write_whole
from fedrad.ledger.durable import record_errors


@dataclass(frozen=True)
class Witness:
    """The state of the ledger after its last row.

    Attributes:
        site: the site's name.
        directory: where its ledger was, for messages only.
        count: its number of rows.
        head: the hash of its last row, or of its founding facts if it has no rows.
        answered: the last row whose result may have left the site (`Ledger.answered`).
    """

    site: str
    directory: str
    count: int
    head: str
    answered: int = 0


def witness_file(folder: Path, site: str) -> Path:
    """The path of a site's witness. It is hashed, because a site's name may contain any characters."""
    return folder / f"{hashlib.sha256(site.encode()).hexdigest()[:32]}.json"


def read_witness(folder: Path, site: str) -> Witness | None:
    """The witness, or None if there is none.

    Raises:
        LedgerTampered: the file holds something else.
        LedgerError: the folder can't be read.
    """
    path = witness_file(folder, site)
    with record_errors("The ledger's witness", path):
        if not path.exists():
            return None
        found = Witness(**json.loads(path.read_text()))
    if found.site != site or not isinstance(found.count, int) or found.count < 0:
        raise LedgerTampered(f"The ledger's witness {path} is not that of site {site!r}. Restore it from a backup.")
    return found


def write_witness(folder: Path, witness: Witness) -> None:
    """Replaces the site's witness atomically and durably (0600, in a folder of 0700)."""
    path = witness_file(folder, witness.site)
    with record_errors("The ledger's witness", path):
        private_folder(folder)
        write_whole(path, json.dumps(asdict(witness)).encode(), durable=True)


def is_behind(folder: Path, mine: Witness, hashes: Sequence[str]) -> bool:
    """Whether a ledger's witness must be written again. It may lag by one row, after a crash between the two writes.

    Args:
        mine: what the witness should say.
        hashes: of the ledger's rows.

    Raises:
        LedgerTampered: the witness describes another ledger or a longer one; or it is missing, but there are rows.
    """
    seen, path = read_witness(folder, mine.site), witness_file(folder, mine.site)
    if seen is None:
        if mine.count > 0:
            raise LedgerTampered(
                f"The ledger in {mine.directory} has {mine.count} charges, but its witness {path} is missing. Restore "
                "the witness; or, if you are sure that this is the newest copy of the ledger, call Ledger.adopt."
            )
    elif seen.count > mine.count:
        raise LedgerTampered(
            f"The ledger in {mine.directory} has {mine.count} charges, but {seen.count} are on record ({path}): it is "
            "an older copy. Restore the newest one."
        )
    elif seen.count < mine.count - 1 or (seen.count > 0 and hashes[seen.count - 1] != seen.head):
        raise LedgerTampered(
            f"The ledger in {mine.directory} and its witness {path} contradict each other. Restore both from the "
            "newest backup."
        )
    return seen != mine
