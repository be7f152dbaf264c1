"""What a ledger's file says: the founding facts, and a chain of charges in which each one names the hash of the last.

Reading and checking only. ``ledger.py`` writes the chain, ``ledger_view.py`` shows it, and both read it here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedrad.errors import LedgerTampered
from fedrad.privacy.accounting import Event


@dataclass(frozen=True)
class Row:
    """One charge. Everything in it is public but ``time``, which only the site sees.

    Attributes:
        seq: its number, from 1.
        run: the run, as the server names it.
        round: the round of that run.
        steps: noisy steps charged.
        plan: the plan they were taken by, as JSON.
        event: the same for the accountant.
        time: when it was written, UTC.
        done: whether the steps were all taken; informational, charged anyway.
    """

    seq: int
    run: str
    round: int
    steps: int
    plan: str
    event: Event
    time: str
    done: bool

    @property
    def unit(self) -> str:
        """What the plan's guarantee protects."""
        return str(json.loads(self.plan)["unit"])


@dataclass(frozen=True)
class Chain:
    """A ledger's content, checked.

    Attributes:
        site: whose it is.
        delta: what epsilon is stated at.
        genesis: hash of the founding facts, which the first charge names.
        rows: all charges, oldest first.
        hashes: theirs.
    """

    site: str
    delta: float
    genesis: str
    rows: tuple[Row, ...]
    hashes: tuple[str, ...]


def read_chain(database: sqlite3.Connection, path: Path) -> Chain:
    """Reads a whole ledger and checks SQLite's pages, the founding facts and the chain.

    Args:
        path: of the ledger, for messages.

    Raises:
        LedgerTampered: something was changed or removed.
    """
    remedy = f"Restore the newest {path} from a backup; don't edit it."
    try:
        if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise LedgerTampered(f"{path} is damaged. {remedy}")
        (founding,) = database.execute("SELECT facts FROM meta").fetchall()
        stored = database.execute("SELECT seq, body, hash FROM intent ORDER BY seq").fetchall()
        done = {seq for (seq,) in database.execute("SELECT seq FROM done")}
        facts = json.loads(founding[0])
        site, delta = str(facts["site"]), float(facts["delta"])
        genesis = head = sha256(founding[0])
        rows, hashes = [], []
        for expected, (seq, body, hashed) in enumerate(stored, start=1):
            previous, row = parsed(body, seq in done)
            if not seq == row.seq == expected or previous != head or sha256(body) != hashed:
                raise LedgerTampered(f"{path}: charge {expected} was changed or removed. {remedy}")
            head = hashed
            rows.append(row)
            hashes.append(hashed)
    except (sqlite3.DatabaseError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise LedgerTampered(f"{path} can't be read as a ledger ({type(error).__name__}). {remedy}") from None
    return Chain(site, delta, genesis, tuple(rows), tuple(hashes))


# A hospital's charges are read again in every round. Their text is compared with its hash each time; what it means is a
# pure function of it.
@lru_cache(maxsize=8192)
def parsed(body: str, done: bool) -> tuple[str, Row]:
    """The hash of the charge before, and the charge that a stored body means."""
    content: dict[str, Any] = json.loads(body)
    plan = content["plan"]
    event = Event(
        plan["expected_batch"] / plan["declared_size"], float(plan["noise_multiplier"]), int(content["steps"])
    )
    return content["previous"], Row(
        seq=content["seq"],
        run=content["run"],
        round=content["round"],
        steps=event.steps,
        plan=canonical(plan),
        event=event,
        time=content["time"],
        done=done,
    )


def canonical(value: dict[str, Any]) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def sha256(text: str) -> str:
    """Of the text in UTF-8, hex."""
    return hashlib.sha256(text.encode()).hexdigest()
