"""The terms that all hospitals of a round must agree on, and the bytes that bind every key to them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure.fixed_point import DEFAULT_BOUND, check_no_wrap

PROTOCOL = "fedrad secure aggregation 1"


@dataclass(frozen=True)
class RoundSetup:
    """The terms of one secure sum: public, proposed by the server, checked by every hospital.

    Each key, sealed share and signature of the round is bound to ``context``. So hospitals that were given different
    terms can't open each other's shares, and the round ends before any adapter is sent.

    Attributes:
        run: names the run.
        round: the federation round.
        sites: the invited hospitals, sorted, each once.
        threshold: the smallest number of hospitals in a sum.
        entries: how many numbers an adapter has.
        colluders: how many hospitals may tell the server all they know while the others stay protected.
        bound: values of an adapter are clamped to this magnitude. The server can't choose it: a hospital uses the
            package's constant (``federation.secure_hospital``), because a small bound would test single adapters
            against a threshold.

    Raises:
        SecureAggregationRefusal: these terms would not protect.
    """

    run: str
    round: int
    sites: tuple[str, ...]
    threshold: int
    entries: int
    colluders: int = 0
    bound: float = DEFAULT_BOUND

    def __post_init__(self) -> None:
        hospitals = len(self.sites)
        if hospitals < 2:
            raise SecureAggregationRefusal("the sum of fewer than two hospitals is one hospital's adapter")
        if list(self.sites) != sorted(set(self.sites)) or not all(self.sites):
            raise SecureAggregationRefusal("sites must be sorted, each named once, none empty")
        if self.entries < 1 or self.colluders < 0 or self.round < 0:
            raise SecureAggregationRefusal("entries must be 1 or more, colluders and round 0 or more")
        # A server could otherwise ask one half of the hospitals for a hospital's self-mask shares and the other half
        # for its mask-key shares, and unmask that hospital alone. Colluders answer in both halves.
        if not hospitals + self.colluders < 2 * self.threshold <= 2 * hospitals:
            raise SecureAggregationRefusal(
                f"threshold {self.threshold} of {hospitals} hospitals with {self.colluders} colluders: it must be above"
                f" {(hospitals + self.colluders) / 2:g} (otherwise the server could split the hospitals in two groups"
                f" and unmask one adapter) and at most {hospitals}"
            )
        if self.threshold < self.colluders + 2:
            raise SecureAggregationRefusal(
                f"threshold {self.threshold} with {self.colluders} colluders: they could subtract their own adapters"
                f" and be left with one hospital's; at least {self.colluders + 2} is needed"
            )
        check_no_wrap(hospitals, self.bound)

    @property
    def context(self) -> bytes:
        """32 bytes that identify these terms: a hash of all of them."""
        terms = (self.run, self.round, self.threshold, self.entries, self.colluders, struct.pack(">d", self.bound))
        return hashlib.sha256(joined(PROTOCOL, *terms, *self.sites)).digest()


def joined(*parts: str | int | bytes) -> bytes:
    """The parts as one byte string, each with its type and length in front, so that the encoding is injective."""
    encoded = b""
    for part in parts:
        if isinstance(part, bytes):
            kind, raw = b"b", part
        elif isinstance(part, str):
            kind, raw = b"s", part.encode()
        else:
            kind, raw = b"i", str(part).encode()
        encoded += kind + len(raw).to_bytes(4, "big") + raw
    return encoded
