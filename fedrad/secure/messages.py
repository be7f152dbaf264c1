"""The messages of each stage. The server sees all of them; ``wire`` converts them to plain fields and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class KeyAdvert:
    """Stage 1, hospital to server.

    Attributes:
        channel_key: X25519 public key for sealing shares, 32 bytes.
        mask_key: X25519 public key for pairwise masks, 32 bytes.
        signature: of both keys, by the hospital's identity key; empty if identities are not pinned.
    """

    site: str
    channel_key: bytes
    mask_key: bytes
    signature: bytes = b""


@dataclass(frozen=True)
class Roster:
    """Stage 1, server to hospitals: the keys of all who advertised, by site."""

    channel_keys: Mapping[str, bytes]
    mask_keys: Mapping[str, bytes]
    signatures: Mapping[str, bytes]


@dataclass(frozen=True)
class SealedShares:
    """Stage 2, hospital to server.

    Attributes:
        seed_commitment: SHA-256 of the self-mask seed, so that wrong shares are detected when the seed is restored.
            The seed has 256 random bits, so its hash reveals nothing about it.
        boxes: for each other hospital of the roster, its two shares, sealed.
    """

    site: str
    seed_commitment: bytes
    boxes: Mapping[str, bytes]


@dataclass(frozen=True)
class Inbox:
    """Stage 2, server to one hospital: the boxes that the others sealed for it, by sender."""

    boxes: Mapping[str, bytes]


@dataclass(frozen=True)
class MaskedInput:
    """Stage 3, hospital to server.

    Attributes:
        vector: entries x 8 bytes, little-endian: the encoded adapter plus masks, modulo 2^64.
    """

    site: str
    vector: bytes = field(repr=False)

    @property
    def values(self) -> NDArray[np.uint64]:
        return np.frombuffer(self.vector, dtype="<u8").astype(np.uint64)


@dataclass(frozen=True)
class Survivors:
    """Stage 3, server to hospitals: whose masked input arrived, sorted."""

    sites: tuple[str, ...]


@dataclass(frozen=True)
class Confirmation:
    """Stage 4, hospital to server: its signature of the survivors that it was shown."""

    site: str
    signature: bytes


@dataclass(frozen=True)
class UnmaskRequest:
    """Stage 5, server to hospitals.

    Attributes:
        survivors: as in ``Survivors``.
        confirmations: signatures of that list, by site; empty if identities are not pinned.
    """

    survivors: tuple[str, ...]
    confirmations: Mapping[str, bytes]


@dataclass(frozen=True)
class Unmasking:
    """Stage 5, hospital to server: for each hospital of stage 2, one of its two shares, never both.

    Attributes:
        seed_shares: share of each survivor's self-mask seed.
        key_shares: share of the private mask key of each hospital that dropped out before its masked input.
    """

    site: str
    seed_shares: Mapping[str, bytes] = field(repr=False)
    key_shares: Mapping[str, bytes] = field(repr=False)
