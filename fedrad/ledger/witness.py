"""The ledger's witness: a small file outside the state directory that remembers how long the ledger was, and its head.

It makes the loss or the rollback of a ledger visible. One file per site, named by the site and not by the directory:
the budget belongs to the site's reports, so a new state directory is no new budget.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedrad.errors import LedgerError, LedgerTampered
from fedrad.files import private_folder, write_whole


@dataclass(frozen=True)
class Witness:
    """What the ledger looked like after its last row.

    Attributes:
        site: the site's name.
        directory: where its ledger was, for messages only.
        count: its number of rows.
        head: the hash of its last row (of its founding facts, if it has none).
        answered: the last row whose result may have left the site (`Ledger.answered`).
    """

    site: str
    directory: str
    count: int
    head: str
    answered: int = 0


def witness_file(folder: Path, site: str) -> Path:
    """Where a site's witness lies; the site's name may hold any characters."""
    return folder / f"{hashlib.sha256(site.encode()).hexdigest()[:32]}.json"


def read_witness(folder: Path, site: str) -> Witness | None:
    """The witness, or None where there is none.

    Raises:
        LedgerTampered: it holds something else. It is written atomically, so no crash of ours leaves it so.
        LedgerError: the folder can't be read.
    """
    path = witness_file(folder, site)
    try:
        found = Witness(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"The ledger's witness {path} can't be read ({error.strerror}).") from None
    except (ValueError, TypeError):
        raise LedgerTampered(f"The ledger's witness {path} is damaged. Restore it from a backup.") from None
    if found.site != site or not isinstance(found.count, int) or found.count < 0:
        raise LedgerTampered(f"The ledger's witness {path} is not that of site {site!r}. Restore it from a backup.")
    return found


def write_witness(folder: Path, witness: Witness) -> None:
    """Replaces the site's witness atomically and durably (0600, in a folder of 0700)."""
    path = witness_file(folder, witness.site)
    try:
        private_folder(folder)
        write_whole(path, json.dumps(asdict(witness)).encode(), durable=True)
    except OSError as error:
        raise LedgerError(f"The ledger's witness {path} can't be written ({error.strerror}).") from None


def is_behind(folder: Path, mine: Witness, hashes: Sequence[str]) -> bool:
    """Whether a ledger's witness has to be written again. It may lag by one row (a crash between the two writes).

    Args:
        mine: what the witness should say.
        hashes: of the ledger's rows.

    Raises:
        LedgerTampered: the witness tells of another ledger, or of a longer one; or there is none, but there are rows.
    """
    seen, path = read_witness(folder, mine.site), witness_file(folder, mine.site)
    if seen is None:
        if mine.count > 0:
            raise LedgerTampered(
                f"The ledger in {mine.directory} has {mine.count} charges, but its witness {path} is missing. Restore "
                "the witness; or, if you vouch that this is the newest copy of the ledger, call Ledger.adopt."
            )
    elif seen.count > mine.count:
        raise LedgerTampered(
            f"The ledger in {mine.directory} has {mine.count} charges, but {seen.count} are on record ({path}): it is "
            "an older copy. Restore the newest one."
        )
    elif seen.count < mine.count - 1 or (seen.count > 0 and hashes[seen.count - 1] != seen.head):
        raise LedgerTampered(
            f"The ledger in {mine.directory} and its witness {path} tell different stories. Restore both from the "
            "newest backup."
        )
    return seen != mine
