"""A hospital's side: for each stage a function from the previous state to the next state and the message.

States (``states``) are stored between stages, because a SuperNode starts a new process for each message. **Write the
new state, synced and with mode 0600, before its message leaves**, and keep no older copy, because answering a stage
twice breaks the rules below. ``Answered`` holds no secret; keep it to remember that the round was answered.

Rules: keys are fresh in every round; each stage is answered once; the own keys are unaltered and all keys differ; a sum
covers at least ``threshold`` hospitals; and of each hospital one share is revealed, never both, because both together
unmask its adapter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure.keys import (
    KEY_BYTES,
    Identity,
    agree,
    is_signed,
    new_private_key,
    open_sealed,
    public_key,
    seal,
    sign,
)
from fedrad.secure.masks import pair_masks, self_mask
from fedrad.secure.messages import (
    Confirmation,
    Inbox,
    KeyAdvert,
    MaskedInput,
    Roster,
    SealedShares,
    Survivors,
    Unmasking,
    UnmaskRequest,
)
from fedrad.secure.setup import RoundSetup, joined
from fedrad.secure.shares import SHARE_BYTES, split
from fedrad.secure.states import Advertised, Answered, Masked, Shared, State


def advertise(
    setup: RoundSetup, site: str, answered: Collection[tuple[str, int]], identity: Identity | None = None
) -> tuple[Advertised, KeyAdvert]:
    """Stage 1: two fresh key pairs.

    Args:
        answered: (run, round) of every round for which this hospital has advertised keys. If it repeated a round, the
            same adapters could be summed over two sets of survivors, and the difference is one hospital's adapter.
        identity: pins all hospitals' identity keys; the keys of the round are then signed.

    Raises:
        SecureAggregationRefusal: the round was answered before, the site is not invited, or a pinned key is missing.
    """
    if (setup.run, setup.round) in answered:
        raise SecureAggregationRefusal(
            f"round {setup.round} of {setup.run} was answered before; a round is not repeated"
        )
    if site not in setup.sites:
        raise SecureAggregationRefusal(f"{site} is not among the hospitals of round {setup.round}")
    pinned: dict[str, bytes] = {}
    if identity is not None:
        identity.check(site, setup.sites)
        pinned = {name: identity.pinned[name] for name in setup.sites}
    channel, mask = new_private_key(), new_private_key()
    keys = (public_key(channel), public_key(mask))
    signature = b"" if identity is None else sign(identity.private, _advert_text(setup, site, *keys))
    return Advertised(setup, site, pinned, channel, mask), KeyAdvert(site, *keys, signature)


def share_keys(state: State, roster: Roster) -> tuple[Shared, SealedShares]:
    """Stage 2: shares of the mask key and of a fresh self-mask seed; each pair of shares is sealed for one hospital.

    Raises:
        SecureAggregationRefusal: wrong stage; too few or unknown hospitals; keys that are altered, repeated or
            unusable; with pinned identities, keys without a valid signature.
    """
    if not isinstance(state, Advertised):
        raise _not_now(state, "keys are shared once, after they were advertised")
    setup, site = state.setup, state.site
    _check_roster(state, roster)
    sites = sorted(roster.mask_keys)
    seed = os.urandom(KEY_BYTES)
    seed_shares = split(seed, setup.threshold, sites)
    key_shares = split(state.mask_private, setup.threshold, sites)
    boxes = {}
    for peer in sites:
        if peer != site:
            purpose = _box_purpose(setup, site, peer)
            key = agree(state.channel_private, roster.channel_keys[peer], purpose)
            boxes[peer] = seal(key, seed_shares[peer] + key_shares[peer], purpose)
    shared = Shared(
        setup=setup,
        site=site,
        pinned=state.pinned,
        channel_private=state.channel_private,
        mask_private=state.mask_private,
        seed=seed,
        own_seed_share=seed_shares[site],
        channel_keys=roster.channel_keys,
        mask_keys=roster.mask_keys,
    )
    return shared, SealedShares(site, seed_commitment(setup, site, seed), boxes)


def mask_input(state: State, inbox: Inbox, encoded: NDArray[np.uint64]) -> tuple[Masked, MaskedInput]:
    """Stage 3: the adapter plus the self mask and a pairwise mask for each hospital whose shares arrived.

    Args:
        encoded: the adapter from ``fixed_point.encode``, (entries,).

    Raises:
        SecureAggregationRefusal: wrong stage; shares of too few or unknown hospitals; a box that was changed.
    """
    if not isinstance(state, Shared):
        raise _not_now(state, "an input is masked once, after keys were shared")
    setup, site = state.setup, state.site
    if encoded.shape != (setup.entries,) or encoded.dtype != np.uint64:
        raise SecureAggregationRefusal(f"the adapter must be {setup.entries} encoded numbers")
    unknown = sorted((set(inbox.boxes) - set(state.mask_keys)) | (set(inbox.boxes) & {site}))
    if unknown:
        raise SecureAggregationRefusal(f"shares came from {unknown[0]}, which is not another hospital of this round")
    _check_count(setup, len(inbox.boxes) + 1, "shared their keys")
    seed_shares, key_shares = {site: state.own_seed_share}, {}
    for peer, box in inbox.boxes.items():
        purpose = _box_purpose(setup, peer, site)
        opened = open_sealed(agree(state.channel_private, state.channel_keys[peer], purpose), box, purpose)
        if opened is None or len(opened) != 2 * SHARE_BYTES:
            raise SecureAggregationRefusal(
                f"the shares of {peer} were changed in transit, or made for another round or other terms"
            )
        seed_shares[peer], key_shares[peer] = opened[:SHARE_BYTES], opened[SHARE_BYTES:]
    peers = {peer: state.mask_keys[peer] for peer in inbox.boxes}
    masked = encoded + self_mask(state.seed, setup, site) + pair_masks(state.mask_private, setup, site, peers)
    after = Masked(setup, site, state.pinned, seed_shares, key_shares)
    return after, MaskedInput(site, masked.astype("<u8").tobytes())


def confirm(state: State, survivors: Survivors, identity: Identity) -> tuple[Masked, Confirmation]:
    """Stage 4, with pinned identities: signs the list of survivors that the server shows, once.

    A hospital reveals shares only after ``threshold`` hospitals have signed the same list. Because the threshold is
    more than half of all hospitals, a server can't get two lists accepted.

    Raises:
        SecureAggregationRefusal: wrong stage; a list was signed before; a wrong list.
    """
    if not isinstance(state, Masked):
        raise _not_now(state, "survivors are confirmed once, after the input was masked")
    if not state.pinned:
        raise SecureAggregationRefusal("identities are not pinned in this round, so a signature would prove nothing")
    if state.confirmed:
        raise SecureAggregationRefusal("a list of survivors was signed before in this round; a second one is refused")
    identity.check(state.site, state.setup.sites)
    if {site: identity.pinned[site] for site in state.pinned} != dict(state.pinned):
        raise SecureAggregationRefusal("the pinned identity keys are not those that this round was started with")
    sites = _checked_survivors(state, survivors.sites)
    signature = sign(identity.private, _survivors_text(state.setup, sites))
    after = Masked(state.setup, state.site, state.pinned, state.seed_shares, state.key_shares, sites)
    return after, Confirmation(state.site, signature)


def unmask(state: State, request: UnmaskRequest) -> tuple[Answered, Unmasking]:
    """Stage 5, once: the share of each survivor's seed, and the share of each dropout's mask key.

    Raises:
        SecureAggregationRefusal: answered before; too few or unknown survivors, or this hospital is not among them;
            with pinned identities, another list than the confirmed one, or too few signatures of it.
    """
    if not isinstance(state, Masked):
        raise _not_now(
            state,
            "shares are revealed once, after the input was masked. A second list of survivors would reveal the other"
            " share of a hospital, and both together unmask its adapter",
        )
    survivors = _checked_survivors(state, request.survivors)
    if state.pinned:
        _check_confirmed(state, survivors, request.confirmations)
    revealed = Unmasking(
        site=state.site,
        seed_shares={site: state.seed_shares[site] for site in survivors},
        key_shares={site: share for site, share in state.key_shares.items() if site not in survivors},
    )
    return Answered(state.setup, state.site), revealed


def seed_commitment(setup: RoundSetup, site: str, seed: bytes) -> bytes:
    """The commitment to a self-mask seed, published before any share of it is revealed: a hash, 32 bytes."""
    return hashlib.sha256(joined("seed commitment", setup.context, site, seed)).digest()


def _not_now(state: State, rule: str) -> SecureAggregationRefusal:
    where = f"{state.site}, round {state.setup.round} of {state.setup.run}"
    return SecureAggregationRefusal(f"{where}: {rule}; its state is {type(state).__name__}")


def _check_count(setup: RoundSetup, count: int, did: str) -> None:
    if count < setup.threshold:
        raise SecureAggregationRefusal(f"only {count} hospitals {did}; {setup.threshold} are needed for a sum")


def _check_roster(state: Advertised, roster: Roster) -> None:
    setup, site, names = state.setup, state.site, set(roster.mask_keys)
    if names != set(roster.channel_keys) or names != set(roster.signatures):
        raise SecureAggregationRefusal("the roster does not hold two keys and a signature for each hospital")
    unknown = sorted(names - set(setup.sites))
    if unknown:
        raise SecureAggregationRefusal(f"the roster names {unknown[0]}, which is not invited to the round")
    if (roster.channel_keys.get(site), roster.mask_keys.get(site)) != (
        public_key(state.channel_private),
        public_key(state.mask_private),
    ):
        raise SecureAggregationRefusal(f"the roster does not hold the keys that {site} advertised in this round")
    keys = [*roster.channel_keys.values(), *roster.mask_keys.values()]
    if len(set(keys)) != len(keys):
        raise SecureAggregationRefusal("a public key occurs twice in the roster")
    _check_count(setup, len(names), "advertised keys")
    if state.pinned:
        for name in sorted(names):
            text = _advert_text(setup, name, roster.channel_keys[name], roster.mask_keys[name])
            if not is_signed(state.pinned[name], roster.signatures[name], text):
                raise SecureAggregationRefusal(f"the keys of {name} are not signed with the identity key pinned for it")


def _checked_survivors(state: Masked, survivors: tuple[str, ...]) -> tuple[str, ...]:
    if list(survivors) != sorted(set(survivors)):
        raise SecureAggregationRefusal("survivors must be sorted, each named once")
    unknown = sorted(set(survivors) - set(state.seed_shares))
    if unknown:
        raise SecureAggregationRefusal(f"{unknown[0]} can't have survived: it shared no keys in this round")
    if state.site not in survivors:
        raise SecureAggregationRefusal(
            f"{state.site} sent its masked input and is asked, but is not listed as a survivor"
        )
    _check_count(state.setup, len(survivors), "survived")
    return survivors


def _check_confirmed(state: Masked, survivors: tuple[str, ...], confirmations: Mapping[str, bytes]) -> None:
    if survivors != state.confirmed:
        raise SecureAggregationRefusal("the survivors are not those that were confirmed in this round")
    text = _survivors_text(state.setup, survivors)
    valid = [
        site for site in survivors if site in confirmations and is_signed(state.pinned[site], confirmations[site], text)
    ]
    _check_count(state.setup, len(valid), "signed this list of survivors")


def _advert_text(setup: RoundSetup, site: str, channel_key: bytes, mask_key: bytes) -> bytes:
    return joined("advertised keys", setup.context, site, channel_key, mask_key)


def _box_purpose(setup: RoundSetup, sender: str, recipient: str) -> bytes:
    """The context of one box. Each box is sealed with its own key, bound to this context."""
    return joined("sealed shares", setup.context, sender, recipient)


def _survivors_text(setup: RoundSetup, survivors: tuple[str, ...]) -> bytes:
    return joined("survivors", setup.context, *survivors)
