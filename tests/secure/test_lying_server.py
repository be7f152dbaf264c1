"""A server that lies, with and without pinned identities."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure import hospital, server
from fedrad.secure.keys import Identity, agree, identity_public_key, new_private_key, open_sealed, public_key
from fedrad.secure.masks import pair_masks, self_mask
from fedrad.secure.messages import Inbox, Roster, Survivors, UnmaskRequest
from fedrad.secure.setup import RoundSetup, joined
from fedrad.secure.shares import SHARE_BYTES, combine
from fedrad.secure.states import Advertised
from tests.secure.attacked import SETUP, VICTIM, WITHOUT_VICTIM, masked_round, roster_of
from tests.secure.whole_round import identities, random_inputs, until_confirmed


def put_in_between(setup: RoundSetup, roster: Roster) -> tuple[dict[str, tuple[bytes, bytes]], Roster]:
    """The man in the middle: the server's own keys in the place of everybody's but the victim's."""
    own = {site: (new_private_key(), new_private_key()) for site in setup.sites if site != VICTIM}
    channel = {site: public_key(pair[0]) for site, pair in own.items()}
    mask = {site: public_key(pair[1]) for site, pair in own.items()}
    return own, replace(
        roster,
        channel_keys={**channel, VICTIM: roster.channel_keys[VICTIM]},
        mask_keys={**mask, VICTIM: roster.mask_keys[VICTIM]},
    )


def test_a_man_in_the_middle_reads_an_adapter_if_identities_are_not_pinned() -> None:
    """What the documentation says is not covered: this attack works."""
    state, honest = roster_of(SETUP)
    own, swapped = put_in_between(SETUP, honest)
    shared, victims = hospital.share_keys(state, swapped)
    played = [Advertised(SETUP, site, {}, *own[site]) for site in own]
    boxes = {fake.site: hospital.share_keys(fake, swapped)[1].boxes[VICTIM] for fake in played}
    encoded = random_inputs(SETUP)
    _, masked = hospital.mask_input(shared, Inbox(boxes), encoded[VICTIM])
    shares = {}
    for site in own:
        purpose = joined("sealed shares", SETUP.context, VICTIM, site)
        key = agree(own[site][0], swapped.channel_keys[VICTIM], purpose)
        shares[site] = open_sealed(key, victims.boxes[site], purpose) or b""
    seed = combine({s: raw[:SHARE_BYTES] for s, raw in shares.items()}, SETUP.threshold, SETUP.sites, VICTIM)
    private = combine({s: raw[SHARE_BYTES:] for s, raw in shares.items()}, SETUP.threshold, SETUP.sites, VICTIM)
    others = {site: swapped.mask_keys[site] for site in own}
    read = masked.values - self_mask(seed, SETUP, VICTIM) - pair_masks(private, SETUP, VICTIM, others)

    assert np.array_equal(read, encoded[VICTIM])


def test_with_pinned_identities_the_man_in_the_middle_is_refused() -> None:
    ids = identities(SETUP.sites)
    made = {site: hospital.advertise(SETUP, site, (), ids[site]) for site in SETUP.sites}
    honest = server.build_roster(SETUP, [advert for _, advert in made.values()])
    _, swapped = put_in_between(SETUP, honest)

    hospital.share_keys(made[VICTIM][0], honest)
    with pytest.raises(SecureAggregationRefusal, match="not signed with the identity key pinned"):
        hospital.share_keys(made[VICTIM][0], swapped)


@pytest.mark.parametrize("old", [{"round": 2}, {"run": "earlier"}, {"threshold": 4}])
def test_signed_keys_of_another_round_are_refused(old: dict[str, object]) -> None:
    ids = identities(SETUP.sites)
    before = replace(SETUP, **old)  # type: ignore[arg-type]
    a = WITHOUT_VICTIM[0]
    made = {site: hospital.advertise(before if site == a else SETUP, site, (), ids[site]) for site in SETUP.sites}
    roster = server.build_roster(SETUP, [advert for _, advert in made.values()])

    with pytest.raises(SecureAggregationRefusal, match=f"keys of {a} are not signed"):
        hospital.share_keys(made[VICTIM][0], roster)


