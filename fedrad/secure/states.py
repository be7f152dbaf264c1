"""The state of a hospital between the stages of a round.

Each stage accepts only the state that the previous stage left. All states but the last hold secrets of the round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrad.secure.setup import RoundSetup


@dataclass(frozen=True)
class _InRound:
    """``pinned``: the identity keys of all hospitals; empty if they are not pinned."""

    setup: RoundSetup
    site: str
    pinned: Mapping[str, bytes]


@dataclass(frozen=True)
class Advertised(_InRound):
    """After stage 1."""

    channel_private: bytes = field(repr=False)
    mask_private: bytes = field(repr=False)


@dataclass(frozen=True)
class Shared(_InRound):
    """After stage 2. ``seed`` belongs to the self mask; the key mappings are the public keys of the roster."""

    channel_private: bytes = field(repr=False)
    mask_private: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    own_seed_share: bytes = field(repr=False)
    channel_keys: Mapping[str, bytes]
    mask_keys: Mapping[str, bytes]


@dataclass(frozen=True)
class Masked(_InRound):
    """After stage 3: the own keys and seed are deleted; shares of the others' secrets (and of the own seed) are left.

    Attributes:
        seed_shares: by hospital, including this one, of all whose shares arrived.
        key_shares: by hospital, of all whose shares arrived.
        confirmed: the list of survivors that was signed; empty before that.
    """

    seed_shares: Mapping[str, bytes] = field(repr=False)
    key_shares: Mapping[str, bytes] = field(repr=False)
    confirmed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """After stage 5. It holds no secrets."""

    setup: RoundSetup
    site: str


State = Advertised | Shared | Masked | Answered
