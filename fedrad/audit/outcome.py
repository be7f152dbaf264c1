"""What an audit found: rows of a table, and ``audit.json``."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fedrad.audit.bounds import Guesses
from fedrad.files import USUAL, write_whole

FILE = "audit.json"
_VERSIONS = ("fedrad", "torch", "opacus", "dp-accounting", "transformers", "numpy", "scipy")


@dataclass(frozen=True)
class Outcome:
    """One audit, or one negative control.

    Attributes:
        kind: of the canaries.
        view: what the adversary sees.
        unit: what the claim protects.
        broken: the negative control; empty: the path is as it is.
        epsilon: the claim: what the ledger says was spent, at ``delta``.
        bound: the lower bound of epsilon that no assumption about the mechanism enters (``bounds.epsilon_bound``).
        gaussian_bound: the one for Gaussian trade-off curves (``bounds.gaussian_bound``).
        confidence: of these two.
        pair_bound: the one for Gaussian trade-off curves and independent canaries (``bounds.pair_bound``); None: the
            canaries are not independent.
        pair_confidence: of that.
    """

    kind: str
    view: str
    unit: str
    broken: str
    epsilon: float
    delta: float
    bound: float
    gaussian_bound: float
    confidence: float
    guesses: Guesses
    seconds: float
    pair_bound: float | None
    pair_confidence: float

    @property
    def refuted(self) -> bool:
        """The claim is wrong, by the bound without assumptions, or by the one that takes the canaries for independent,
        as they are where the claim is right."""
        return max(self.bound, self.pair_bound or 0.0) > self.epsilon

    @property
    def passed(self) -> bool:
        """A negative control: it was caught. Else: all bounds are below the claim."""
        return self.refuted if self.broken else not self.refuted and self.gaussian_bound < self.epsilon

    def as_json(self) -> dict[str, Any]:
        plain = asdict(self)
        found = plain.pop("guesses")
        return {**plain, "canaries": found["canaries"], "guesses": found["made"], "correct": found["correct"]} | {
            "passed": self.passed
        }


@dataclass(frozen=True)
class Report:
    """All that one command found.

    Attributes:
        attacks: name -> rows of figures, of ``--attacks``; without a verdict.
    """

    outcomes: Sequence[Outcome] = ()
    attacks: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def verdict(self) -> str:
        """The last line of the command."""
        controls = [outcome for outcome in self.outcomes if outcome.broken]
        audits = [outcome for outcome in self.outcomes if not outcome.broken]
        below, caught = (sum(outcome.passed for outcome in rows) for rows in (audits, controls))
        words = "passed" if self.passed else "FAILED"
        return (
            f"audit {words}: {below} of {len(audits)} bounds are below their claims,"
            f" {caught} of {len(controls)} negative controls were caught ({self.seconds:.0f} s)"
        )

    def write(self, folder: Path) -> None:
        """Writes ``audit.json``, whole or not at all. No figure in it is infinite: JSON has none."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "passed": self.passed if self.outcomes else None,
            "seconds": round(self.seconds, 1),
            "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
            "audits": [outcome.as_json() for outcome in self.outcomes],
            "attacks": {name: list(rows) for name, rows in self.attacks.items()},
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_whole(folder / FILE, text.encode(), durable=True, mode=USUAL)


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """A line for each audit and each control."""
    table = Table(box=None, header_style="bold", title_justify="left")
    figures = ("claim", "bound", "f-DP bound", "by pairs", "right", "s")
    for name in ("canaries", "adversary sees", "unit", "path", *figures, ""):
        table.add_column(name, justify="right" if name in figures else "left")
    for row in outcomes:
        good = ("caught" if row.broken else "below") if row.passed else ("MISSED" if row.broken else "ABOVE")
        table.add_row(
            f"{row.guesses.canaries} {row.kind}",
            row.view,
            row.unit,
            row.broken or "as it is",
            f"{row.epsilon:.3f}",
            f"{row.bound:.2f}",
            f"{row.gaussian_bound:.2f}",
            "" if row.pair_bound is None else f"{row.pair_bound:.2f}",
            f"{row.guesses.correct}/{row.guesses.made}",
            f"{row.seconds:.0f}",
            Text(good, style="green" if row.passed else "red"),
        )
    return table


def figures_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows with the same keys, as they are."""
    table = Table(title=Text(title), box=None, header_style="bold", title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "no privacy"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
