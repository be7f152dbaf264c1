"""A whole round of secure aggregation, every message and state through its bytes; hospitals vanish where told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrad.secure import hospital, server
from fedrad.secure.keys import Identity, identity_public_key, new_identity_key
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
from fedrad.secure.setup import RoundSetup
from fedrad.secure.states import State
from fedrad.secure.wire import from_bytes, from_fields, to_bytes, to_fields

T = TypeVar("T")


@dataclass
class Round:
    """What the server and the hospitals hold while a round goes on."""

    setup: RoundSetup
    states: dict[str, State] = field(default_factory=dict)
    roster: Roster = field(default_factory=lambda: Roster({}, {}, {}))
    shared: list[SealedShares] = field(default_factory=list)
    inputs: list[MaskedInput] = field(default_factory=list)
    survivors: Survivors = field(default_factory=lambda: Survivors(()))
    confirmations: dict[str, bytes] = field(default_factory=dict)
    unmaskings: list[Unmasking] = field(default_factory=list)

    def total(self) -> NDArray[np.uint64]:
        return server.unmasked_sum(self.setup, self.roster, self.shared, self.inputs, self.unmaskings)


def terms(hospitals: int, threshold: int, entries: int = 5, colluders: int = 0, number: int = 1) -> RoundSetup:
    sites = tuple(f"hospital-{i:02d}" for i in range(hospitals))
    return RoundSetup("run", number, sites, threshold, entries, colluders)


def identities(sites: Collection[str]) -> dict[str, Identity]:
    private = {site: new_identity_key() for site in sites}
    pinned = {site: identity_public_key(key) for site, key in private.items()}
    return {site: Identity(private[site], pinned) for site in sites}


def sent(message: T) -> T:
    """The message as it arrives, after it was plain fields."""
    return from_fields(type(message), to_fields(message))


def resumed(state: State) -> State:
    """The state as the next process reads it from the disk."""
    return from_bytes(type(state), to_bytes(state))


def until_shared(
    setup: RoundSetup,
    absent: Collection[str] = (),
    ids: Mapping[str, Identity] | None = None,
    mute: Collection[str] = (),
) -> Round:
    """Stages 1 and 2. ``absent`` never advertise, ``mute`` advertise and share nothing."""
    now = Round(setup)
    adverts: list[KeyAdvert] = []
    for site in setup.sites:
        if site not in absent:
            now.states[site], advert = hospital.advertise(setup, site, (), (ids or {}).get(site))
            adverts.append(sent(advert))
    now.roster = sent(server.build_roster(setup, adverts))
    for site, state in list(now.states.items()):
        if site in mute:
            del now.states[site]
        else:
            now.states[site], shares = hospital.share_keys(resumed(state), now.roster)
            now.shared.append(sent(shares))
    return now


def until_masked(now: Round, encoded: Mapping[str, NDArray[np.uint64]], vanished: Collection[str] = ()) -> Round:
    """Stage 3. ``vanished`` send no masked input."""
    boxes = server.inboxes(now.setup, now.roster, now.shared)
    for site, inbox in boxes.items():
        if site in vanished:
            del now.states[site]
        else:
            inbox = sent(Inbox(inbox.boxes))
            now.states[site], masked = hospital.mask_input(resumed(now.states[site]), inbox, encoded[site])
            now.inputs.append(sent(masked))
    now.survivors = sent(server.survivors(now.setup, now.shared, now.inputs))
    return now


def until_confirmed(now: Round, ids: Mapping[str, Identity]) -> Round:
    """Stage 4."""
    for site, state in list(now.states.items()):
        confirmation: Confirmation
        now.states[site], confirmation = hospital.confirm(resumed(state), now.survivors, ids[site])
        now.confirmations[site] = sent(confirmation).signature
    return now


def until_unmasked(now: Round, silent: Collection[str] = ()) -> Round:
    """Stage 5. ``silent`` sent their masked input and vanished then."""
    request = sent(UnmaskRequest(now.survivors.sites, now.confirmations))
    for site, state in list(now.states.items()):
        if site not in silent:
            now.states[site], revealed = hospital.unmask(resumed(state), request)
            now.unmaskings.append(sent(revealed))
    return now


def random_inputs(setup: RoundSetup, seed: int = 0) -> dict[str, NDArray[np.uint64]]:
    """Any numbers modulo 2^64."""
    rng = np.random.default_rng(seed)
    return {site: rng.integers(0, 2**64, setup.entries, np.uint64) for site in setup.sites}


def plain_sum(encoded: Mapping[str, NDArray[np.uint64]], sites: Collection[str]) -> NDArray[np.uint64]:
    return np.sum([encoded[site] for site in sites], axis=0, dtype=np.uint64)
