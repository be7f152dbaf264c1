"""What a hospital refuses, each with the attack that the rule stops: without the rule the attack works."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrad.errors import QuorumLost, RefusedReply, SecureAggregationRefusal
from fedrad.secure import hospital, server
from fedrad.secure.keys import Identity, agree, identity_public_key, new_private_key, open_sealed, public_key
from fedrad.secure.masks import pair_masks, self_mask
from fedrad.secure.messages import Inbox, Roster, Survivors, Unmasking, UnmaskRequest
from fedrad.secure.setup import RoundSetup, joined
from fedrad.secure.shares import SHARE_BYTES, combine
from fedrad.secure.states import Advertised, Shared
from fedrad.secure.wire import to_bytes
from tests.secure.whole_round import (
    Round,
    identities,
    random_inputs,
    terms,
    until_confirmed,
    until_masked,
    until_shared,
    until_unmasked,
)

SETUP = terms(5, 3, entries=20)
VICTIM = SETUP.sites[0]
WITHOUT_VICTIM = SETUP.sites[1:]


def masked_round(ids: Mapping[str, Identity] | None = None) -> tuple[Round, dict[str, NDArray[np.uint64]]]:
    encoded = random_inputs(SETUP)
    return until_masked(until_shared(SETUP, ids=ids), encoded), encoded


def opened(now: Round, both: list[Unmasking]) -> NDArray[np.uint64]:
    """The victim's input, from the shares of both its secrets: what a server must never have."""
    everyone = list(now.setup.sites)
    seeds = {u.site: u.seed_shares[VICTIM] for u in both if VICTIM in u.seed_shares}
    keys = {u.site: u.key_shares[VICTIM] for u in both if VICTIM in u.key_shares}
    seed = combine(seeds, now.setup.threshold, everyone, VICTIM)
    private = combine(keys, now.setup.threshold, everyone, VICTIM)
    others = {site: key for site, key in now.roster.mask_keys.items() if site != VICTIM}
    masked = next(masked for masked in now.inputs if masked.site == VICTIM).values
    return masked - self_mask(seed, now.setup, VICTIM) - pair_masks(private, now.setup, VICTIM, others)


# Terms


@pytest.mark.parametrize(
    ("hospitals", "threshold", "colluders", "why"),
    [
        (1, 1, 0, "fewer than two"),
        (4, 2, 0, "split the hospitals in two groups"),
        (5, 2, 0, "split the hospitals in two groups"),
        (5, 3, 1, "split the hospitals in two groups"),
        (5, 6, 0, "at most 5"),
        (3, 3, 2, "at least 4"),
    ],
)
def test_terms_that_would_not_protect_are_refused(hospitals: int, threshold: int, colluders: int, why: str) -> None:
    with pytest.raises(SecureAggregationRefusal, match=why):
        terms(hospitals, threshold, colluders=colluders)


@pytest.mark.parametrize("sites", [("b", "a"), ("a", "a"), ("", "a")])
def test_sites_are_sorted_and_different(sites: tuple[str, ...]) -> None:
    with pytest.raises(SecureAggregationRefusal, match="sorted"):
        RoundSetup("run", 1, sites, 2, 5)


@pytest.mark.parametrize("fault", [{"entries": 0}, {"colluders": -1}, {"round": -1}])
def test_numbers_out_of_range_are_refused(fault: dict[str, int]) -> None:
    with pytest.raises(SecureAggregationRefusal, match="0 or more"):
        replace(SETUP, **fault)  # type: ignore[arg-type]


def test_any_other_term_is_another_context() -> None:
    changes = [{"run": "other"}, {"round": 2}, {"sites": (*SETUP.sites[:4], "z")}, {"threshold": 4}, {"entries": 21}]
    changes += [{"threshold": 4, "colluders": 1}, {"bound": 5.0}]
    contexts = {replace(SETUP, **change).context for change in changes} | {SETUP.context}

    assert len(contexts) == len(changes) + 1


def test_parts_joined_otherwise_are_other_bytes() -> None:
    assert len({joined("ab", "c"), joined("a", "bc"), joined("abc"), joined(b"abc"), joined("1"), joined(1)}) == 6


def test_half_the_hospitals_as_threshold_would_let_the_server_split_them() -> None:
    """Control for the first rule: with threshold 2 of 4, two honest answers each give the server both secrets."""
    setup = terms(4, 3, entries=20)
    object.__setattr__(setup, "threshold", 2)  # past the check
    encoded, now = random_inputs(setup), Round(setup)
    made = {site: hospital.advertise(setup, site, ()) for site in setup.sites}
    now.roster = server.build_roster(setup, [advert for _, advert in made.values()])
    shared = {site: hospital.share_keys(state, now.roster) for site, (state, _) in made.items()}
    boxes = server.inboxes(setup, now.roster, [shares for _, shares in shared.values()])
    masked = {site: hospital.mask_input(state, boxes[site], encoded[site]) for site, (state, _) in shared.items()}
    now.inputs = [message for _, message in masked.values()]
    shown = {site: setup.sites if site in setup.sites[:2] else setup.sites[1:] for site in setup.sites}
    answers = [hospital.unmask(masked[site][0], UnmaskRequest(shown[site], {}))[1] for site in setup.sites]

    assert np.array_equal(opened(now, answers), encoded[VICTIM])


