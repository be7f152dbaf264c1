"""What the server refuses from hospitals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedrad.errors import QuorumLost, RefusedReply
from fedrad.secure import hospital, server
from tests.secure.attacked import SETUP, VICTIM, masked_round
from tests.secure.whole_round import random_inputs, terms, until_masked, until_shared, until_unmasked


def test_the_server_notices_a_wrong_share_of_either_secret() -> None:
    setup = terms(5, 3, entries=20)
    now = until_masked(until_shared(setup), random_inputs(setup), [setup.sites[4]])
    until_unmasked(now)
    honest = now.unmaskings

    now.total()
    for kind, owner, what in (
        ("seed_shares", setup.sites[1], "self-mask seed"),
        ("key_shares", setup.sites[4], "mask key"),
    ):
        shares = dict(getattr(honest[0], kind))
        for place in (4, 20, 51):  # in each of the three blocks
            changed = bytearray(shares[owner])
            changed[place] ^= 16  # not one of the five bits that X25519 sets itself
            now.unmaskings = [replace(honest[0], **{kind: {**shares, owner: bytes(changed)}}), *honest[1:]]
            with pytest.raises(
                RefusedReply, match=f"the {what} of {owner} do not restore|of the secret of {owner} do not fit"
            ):
                now.total()
        foreign = getattr(honest[1], kind)[owner]
        now.unmaskings = [replace(honest[0], **{kind: {**shares, owner: foreign}}), *honest[1:]]
        with pytest.raises(RefusedReply, match=f"not its share of the secret of {owner}"):
            now.total()


def test_the_server_refuses_what_does_not_belong() -> None:
    now, _ = masked_round()
    until_unmasked(now)
    setup, first = SETUP, now.inputs[0]
    less = dict(list(now.unmaskings[0].seed_shares.items())[1:])
    adverts = [hospital.advertise(setup, site, ())[1] for site in setup.sites]

    with pytest.raises(RefusedReply, match="sent twice"):
        server.build_roster(setup, [*adverts, hospital.advertise(setup, VICTIM, ())[1]])
    with pytest.raises(RefusedReply, match="stranger"):
        server.build_roster(setup, [*adverts[1:], replace(adverts[0], site="stranger")])
    with pytest.raises(RefusedReply, match="not 32 bytes"):
        server.build_roster(setup, [*adverts[1:], replace(adverts[0], mask_key=b"")])
    with pytest.raises(RefusedReply, match="occurs twice"):
        server.build_roster(setup, [*adverts[1:], replace(adverts[0], mask_key=adverts[1].mask_key)])
    with pytest.raises(QuorumLost):
        server.build_roster(setup, adverts[:2])
    with pytest.raises(RefusedReply, match="other hospitals than those of the roster"):
        server.inboxes(setup, now.roster, [replace(now.shared[0], boxes={}), *now.shared[1:]])
    with pytest.raises(RefusedReply, match="does not hold 20 numbers"):
        server.survivors(setup, now.shared, [replace(first, vector=first.vector[8:]), *now.inputs[1:]])
    with pytest.raises(RefusedReply, match="sent twice"):
        server.survivors(setup, now.shared, [first, *now.inputs])
    now.unmaskings[0] = replace(now.unmaskings[0], seed_shares=less)
    with pytest.raises(RefusedReply, match="other hospitals than it was asked for"):
        now.total()
