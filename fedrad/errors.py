"""Every error that fedrad raises on purpose.

Messages never contain report text. A hospital sends only the ``code`` to the server.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn


class FedradError(Exception):
    """Base of all errors. ``code`` may leave a hospital; ``exit_code`` is the command line's exit status."""

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
    """A corpus can't be read.

    Args:
        message: what is wrong, without any report text.
        file: the file.
        row: the row, counted from 1 for the first row after the header.
        remedy: what the user can do.
    """

    code = "data"
    exit_code = 3

    def __init__(self, message: str, *, file: object = None, row: int | None = None, remedy: str = "") -> None:
        self.problem, self.file, self.row, self.remedy = message, file, row, remedy
        where = ("" if file is None else f"{file}: ") + ("" if row is None else f"row {row}: ")
        super().__init__(where + message + (f" {remedy}" if remedy else ""))


Refuse = Callable[[DataError], None]
"""What a reader does with a problem of a row: raise it, or, if it is to find all problems, note it and go on."""


def raise_it(error: DataError) -> NoReturn:
    """The usual ``Refuse``."""
    raise error


class ModelError(FedradError):
    """A base model, an adapter or a run directory can't be used."""

    code = "model"
    exit_code = 4


class PrivacyError(FedradError):
    """Continuing would break the privacy claim, or it could not be proved."""

    code = "privacy"
    exit_code = 5


class PlanError(PrivacyError):
    """No noise multiplier meets the budget, or the plan contradicts itself."""

    code = "plan"


class PreflightError(PrivacyError):
    """The tensors that a step would train are not those that it clips, or one of them would not move."""

    code = "preflight"


class BudgetExhausted(PrivacyError):
    """The steps asked for exceed the budget left in the site's ledger."""

    code = "budget-exhausted"


class PolicyRefusal(PrivacyError):
    """The hospital's own policy does not allow what the server proposes."""

    code = "policy"


class Stopped(PrivacyError):
    """An earlier error may depend on a report, so the hospital answers nothing until a person has checked."""

    code = "stopped"


class SecureAggregationRefusal(PrivacyError):
    """Continuing could reveal more to the server than the sum of the hospitals' adapters."""

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
    """A received adapter has wrong shapes, is not finite, or a message has fields that are not allowed."""

    code = "refused-reply"


class StateMissing(FederationError):
    """A hospital lacks the state that the server's message refers to."""

    code = "state-missing"


class QuorumLost(FederationError):
    """Fewer valid replies than the quorum."""

    code = "quorum"


class SitesMissing(FederationError):
    """The hospitals that the run waits for did not connect in time."""

    code = "sites-missing"


def place_of(error: BaseException) -> str:
    """Where an exception was raised. Nothing else of a foreign exception may be shown: its text may quote a report."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return "an unknown place"
