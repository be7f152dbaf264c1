"""Every error that fedrad raises on purpose, on one page.

    FedradError
    ├── ConfigError          the experiment can't be what the configuration says (all problems at once)
    ├── DataError            a corpus can't be read as it should (names file, row and remedy)
    ├── ModelError           a base model, an adapter or a run directory can't be used
    ├── PrivacyError         going on would break, or could not prove, the privacy claim
    │   ├── PlanError        no noise multiplier meets the budget, or the plan is contradictory
    │   ├── PreflightError   the step that is about to be charged would not train what it clips
    │   ├── BudgetExhausted  the site's ledger has no room for the steps that are asked for
    │   ├── PolicyRefusal    the hospital's own policy does not allow what the server proposes
    │   ├── Stopped          after an error that may depend on a report, until a person has looked
    │   ├── SecureAggregationRefusal  going on would show the server more than the sum, or could
    │   ├── CertificateError a certificate is refused, or can't be issued
    │   └── LedgerError      the ledger can't be trusted
    │       ├── LedgerBusy       another process holds it
    │       └── LedgerTampered   rows, or the whole file, were changed or removed
    └── FederationError      a round or a run could not be finished
        ├── RefusedReply     an adapter that arrived is misshaped, non-finite or carries more than it may
        ├── StateMissing     a hospital lacks the state that the server's message builds on
        ├── QuorumLost       fewer valid replies than the quorum
        └── SitesMissing     the hospitals that the run waits for did not connect in time

Messages never carry report text. What a hospital sends to the server is only ``code``.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence


class FedradError(Exception):
    """Base of all. ``code`` is what may leave a hospital; ``exit_code`` is the command line's exit status."""

    code = "internal"
    exit_code = 1


class ConfigError(FedradError):
    """All problems of a configuration at once.

    Args:
        problems: one sentence each, naming the key and what to do.
    """

    code = "config"
    exit_code = 2

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        head = "" if len(self.problems) == 1 else f"{len(self.problems)} problems in the configuration:\n"
        super().__init__(head + "\n".join(f"- {p}" if head else p for p in self.problems))


class DataError(FedradError):
    """A corpus can't be read as it should.

    Args:
        message: what is wrong, without any report text.
        file: the file in question.
        row: its row, counted from 1 for the first row after the header.
        remedy: what the user can do.
    """

    code = "data"
    exit_code = 3

    def __init__(self, message: str, *, file: object = None, row: int | None = None, remedy: str = "") -> None:
        self.file, self.row, self.remedy = file, row, remedy
        where = ("" if file is None else f"{file}: ") + ("" if row is None else f"row {row}: ")
        super().__init__(where + message + (f" {remedy}" if remedy else ""))


class ModelError(FedradError):
    """A base model, an adapter or a run directory can't be used."""

    code = "model"
    exit_code = 4


class PrivacyError(FedradError):
    """Going on would break, or could not prove, the privacy claim."""

    code = "privacy"
    exit_code = 5


class PlanError(PrivacyError):
    """No noise multiplier meets the budget, or the plan contradicts itself."""

    code = "plan"


class PreflightError(PrivacyError):
    """The step that is about to be charged would not train what it clips."""

    code = "preflight"


class BudgetExhausted(PrivacyError):
    """The site's ledger has no room for the steps that are asked for."""

    code = "budget-exhausted"


class PolicyRefusal(PrivacyError):
    """The hospital's own policy does not allow what the server proposes."""

    code = "policy"


class Stopped(PrivacyError):
    """An earlier error may depend on a report, so the hospital answers nothing until a person has looked."""

    code = "stopped"


class SecureAggregationRefusal(PrivacyError):
    """Going on would show the server more than the sum of the hospitals' adapters, or could."""

    code = "secure-aggregation"


class CertificateError(PrivacyError):
    """A certificate is refused, or can't be issued."""

    code = "certificate"


class LedgerError(PrivacyError):
    """The ledger can't be trusted."""

    code = "ledger"


class LedgerBusy(LedgerError):
    """Another process holds the ledger."""

    code = "ledger-busy"


class LedgerTampered(LedgerError):
    """Rows, or the whole file, were changed or removed."""

    code = "ledger-tampered"


class FederationError(FedradError):
    """A round or a run could not be finished."""

    code = "federation"
    exit_code = 6


class RefusedReply(FederationError):
    """An adapter that arrived is misshaped, non-finite or carries more than it may."""

    code = "refused-reply"


class StateMissing(FederationError):
    """A hospital lacks the state that the server's message builds on."""

    code = "state-missing"


class QuorumLost(FederationError):
    """Fewer valid replies than the quorum."""

    code = "quorum"


class SitesMissing(FederationError):
    """The hospitals that the run waits for did not connect in time."""

    code = "sites-missing"


def place_of(error: BaseException) -> str:
    """Where an exception was raised. All that may be said of one that is not ours: its text may quote a report."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return "an unknown place"
