"""Shamir shares of 32-byte secrets, one for each hospital of a round.

The scheme is Flower's maintained ``crypto.shamir`` (PyCryptodome underneath): each block of 16 bytes over GF(2^128),
with coefficients from the operating system. We reviewed two properties: it draws a fresh polynomial for each block and
call, and it numbers shares from 1 (number 0 would be the secret itself). Two checks are missing in it and added here.
It reads a share's number from the share itself, so a hospital could send another hospital's share: here the number must
be the hospital's own. And it detects a wrong share only by chance: callers of ``combine`` check the secret against a
commitment or a public key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares

from fedrad.errors import RefusedReply

# 4 bytes for the number, and 48 for the secret, which Flower pads to the next multiple of 16.
SHARE_BYTES = 52


def split(secret: bytes, threshold: int, sites: Sequence[str]) -> dict[str, bytes]:
    """A share of a 32-byte secret for each of ``sites`` (sorted). ``threshold`` restore it; fewer reveal nothing."""
    if len(secret) != 32 or not 1 <= threshold <= len(sites):
        raise ValueError(f"{len(secret)} bytes, threshold {threshold}, {len(sites)} hospitals")
    return dict(zip(sites, create_shares(secret, threshold, len(sites)), strict=True))


def combine(shares: Mapping[str, bytes], threshold: int, sites: Sequence[str], owner: str) -> bytes:
    """The secret of ``owner`` from the shares of ``threshold`` hospitals or more.

    It does not detect a changed share: compare the result with the owner's commitment.

    Args:
        shares: by the hospital that held them.
        sites: the same hospitals, in the same order, as when the secret was split.

    Raises:
        RefusedReply: a share is invalid or not that of its sender; or the shares do not fit together.
    """
    used = sorted(shares)[:threshold]
    if len(used) < threshold:
        raise ValueError(f"{len(used)} shares, {threshold} are needed")
    for site in used:
        number = int.from_bytes(shares[site][:4], "little")
        if len(shares[site]) != SHARE_BYTES or number != sites.index(site) + 1:
            raise RefusedReply(f"{site}: what it sent is not its share of the secret of {owner}")
    try:
        secret = combine_shares([shares[site] for site in used])
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise RefusedReply(f"the shares that {', '.join(used)} sent of the secret of {owner} do not fit together")
    return secret
