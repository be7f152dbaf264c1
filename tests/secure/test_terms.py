"""Terms of a round that would not protect are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure import hospital, server
from fedrad.secure.messages import UnmaskRequest
from fedrad.secure.setup import RoundSetup, joined
from tests.secure.attacked import SETUP, VICTIM, opened
from tests.secure.whole_round import Round, random_inputs, terms


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