def test_pinned_keys_must_be_there_for_all_different_and_ones_own() -> None:
    ids = identities(SETUP.sites)
    a, b = WITHOUT_VICTIM[:2]
    pinned = dict(ids[VICTIM].pinned)
    wrong = [
        ({site: key for site, key in pinned.items() if site != a}, f"no identity key is pinned for {a}"),
        ({**pinned, a: pinned[b]}, "the same pinned identity key"),
        ({**pinned, VICTIM: identity_public_key(os.urandom(32))}, "does not belong to its private key"),
    ]

    for keys, why in wrong:
        with pytest.raises(SecureAggregationRefusal, match=why):
            hospital.advertise(SETUP, VICTIM, (), Identity(ids[VICTIM].private, keys))


def test_a_second_list_of_survivors_is_not_signed_and_an_unsigned_one_not_answered() -> None:
    ids = identities(SETUP.sites)
    now, _ = masked_round(ids)
    masked = dict(now.states)
    until_confirmed(now, ids)
    fewer = SETUP.sites[:4]

    with pytest.raises(SecureAggregationRefusal, match="a second one is refused"):
        hospital.confirm(now.states[VICTIM], Survivors(fewer), ids[VICTIM])
    with pytest.raises(SecureAggregationRefusal, match="not those that were confirmed"):
        hospital.unmask(now.states[VICTIM], UnmaskRequest(fewer, now.confirmations))
    with pytest.raises(SecureAggregationRefusal, match="not those that were confirmed"):
        hospital.unmask(masked[VICTIM], UnmaskRequest(SETUP.sites, now.confirmations))


def test_too_few_signatures_of_the_same_list_are_refused() -> None:
    """A server that shows two lists: each side finds fewer than the threshold of signatures on its own."""
    ids = identities(SETUP.sites)
    now, _ = masked_round(ids)
    signed = {}
    lists = {site: SETUP.sites if site in SETUP.sites[3:] else SETUP.sites[:4] for site in SETUP.sites}
    lists[SETUP.sites[2]] = SETUP.sites
    for site in SETUP.sites[:2] + SETUP.sites[3:]:
        now.states[site], confirmation = hospital.confirm(now.states[site], Survivors(lists[site]), ids[site])
        signed[site] = confirmation.signature

    for site in signed:
        with pytest.raises(SecureAggregationRefusal, match="only 2 hospitals signed this list"):
            hospital.unmask(now.states[site], UnmaskRequest(lists[site], signed))
    now.states[SETUP.sites[2]], last = hospital.confirm(
        now.states[SETUP.sites[2]], Survivors(SETUP.sites), ids[SETUP.sites[2]]
    )
    hospital.unmask(now.states[SETUP.sites[4]], UnmaskRequest(SETUP.sites, {**signed, last.site: last.signature}))


def test_two_lists_work_without_pinned_identities() -> None:
    """Control, and what the documentation says is not covered: a server that shows two lists gets both shares."""
    now, _ = masked_round()
    answers = [
        hospital.unmask(
            now.states[site], UnmaskRequest(SETUP.sites if site in SETUP.sites[3:] else SETUP.sites[:4], {})
        )[1]
        for site in SETUP.sites
    ]

    assert len([a for a in answers if SETUP.sites[4] in a.key_shares]) == 3
    assert len([a for a in answers if SETUP.sites[4] in a.seed_shares]) == 2


def test_a_signature_without_pinned_identities_is_refused_and_others_pins_too() -> None:
    ids, others = identities(SETUP.sites), identities(SETUP.sites)
    now, _ = masked_round()
    pinned, _ = masked_round(ids)

    with pytest.raises(SecureAggregationRefusal, match="not pinned in this round"):
        hospital.confirm(now.states[VICTIM], now.survivors, ids[VICTIM])
    with pytest.raises(SecureAggregationRefusal, match="not those that this round was started with"):
        hospital.confirm(pinned.states[VICTIM], now.survivors, others[VICTIM])
