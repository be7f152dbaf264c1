"""What a ledger's file says: the founding facts, and a chain of charges in which each one names the hash of the last.

Reading and checking only: `file` writes the facts and `ledger` the charges.
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
# Version 1 had no filter and kept no cap. Any that was not chosen by results will do.
_CAP_OF_VERSION_1 = 1.0
_MOST_STEPS = 1_000_000


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
        done: whether what the steps made may have been handed out; charged in any case.
        planned: how many steps the plan has in all.
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
        """For the rule that counts the ledger."""
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
    """What a ledger says, checked: what its site has been charged for.

    Attributes:
        site: whose ledger it is.
        delta: what epsilon is stated at.
        founding: by which rule its charges are counted.
        rows: all charges, oldest first.
        genesis: hash of the founding facts, which the first charge names.
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
        """The hash that the next charge names."""
        return self.hashes[-1] if self.hashes else self.genesis

    @property
    def charges(self) -> list[Charge]:
        """All charges, for the rule that counts them."""
        return [row.charge for row in self.rows]

    @property
    def events(self) -> list[Event]:
        """All charges, for the accountant."""
        return [row.event for row in self.rows]

    @property
    def account(self) -> Account:
        """All charges, and the rule that counts them."""
        return self.founding.account(self.charges)

    @property
    def epsilon(self) -> float:
        """What all charges together have spent; ``math.inf`` if steps without noise are among them."""
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
        """Whether some noise was shared with other hospitals, so that only their sum had all of it."""
        return any(plan.get("shared") is not None for plan in self.plans)

    def curve(self) -> tuple[float, ...]:
        """Epsilon after each charge: all up to it together, by the rule for them."""
        charges = self.charges
        accounts = (self.founding.account(charges[:count]) for count in range(1, len(charges) + 1))
        return tuple(account.epsilon(self.delta) for account in accounts)

    def left(self, cap: float) -> Left:
        """What a cap leaves. The ledger does not hold the cap, which is the hospital's policy."""
        if not (math.isfinite(cap) and cap >= 0):
            raise LedgerError(f"The epsilon cap must be finite and 0 or more, not {cap}.")
        charges = self.charges

        def fits(steps: int) -> bool:
            more = [charges[-1]._replace(event=charges[-1].event._replace(steps=steps))]
            return self.founding.needed([*charges, *more]) <= cap

        return Left(cap, max(cap - self.epsilon, 0.0), steps_left(fits) if charges else None)


@dataclass(frozen=True)
class Left:
    """What a ledger has room for.

    Attributes:
        cap: the epsilon that is not to be exceeded.
        epsilon: the cap less what is spent. Epsilons don't add up: several rounds may fit whose own sum is above it.
        steps: how many more steps of the plan last charged fit; None if there was no charge to go by.
    """

    cap: float
    epsilon: float
    steps: int | None


def steps_left(fits: Callable[[int], bool], at_most: int = _MOST_STEPS) -> int:
    """How many more steps there is room for.

    Args:
        fits: whether so many do; if some number does, so does every smaller one.
        at_most: where the search ends.
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
    return LedgerView(site, delta, founding, tuple(rows), genesis, tuple(hashes))


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
