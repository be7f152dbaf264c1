"""The sum is the plain sum whoever vanishes when, and there is none below the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrad.errors import QuorumLost, SecureAggregationRefusal
from fedrad.secure import fixed_point, server
from fedrad.secure.masks import pair_masks, self_mask
from fedrad.secure.shares import combine
from fedrad.secure.states import Shared
from tests.secure.whole_round import (
    identities,
    plain_sum,
    random_inputs,
    terms,
    until_confirmed,
    until_masked,
    until_shared,
    until_unmasked,
)


@st.composite
def casts(draw: st.DrawFn) -> tuple[int, int, int, list[str], int]:
    """Hospitals, threshold, entries, the fate of each (enough reach the end), seed."""
    hospitals = draw(st.integers(2, 7))
    threshold = draw(st.integers(hospitals // 2 + 1, hospitals))
    fates = [
        draw(st.sampled_from(["absent", "mute", "vanished", "silent", "there"])) if i >= threshold else "there"
        for i in range(hospitals)
    ]
    order = draw(st.permutations(range(hospitals)))
    return hospitals, threshold, draw(st.integers(1, 40)), [fates[i] for i in order], draw(st.integers(0, 2**32))


@settings(max_examples=60, deadline=None)
@given(casts(), st.booleans())
def test_the_sum_is_the_plain_sum_of_the_survivors(cast: tuple[int, int, int, list[str], int], pinned: bool) -> None:
    hospitals, threshold, entries, fates, seed = cast
    setup = terms(hospitals, threshold, entries)
    fate = dict(zip(setup.sites, fates, strict=True))
    ids = identities(setup.sites) if pinned else None
    encoded = random_inputs(setup, seed)

    def those(what: str) -> list[str]:
        return [site for site in setup.sites if fate[site] == what]

    now = until_masked(until_shared(setup, those("absent"), ids, those("mute")), encoded, those("vanished"))
    if ids:
        until_confirmed(now, ids)
    until_unmasked(now, those("silent"))

    alive = those("silent") + those("there")
    assert now.survivors.sites == tuple(sorted(alive))
    assert np.array_equal(now.total(), plain_sum(encoded, alive))


@pytest.mark.parametrize("vanishes", ["before its masked input", "after its masked input"])
def test_one_of_five_vanishes(vanishes: str) -> None:
    setup = terms(5, 3, entries=1000)
    gone = setup.sites[2]
    rng = np.random.default_rng(1)
    adapters = {site: rng.normal(0, 30, setup.entries).astype(np.float32) for site in setup.sites}
    encoded = {site: fixed_point.encode(values, setup.bound) for site, values in adapters.items()}

    before = vanishes == "before its masked input"
    now = until_masked(until_shared(setup), encoded, [gone] if before else [])
    until_unmasked(now, [] if before else [gone])

    expected = sum(v.astype(np.float64) for site, v in adapters.items() if site != gone or not before)
    error = np.abs(fixed_point.decode(now.total()) - expected).max()
    assert error <= fixed_point.error_bound(5, setup.bound)


@pytest.mark.parametrize("stage", ["advertise", "share", "mask", "unmask"])
def test_below_the_threshold_there_is_no_sum(stage: str) -> None:
    setup = terms(5, 3)
    gone = setup.sites[:3]

    def whole_round() -> None:
        now = until_shared(setup, gone if stage == "advertise" else (), None, gone if stage == "share" else ())
        until_masked(now, random_inputs(setup), gone if stage == "mask" else ())
        until_unmasked(now, gone if stage == "unmask" else ())
        now.total()

    with pytest.raises(QuorumLost, match="only 2 of 5 hospitals"):
        whole_round()


def test_a_hospital_refuses_a_sum_of_too_few_even_if_the_server_does_not() -> None:
    setup = terms(5, 4)
    now = until_masked(until_shared(setup), random_inputs(setup))
    now.survivors = type(now.survivors)(setup.sites[:3])

    with pytest.raises(SecureAggregationRefusal, match="only 3 hospitals survived; 4 are needed"):
        until_unmasked(now)


def test_two_rounds_with_the_same_inputs_share_no_key_and_no_masked_number() -> None:
    seen: list[set[bytes]] = []
    for number in (1, 2):
        setup = terms(3, 2, entries=50, number=number)
        now = until_masked(until_shared(setup), {site: np.zeros(50, np.uint64) for site in setup.sites})
        keys = {*now.roster.channel_keys.values(), *now.roster.mask_keys.values()}
        seen.append(keys | {masked.vector[i : i + 8] for masked in now.inputs for i in range(0, 400, 8)})

    assert not seen[0] & seen[1]


def test_an_input_that_came_late_stays_masked() -> None:
    """The double mask: the server has recovered a hospital's mask key, then its input arrives after all."""
    setup = terms(4, 3, entries=2000)
    late = setup.sites[1]
    encoded = {site: np.full(setup.entries, 7, np.uint64) for site in setup.sites}
    now = until_shared(setup)
    state = now.states[late]
    assert isinstance(state, Shared)
    until_masked(now, encoded)
    arrived_late = next(masked for masked in now.inputs if masked.site == late)
    now.inputs = [masked for masked in now.inputs if masked.site != late]
    now.survivors = server.survivors(setup, now.shared, now.inputs)
    del now.states[late]
    until_unmasked(now)

    assert np.array_equal(now.total(), plain_sum(encoded, now.survivors.sites))
    held = {revealed.site: revealed.key_shares[late] for revealed in now.unmaskings}
    private = combine(held, setup.threshold, list(setup.sites), late)
    others = {site: key for site, key in now.roster.mask_keys.items() if site != late}
    half_open = arrived_late.values - pair_masks(private, setup, late, others)

    assert not np.isin(7, half_open)
    assert len(np.unique(half_open)) == setup.entries
    # Control: without the hospital's own mask the adapter would lie open.
    assert np.array_equal(half_open - self_mask(state.seed, setup, late), encoded[late])
