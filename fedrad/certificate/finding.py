"""What one check of a certificate came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "FAILED", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        what: which part of the certificate.
        words: why, in a sentence without a capital.
    """

    what: str
    verdict: Verdict
    words: str


def passed(what: str, words: str) -> Finding:
    return Finding(what, "ok", words)


def failed(what: str, words: str) -> Finding:
    return Finding(what, "FAILED", words)


def unchecked(what: str, words: str) -> Finding:
    return Finding(what, "not checked", words)
