"""Each stage is answered once, and of each hospital one secret is revealed at most."""

from __future__ import annotations

import numpy as np
import pytest

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure import hospital, server
from fedrad.secure.messages import Survivors, UnmaskRequest
from fedrad.secure.wire import to_bytes
from tests.secure.attacked import SETUP, VICTIM, WITHOUT_VICTIM, masked_round, opened
from tests.secure.whole_round import identities, random_inputs, terms, until_masked, until_shared, until_unmasked


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
