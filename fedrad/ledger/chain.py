"""The content of a ledger's file: the founding facts, and a hash chain of charges.

This module reads and checks. `file` writes the facts, and `ledger` the charges.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedrad.errors import LedgerError, LedgerTampered
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import Account, Charge, Founding

VERSION = 2
# Version 1 had no filter and stored no cap. Any cap that does not depend on results is valid here.
_CAP_OF_VERSION_1 = 1.0
_MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Row:
    """One charge. All of it is public except ``time``, which only the site sees.

    Attributes:
        seq: its number, from 1.
        run: the run, as the server names it.
        round: the round of that run.
        steps: number of noisy steps charged.
        plan: the plan of these steps, as JSON.
        event: the steps, for the accountant.
        time: when it was written, UTC.
        done: whether the result of the steps may have been handed out; they are charged in any case.
        planned: the number of steps of the whole plan.
        request: digest of what was asked for; empty: unknown.
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
    request: str = ""

    @property
    def charge(self) -> Charge:
        """The charge for the ledger's accounting rule."""
        return Charge(self.event, self.planned)

    def is_for(self, run: str, round: int, steps: int, plan: str, request: str) -> bool:
        """Whether it was charged for exactly this."""
        return (self.run, self.round, self.steps, self.plan, self.request) == (run, round, steps, plan, request)

    @property
    def unit(self) -> str:
        """What the plan's guarantee protects."""
        return str(json.loads(self.plan)["unit"])


@dataclass(frozen=True)
class LedgerView:
    """The checked content of a ledger.

    Attributes:
        site: whose ledger it is.
        delta: the delta of every epsilon of this ledger.
        founding: what was fixed before the first charge.
        rows: all charges, oldest first.
        genesis: hash of the founding facts, the predecessor of the first charge.
        hashes: of the charges.
    """

    site: str
    delta: float
    founding: Founding
    rows: tuple[Row, ...]
    genesis: str = ""
    hashes: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The hash that the next charge will name as its predecessor."""
        return self.hashes[-1] if self.hashes else self.genesis

    @property
    def charges(self) -> list[Charge]:
        """All charges, for the ledger's accounting rule."""
        return [row.charge for row in self.rows]

    @property
    def events(self) -> list[Event]:
        """All charges, for the accountant."""
        return [row.event for row in self.rows]

    @property
    def account(self) -> Account:
        """All charges with the accounting rule that applies to them."""
        return self.founding.account(self.charges)

    @property
    def epsilon(self) -> float:
        """The epsilon of all charges together; ``math.inf`` if a step had no noise."""
        return self.account.epsilon(self.delta)

    @property
    def steps(self) -> int:
        """Noisy steps charged."""
        return sum(row.steps for row in self.rows)

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the runs, by first appearance."""
        return tuple(dict.fromkeys(row.run for row in self.rows))

    @property
    def plans(self) -> tuple[dict[str, Any], ...]:
        """The different plans, by first appearance."""
        return tuple(json.loads(plan) for plan in dict.fromkeys(row.plan for row in self.rows))

    @property
    def units(self) -> tuple[str, ...]:
        """The units that the plans protect."""
        return tuple(dict.fromkeys(str(plan["unit"]) for plan in self.plans))

    @property
    def seeded(self) -> bool:
        """Whether some noise came from a seed, so that whoever knows the seed can remove it."""
        return any(plan["noise"] != "system" for plan in self.plans)

    @property
    def shared(self) -> bool:
        """Whether some noise was shared with other hospitals, so that only their sum had enough of it."""
        return any(plan.get("shared") is not None for plan in self.plans)

    def curve(self) -> tuple[float, ...]:
        """The epsilon of the first charge, of the first two together, and so on."""
        charges = self.charges
        accounts = (self.founding.account(charges[:count]) for count in range(1, len(charges) + 1))
        return tuple(account.epsilon(self.delta) for account in accounts)

    def left(self, cap: float) -> Left:
        """The budget left under a cap. The cap is the hospital's policy and is not in the ledger."""
        if not (math.isfinite(cap) and cap >= 0):
            raise LedgerError(f"The epsilon cap must be finite and 0 or more, not {cap}.")
        charges = self.charges

        def fits(steps: int) -> bool:
            more = [charges[-1]._replace(event=charges[-1].event._replace(steps=steps))]
            return self.founding.needed([*charges, *more]) <= cap

        return Left(cap, max(cap - self.epsilon, 0.0), steps_left(fits) if charges else None)


@dataclass(frozen=True)
class Left:
    """The budget left in a ledger.

    Attributes:
        cap: the largest epsilon allowed.
        epsilon: the cap minus what is spent. Epsilons don't add up: rounds may fit whose epsilons sum to more.
        steps: how many more steps of the last charged plan fit; None if there are no charges.
    """

    cap: float
    epsilon: float
    steps: int | None


def steps_left(fits: Callable[[int], bool], at_most: int = _MOST_STEPS) -> int:
    """The largest number of steps that fits.

    Args:
        fits: whether a number of steps fits; it must be monotone.
        at_most: the largest number that is tried.
    """
    if not fits(0):
        return 0
    low, high = 0, 1
    while high <= at_most and fits(high):
        low, high = high, 2 * high
    high = min(high, at_most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def read_chain(database: sqlite3.Connection, path: Path) -> LedgerView:
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
            raise LedgerError(f"{path} was made by another version of fedrad ({facts['version']}); update this one.")
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
    return LedgerView(site, delta, founding, tuple(rows), genesis, tuple(hashes))


# Cached, because all charges are read again in every round. Their text is compared with its hash each time.
@lru_cache(maxsize=8192)
def parsed(body: str, done: bool) -> tuple[str, Row]:
    """The predecessor's hash, and the charge, from the stored text."""
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
        request=str(content.get("request", "")),
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
