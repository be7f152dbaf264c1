"""Ledgers to charge, in a state folder and a witness folder."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

from fedrad.ledger.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan

PLAN = PrivacyPlan.calibrate(epsilon=1.0, delta=1e-5, declared_size=1000, expected_batch=100, steps=20, clip=1.0)


def opened(place: tuple[Path, Path], cap: float = 1.0, delta: float = 1e-5, site: str = "st. mary") -> Ledger:
    return Ledger.open(place[0], site=site, cap=cap, delta=delta, witness=place[1])


def filled(place: tuple[Path, Path], rounds: int = 3) -> None:
    with opened(place) as book:
        for number in range(1, rounds + 1):
            book.record_intent(run="r", round=number, plan=PLAN, steps=2)


def edit(place: tuple[Path, Path], *statements: str) -> None:
    database = sqlite3.connect(place[0] / "ledger.sqlite")
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()


def simulated(folder: Path, cap: float = math.inf) -> Ledger:
    return Ledger.open(folder, site="a", cap=cap, delta=1e-5, durable=False)
