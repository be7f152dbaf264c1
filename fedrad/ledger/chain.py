"""What a ledger's file says: the founding facts, and a chain of charges in which each one names the hash of the last.

Reading and checking only. ``ledger_file.py`` writes the facts and ``ledger.py`` the charges, ``ledger_view.py`` shows
them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedrad.errors import LedgerError, LedgerTampered
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import Charge, Founding

VERSION = 2
# Version 1 had no filter and kept no cap. Any that was not chosen by results will do.
_CAP_OF_VERSION_1 = 1.0


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
        planned: how many steps the plan has in all.
    """

    seq: int
    run: str
    round: int
    steps: int
    plan: str
    event: Event
    time: str
    done: bool
    planned: int

    @property
    def charge(self) -> Charge:
        """For the rule that counts the ledger."""
        return Charge(self.event, self.planned)

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
        founding: by which rule the charges are counted.
        genesis: hash of the founding facts, which the first charge names.
        rows: all charges, oldest first.
        hashes: theirs.
    """

    site: str
    delta: float
    founding: Founding
    genesis: str
    rows: tuple[Row, ...]
    hashes: tuple[str, ...]


def read_chain(database: sqlite3.Connection, path: Path) -> Chain:
    """Reads a whole ledger and checks SQLite's pages, the founding facts and the chain.

    Args:
        path: of the ledger, for messages.

    Raises:
        LedgerTampered: something was changed or removed.
        LedgerError: a later version of fedrad made it.
    """
    remedy = f"Restore the newest {path} from a backup; don't edit it."
    try:
        if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise LedgerTampered(f"{path} is damaged. {remedy}")
        ((text,),) = database.execute("SELECT facts FROM meta").fetchall()
        stored = database.execute("SELECT seq, body, hash FROM intent ORDER BY seq").fetchall()
        done = {seq for (seq,) in database.execute("SELECT seq FROM done")}
        facts = json.loads(text)
        if facts["version"] not in (1, VERSION):
            raise LedgerError(f"{path} was founded by another version of fedrad ({facts['version']}); update this one.")
        site, delta = str(facts["site"]), float(facts["delta"])
        founding = _founding(facts)
        genesis = head = sha256(text)
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
    return Chain(site, delta, founding, genesis, tuple(rows), tuple(hashes))


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
        planned=int(plan["steps"]),
    )


def _founding(facts: dict[str, Any]) -> Founding:
    if facts["version"] == 1:
        return Founding(_CAP_OF_VERSION_1, float(facts["delta"]))
    mechanism = facts["mechanism"]
    fixed = None if mechanism is None else (float(mechanism[0]), float(mechanism[1]))
    return Founding(float(facts["cap"]), float(facts["delta"]), fixed)


def canonical(value: dict[str, Any]) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def sha256(text: str) -> str:
    """Of the text in UTF-8, hex."""
    return hashlib.sha256(text.encode()).hexdigest()
