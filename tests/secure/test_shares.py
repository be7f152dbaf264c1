"""Shares: enough of them give the secret back, fewer say nothing, foreign ones are refused."""

from __future__ import annotations

import os
from itertools import combinations

import pytest

from fedrad.errors import RefusedReply
from fedrad.secure.shares import SHARE_BYTES, combine, split

SITES = ("a", "b", "c", "d", "e")


def test_any_threshold_of_shares_gives_the_secret_back() -> None:
    secret = os.urandom(32)
    shares = split(secret, 3, SITES)

    assert {len(share) for share in shares.values()} == {SHARE_BYTES}
    for holders in [*combinations(SITES, 3), *combinations(SITES, 5)]:
        assert combine({site: shares[site] for site in holders}, 3, SITES, "x") == secret


def test_fewer_give_another_secret_or_none() -> None:
    """Put together as if they were enough. What they leave open can't be tested; that they don't suffice can."""
    secret = os.urandom(32)
    two = {site: share for site, share in split(secret, 3, SITES).items() if site in "ab"}

    with pytest.raises(ValueError, match="2 shares, 3 are needed"):
        combine(two, 3, SITES, "x")
    try:
        guessed = combine(two, 2, SITES, "x")
    except RefusedReply:
        guessed = b""
    assert guessed != secret


def test_each_call_draws_a_new_polynomial() -> None:
    secret = os.urandom(32)
    first, second = split(secret, 3, SITES), split(secret, 3, SITES)

    assert all(first[site] != second[site] for site in SITES)


def test_a_share_of_another_hospital_or_none_is_refused() -> None:
    shares = split(os.urandom(32), 3, SITES)

    for bad in (shares["d"], shares["a"][:-1], b""):
        with pytest.raises(RefusedReply, match="a: what it sent is not its share of the secret of x"):
            combine({**shares, "a": bad}, 3, SITES, "x")


@pytest.mark.parametrize(("length", "threshold"), [(31, 3), (32, 6), (32, 0)])
def test_only_32_bytes_and_a_threshold_in_range(length: int, threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(bytes(length), threshold, SITES)
