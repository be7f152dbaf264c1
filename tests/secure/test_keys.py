"""Keys and sealed shares that are altered, repeated or made for another round are refused."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure import hospital, server
from fedrad.secure.keys import agree, new_private_key, open_sealed, public_key
from fedrad.secure.messages import Inbox, Roster
from fedrad.secure.setup import joined
from fedrad.secure.shares import SHARE_BYTES
from fedrad.secure.states import Shared
from tests.secure.attacked import SETUP, VICTIM, WITHOUT_VICTIM, roster_of
from tests.secure.whole_round import Round, random_inputs, terms, until_shared


def test_keys_of_another_round_are_refused() -> None:
    state, _ = roster_of(SETUP)
    _, other = roster_of(terms(5, 3, entries=20, number=2))

    with pytest.raises(SecureAggregationRefusal, match=f"keys that {VICTIM} advertised"):
        hospital.share_keys(state, other)


@pytest.mark.parametrize("which", ["channel_keys", "mask_keys"])
@pytest.mark.parametrize("fault", ["own key altered", "a key twice", "own key as another's", "no own key"])
def test_altered_and_doubled_keys_are_refused(which: str, fault: str) -> None:
    state, roster = roster_of(SETUP)
    keys = dict(getattr(roster, which))
    a, b = WITHOUT_VICTIM[:2]
    match fault:
        case "own key altered":
            keys[VICTIM] = public_key(new_private_key())
        case "a key twice":
            keys[a] = keys[b]
        case "own key as another's":
            keys[a] = keys[VICTIM]
        case "no own key":
            del keys[VICTIM]

    with pytest.raises(
        SecureAggregationRefusal, match=r"advertised in this round|occurs twice|two keys and a signature"
    ):
        hospital.share_keys(state, replace(roster, **{which: keys}))


@pytest.mark.parametrize("which", ["channel_keys", "mask_keys", "signatures"])
def test_a_roster_that_lacks_a_part_is_refused(which: str) -> None:
    state, roster = roster_of(SETUP)
    less = {site: part for site, part in getattr(roster, which).items() if site != WITHOUT_VICTIM[0]}

    with pytest.raises(SecureAggregationRefusal, match="two keys and a signature"):
        hospital.share_keys(state, replace(roster, **{which: less}))


def test_a_channel_key_as_mask_key_is_refused() -> None:
    state, roster = roster_of(SETUP)
    a, b = WITHOUT_VICTIM[:2]

    with pytest.raises(SecureAggregationRefusal, match="occurs twice"):
        hospital.share_keys(state, replace(roster, mask_keys={**roster.mask_keys, a: roster.channel_keys[b]}))


@pytest.mark.parametrize("key", [bytes(32), (1).to_bytes(32, "little"), b"short"])
def test_a_key_that_fixes_the_secret_is_refused(key: bytes) -> None:
    state, roster = roster_of(SETUP)

    with pytest.raises(SecureAggregationRefusal, match="not a usable X25519 key"):
        hospital.share_keys(state, replace(roster, channel_keys={**roster.channel_keys, WITHOUT_VICTIM[0]: key}))


def test_unknown_hospitals_and_too_few_are_refused() -> None:
    state, roster = roster_of(SETUP)
    stranger = {"stranger": public_key(new_private_key())}
    more = Roster(
        {**roster.channel_keys, **stranger},
        {**roster.mask_keys, "stranger": os.urandom(32)},
        {**roster.signatures, "stranger": b""},
    )
    two = [{site: keys[site] for site in SETUP.sites[:2]} for keys in vars(roster).values()]

    with pytest.raises(SecureAggregationRefusal, match="stranger, which is not invited"):
        hospital.share_keys(state, more)
    with pytest.raises(SecureAggregationRefusal, match="only 2 hospitals advertised keys; 3 are needed"):
        hospital.share_keys(state, Roster(*two))
    with pytest.raises(SecureAggregationRefusal, match="not among the hospitals"):
        hospital.advertise(SETUP, "stranger", ())


def test_a_box_that_was_changed_or_swapped_or_is_for_another_is_refused() -> None:
    now, encoded = until_shared(SETUP), random_inputs(SETUP)
    boxes = server.inboxes(SETUP, now.roster, now.shared)
    a, b = WITHOUT_VICTIM[:2]
    good = dict(boxes[VICTIM].boxes)
    flipped = good[a][:-1] + bytes([good[a][-1] ^ 1])

    for bad in (flipped, good[b], boxes[b].boxes[a], b"", good[a][:20]):
        with pytest.raises(SecureAggregationRefusal, match=f"the shares of {a} were changed"):
            hospital.mask_input(now.states[VICTIM], Inbox({**good, a: bad}), encoded[VICTIM])
    masked, _ = hospital.mask_input(now.states[VICTIM], Inbox(good), encoded[VICTIM])
    assert set(masked.seed_shares) == set(SETUP.sites)


def test_shares_made_under_other_terms_do_not_open() -> None:
    """A server that shows hospitals different thresholds gets no masked input."""
    now, encoded = Round(SETUP), random_inputs(SETUP)
    adverts = {}
    for site in SETUP.sites:
        shown = replace(SETUP, threshold=4) if site == WITHOUT_VICTIM[0] else SETUP
        now.states[site], adverts[site] = hospital.advertise(shown, site, ())
    now.roster = server.build_roster(SETUP, list(adverts.values()))
    for site in SETUP.sites:
        now.states[site], shares = hospital.share_keys(now.states[site], now.roster)
        now.shared.append(shares)
    inbox = server.inboxes(SETUP, now.roster, now.shared)[VICTIM]

    with pytest.raises(SecureAggregationRefusal, match="or other terms"):
        hospital.mask_input(now.states[VICTIM], inbox, encoded[VICTIM])


def test_shares_from_nowhere_and_too_few_are_refused() -> None:
    now, encoded = until_shared(SETUP), random_inputs(SETUP)
    good = dict(server.inboxes(SETUP, now.roster, now.shared)[VICTIM].boxes)
    state = now.states[VICTIM]

    for name in ("stranger", VICTIM):
        with pytest.raises(SecureAggregationRefusal, match=f"shares came from {name}"):
            hospital.mask_input(state, Inbox({**good, name: good[WITHOUT_VICTIM[0]]}), encoded[VICTIM])
    with pytest.raises(SecureAggregationRefusal, match="only 2 hospitals shared"):
        hospital.mask_input(state, Inbox({WITHOUT_VICTIM[0]: good[WITHOUT_VICTIM[0]]}), encoded[VICTIM])
    with pytest.raises(SecureAggregationRefusal, match="20 encoded numbers"):
        hospital.mask_input(state, Inbox(good), encoded[VICTIM][:19])


def test_the_server_can_not_open_a_box() -> None:
    """It holds every public key and every box; no private key of its own opens one."""
    now = until_shared(SETUP)
    a = WITHOUT_VICTIM[0]
    box = server.inboxes(SETUP, now.roster, now.shared)[VICTIM].boxes[a]
    purpose = joined("sealed shares", SETUP.context, a, VICTIM)
    state = now.states[VICTIM]

    assert isinstance(state, Shared)
    assert open_sealed(agree(new_private_key(), now.roster.channel_keys[a], purpose), box, purpose) is None
    theirs = open_sealed(agree(state.channel_private, now.roster.channel_keys[a], purpose), box, purpose)
    assert theirs is not None
    assert len(theirs) == 2 * SHARE_BYTES
