"""The server's side: pure functions that relay messages, count them and finally remove the masks from the sum.

The caller has checked that ``site`` in a message is the node that sent it. The server sees no private key and no share
before the last stage, and then at most one secret of each hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrad.errors import QuorumLost, RefusedReply
from fedrad.secure.hospital import seed_commitment
from fedrad.secure.keys import KEY_BYTES, public_key
from fedrad.secure.masks import pair_masks, self_mask
from fedrad.secure.messages import Inbox, KeyAdvert, MaskedInput, Roster, SealedShares, Survivors, Unmasking
from fedrad.secure.setup import RoundSetup
from fedrad.secure.shares import combine


def build_roster(setup: RoundSetup, adverts: Sequence[KeyAdvert]) -> Roster:
    """After stage 1: all keys, for all who advertised.

    Raises:
        RefusedReply: a hospital is not invited or sent twice; a key is invalid or repeated.
        QuorumLost: fewer than the threshold.
    """
    _check_senders(setup, [advert.site for advert in adverts], setup.sites, "advertised keys")
    keys = [key for advert in adverts for key in (advert.channel_key, advert.mask_key)]
    if len(set(keys)) != len(keys) or any(len(key) != KEY_BYTES for key in keys):
        raise RefusedReply("a public key is not 32 bytes, or occurs twice")
    return Roster(
        {advert.site: advert.channel_key for advert in adverts},
        {advert.site: advert.mask_key for advert in adverts},
        {advert.site: advert.signature for advert in adverts},
    )


def inboxes(setup: RoundSetup, roster: Roster, shared: Sequence[SealedShares]) -> dict[str, Inbox]:
    """After stage 2: the boxes for each hospital that shared its keys, from the others that did.

    Raises:
        RefusedReply: a hospital is not in the roster, sent twice, or did not seal a box for each other hospital.
        QuorumLost: fewer than the threshold.
    """
    _check_senders(setup, [shares.site for shares in shared], roster.mask_keys, "shared their keys")
    for shares in shared:
        if set(shares.boxes) != set(roster.mask_keys) - {shares.site}:
            raise RefusedReply(f"{shares.site}: sent shares for other hospitals than those of the roster")
    return {to.site: Inbox({of.site: of.boxes[to.site] for of in shared if of.site != to.site}) for to in shared}


def survivors(setup: RoundSetup, shared: Sequence[SealedShares], inputs: Sequence[MaskedInput]) -> Survivors:
    """After stage 3: whose masked input arrived. No hospital may be added afterwards.

    Raises:
        RefusedReply: a hospital shared no keys or sent twice, or its vector has the wrong length.
        QuorumLost: fewer than the threshold. Then nothing can be unmasked; the round is lost and not repeated.
    """
    _check_senders(setup, [masked.site for masked in inputs], {s.site for s in shared}, "sent a masked input")
    for masked in inputs:
        if len(masked.vector) != 8 * setup.entries:
            raise RefusedReply(f"{masked.site}: its masked input does not hold {setup.entries} numbers")
    return Survivors(tuple(sorted(masked.site for masked in inputs)))


def unmasked_sum(
    setup: RoundSetup,
    roster: Roster,
    shared: Sequence[SealedShares],
    inputs: Sequence[MaskedInput],
    unmaskings: Sequence[Unmasking],
) -> NDArray[np.uint64]:
    """After stage 5: the sum of the survivors' encoded adapters, (entries,), for ``fixed_point.decode``.

    Raises:
        RefusedReply: a hospital sent twice, revealed other shares than it was asked for, or a wrong one.
        QuorumLost: fewer than the threshold answered.
    """
    alive = survivors(setup, shared, inputs).sites
    vanished = sorted({shares.site for shares in shared} - set(alive))
    _check_senders(setup, [revealed.site for revealed in unmaskings], alive, "revealed their shares")
    for revealed in unmaskings:
        if set(revealed.seed_shares) != set(alive) or set(revealed.key_shares) != set(vanished):
            raise RefusedReply(f"{revealed.site}: reveals shares of other hospitals than it was asked for")
    everyone = sorted(roster.mask_keys)
    commitments = {shares.site: shares.seed_commitment for shares in shared}
    total = np.zeros(setup.entries, np.uint64)
    for masked in inputs:
        total += masked.values
    for site in alive:
        held = {revealed.site: revealed.seed_shares[site] for revealed in unmaskings}
        seed = combine(held, setup.threshold, everyone, site)
        if seed_commitment(setup, site, seed) != commitments[site]:
            raise _wrong_share(held, site, "self-mask seed")
        total -= self_mask(seed, setup, site)
    peers = {site: roster.mask_keys[site] for site in alive}
    for site in vanished:
        held = {revealed.site: revealed.key_shares[site] for revealed in unmaskings}
        private = combine(held, setup.threshold, everyone, site)
        if public_key(private) != roster.mask_keys[site]:
            raise _wrong_share(held, site, "mask key")
        # The dropout's own pairwise masks cancel those that the survivors added for it.
        total += pair_masks(private, setup, site, peers)
    return total


def _check_senders(
    setup: RoundSetup, sites: Sequence[str], allowed: Mapping[str, bytes] | Sequence[str] | set[str], did: str
) -> None:
    twice = sorted(site for site in set(sites) if sites.count(site) > 1)
    unknown = sorted(set(sites) - set(allowed))
    if twice or unknown:
        raise RefusedReply(f"{(twice + unknown)[0]}: sent twice, or can't be among those that {did}")
    if len(sites) < setup.threshold:
        raise QuorumLost(
            f"round {setup.round}: only {len(sites)} of {len(setup.sites)} hospitals {did}; {setup.threshold} are"
            " needed for a secure sum"
        )


def _wrong_share(held: Mapping[str, bytes], site: str, what: str) -> RefusedReply:
    return RefusedReply(
        f"the shares of the {what} of {site} do not restore it: one of {', '.join(sorted(held))} sent a wrong share,"
        f" or {site} dealt wrong ones"
    )
