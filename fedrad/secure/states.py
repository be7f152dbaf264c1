"""What a hospital holds of a round between the stages.

Each state is what the stage before left; the next stage is refused from any other. They hold the hospital's secrets of
the round, but for the last.
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
    """After stage 2. ``seed`` is that of the self mask; the keys are the public ones of the roster."""

    channel_private: bytes = field(repr=False)
    mask_private: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    own_seed_share: bytes = field(repr=False)
    channel_keys: Mapping[str, bytes]
    mask_keys: Mapping[str, bytes]


@dataclass(frozen=True)
class Masked(_InRound):
    """After stage 3: own keys and seed are gone, what is left are shares of the others' (and of the own seed).

    Attributes:
        seed_shares: by hospital, of all whose shares arrived and of this one.
        key_shares: by hospital, of all whose shares arrived.
        confirmed: the survivors that were signed; empty before.
    """

    seed_shares: Mapping[str, bytes] = field(repr=False)
    key_shares: Mapping[str, bytes] = field(repr=False)
    confirmed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """After stage 5: nothing is left that could be revealed."""

    setup: RoundSetup
    site: str


State = Advertised | Shared | Masked | Answered