# One answer, and one secret


def test_a_second_unmasking_is_refused() -> None:
    now, _ = masked_round()
    until_unmasked(now)

    for site in WITHOUT_VICTIM:
        with pytest.raises(SecureAggregationRefusal, match="would reveal the other share"):
            hospital.unmask(now.states[site], UnmaskRequest(WITHOUT_VICTIM, {}))


def test_without_that_rule_the_server_opens_one_adapter() -> None:
    """Control: hospitals that forget that they answered reveal both secrets of the victim."""
    now, encoded = masked_round()
    forgetful = dict(now.states)
    until_unmasked(now)
    again = [hospital.unmask(forgetful[site], UnmaskRequest(WITHOUT_VICTIM, {}))[1] for site in WITHOUT_VICTIM]

    assert np.array_equal(opened(now, now.unmaskings + again), encoded[VICTIM])


def test_no_answer_holds_both_shares_of_a_hospital_nor_one_of_the_senders_own_key() -> None:
    setup = terms(5, 3)
    now = until_masked(until_shared(setup), random_inputs(setup), [setup.sites[4]])
    until_unmasked(now)

    for revealed in now.unmaskings:
        assert not set(revealed.seed_shares) & set(revealed.key_shares)
        assert set(revealed.seed_shares) | set(revealed.key_shares) == set(setup.sites)
        assert revealed.site not in revealed.key_shares


def test_what_is_left_after_an_answer_holds_no_secret() -> None:
    now, _ = masked_round()
    secrets = [share for state in now.states.values() for share in (*state.seed_shares.values(),)]  # type: ignore[union-attr]
    until_unmasked(now)
    left = b"".join(to_bytes(state) for state in now.states.values())

    assert secrets
    assert not any(secret.hex().encode() in left for secret in secrets)


def test_a_round_that_was_answered_is_refused() -> None:
    _, advert = hospital.advertise(SETUP, VICTIM, [("run", 0), ("other", 1)])

    assert advert.site == VICTIM
    with pytest.raises(SecureAggregationRefusal, match="not repeated"):
        hospital.advertise(SETUP, VICTIM, [("run", 0), ("run", 1)])


def test_each_stage_is_taken_once_and_in_order() -> None:
    advertised, advert = hospital.advertise(SETUP, VICTIM, ())
    now, encoded = masked_round()
    inbox, roster = server.inboxes(SETUP, now.roster, now.shared)[VICTIM], now.roster
    request = UnmaskRequest(SETUP.sites, {})
    answered, _ = hospital.unmask(now.states[VICTIM], request)

    assert advert.signature == b""
    for state in (now.states[VICTIM], answered):
        with pytest.raises(SecureAggregationRefusal, match="keys are shared once"):
            hospital.share_keys(state, roster)
    for state in (advertised, now.states[VICTIM], answered):
        with pytest.raises(SecureAggregationRefusal, match="an input is masked once"):
            hospital.mask_input(state, inbox, encoded[VICTIM])
    for state in (advertised, until_shared(SETUP).states[VICTIM], answered):
        with pytest.raises(SecureAggregationRefusal, match="shares are revealed once"):
            hospital.unmask(state, request)
        with pytest.raises(SecureAggregationRefusal, match="survivors are confirmed once"):
            hospital.confirm(state, Survivors(SETUP.sites), identities(SETUP.sites)[VICTIM])


# Keys


def roster_of(setup: RoundSetup) -> tuple[Advertised, Roster]:
    made = {site: hospital.advertise(setup, site, ()) for site in setup.sites}
    return made[VICTIM][0], server.build_roster(setup, [advert for _, advert in made.values()])


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


# Shares on their way


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
        with pytest.raises(SecureAggregationRefusal, match=f"shares of {name}"):
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


# Survivors


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (SETUP.sites[::-1], "sorted"),
        ((VICTIM, *SETUP.sites), "sorted, each named once"),
        ((*SETUP.sites, "stranger"), "stranger can't have survived"),
        (WITHOUT_VICTIM, "is not listed as a survivor"),
        (SETUP.sites[:2], "only 2 hospitals survived; 3 are needed"),
    ],
)
def test_wrong_lists_of_survivors_are_refused(shown: tuple[str, ...], why: str) -> None:
    now, _ = masked_round()

    with pytest.raises(SecureAggregationRefusal, match=why):
        hospital.unmask(now.states[VICTIM], UnmaskRequest(shown, {}))


# A server that lies, with and without pinned identities


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


# What the server refuses


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
                RefusedReply, match=f"the {what} of {owner} do not give|of the secret of {owner} do not fit"
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
