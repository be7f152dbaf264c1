"""A ledger to look at: read-only, whoever has it open, and checked as strictly as when it is opened to be charged."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad.errors import LedgerError
from fedrad.ledger.chain import Row, read_chain
from fedrad.ledger.durable import ledger_file
from fedrad.ledger.room import steps_left
from fedrad.privacy.filter import Account, Founding

_PATIENCE = 5.0  # seconds; a charge takes milliseconds


@dataclass(frozen=True)
class LedgerView:
    """What a site has been charged for, at the moment of reading.

    Attributes:
        site: whose ledger it is.
        delta: what epsilon is stated at.
        founding: by which rule its charges are counted.
        rows: all charges, oldest first.
    """

    site: str
    delta: float
    founding: Founding
    rows: tuple[Row, ...]

    @property
    def account(self) -> Account:
        """All charges, and the rule that counts them."""
        return self.founding.account([row.charge for row in self.rows])

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
        charges = [row.charge for row in self.rows]
        accounts = (self.founding.account(charges[:count]) for count in range(1, len(charges) + 1))
        return tuple(account.epsilon(self.delta) for account in accounts)

    def left(self, cap: float) -> Left:
        """What a cap leaves. The ledger does not hold the cap, which is the hospital's policy."""
        if not (math.isfinite(cap) and cap >= 0):
            raise LedgerError(f"The epsilon cap must be finite and 0 or more, not {cap}.")
        charges = [row.charge for row in self.rows]

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


def read_ledger(directory: Path) -> LedgerView:
    """Reads a site's ledger and changes nothing, takes no lock that a charge would fail on, and needs none.

    A shard's witness is not asked: only the hospital that opens the ledger notices that it is an older copy.

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
            # Copied in one go, since a reader keeps the hospital from committing for as long as it reads.
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)) as source:
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # waits for a commit under way
                source.backup(copy)
            chain = read_chain(copy, path)
    except sqlite3.OperationalError as error:
        why, remedy = _explained(error)
        raise LedgerError(f"The ledger in {directory} can't be read now: {why}. {remedy}") from None
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path} is no ledger, or it is damaged: {error}. Restore the newest copy.") from None
    return LedgerView(chain.site, chain.delta, chain.founding, chain.rows)


def _explained(error: sqlite3.OperationalError) -> tuple[str, str]:
    name = error.sqlite_errorname
    if name.startswith("SQLITE_READONLY"):
        why = "a charge was cut off, by a kill or a power cut, and only a writer may undo it"
        return why, "Start the hospital, which does when it opens its ledger; then look again."
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "it is being written to", "Try again."
    return str(error), "Are you allowed to read it?"
