"""Rounds of five hospitals, one of which a server attacks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedrad.secure import hospital, server
from fedrad.secure.keys import Identity
from fedrad.secure.masks import pair_masks, self_mask
from fedrad.secure.messages import Roster, Unmasking
from fedrad.secure.setup import RoundSetup
from fedrad.secure.shares import combine
from fedrad.secure.states import Advertised
from tests.secure.whole_round import Round, random_inputs, terms, until_masked, until_shared

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


def roster_of(setup: RoundSetup) -> tuple[Advertised, Roster]:
    made = {site: hospital.advertise(setup, site, ()) for site in setup.sites}
    return made[VICTIM][0], server.build_roster(setup, [advert for _, advert in made.values()])
