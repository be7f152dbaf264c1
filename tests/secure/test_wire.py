"""Messages and states survive the way through fields and bytes, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import ConfigRecord

from fedrad.errors import RefusedReply, SecureAggregationRefusal
from fedrad.secure import hospital, server
from fedrad.secure.messages import KeyAdvert, Roster, UnmaskRequest
from fedrad.secure.setup import RoundSetup
from fedrad.secure.states import Answered, Masked, State
from fedrad.secure.wire import from_bytes, from_fields, to_bytes, to_fields
from tests.secure.whole_round import identities, random_inputs, terms, until_confirmed, until_masked, until_shared

SETUP = terms(3, 2)


def every_state() -> list[State]:
    ids = identities(SETUP.sites)
    site = SETUP.sites[0]
    now = until_shared(SETUP, ids=ids)
    states: list[State] = [hospital.advertise(SETUP, site, (), ids[site])[0], now.states[site]]
    states.append(until_masked(now, random_inputs(SETUP)).states[site])
    states.append(until_confirmed(now, ids).states[site])
    return [*states, Answered(SETUP, site)]


def test_every_state_comes_back_from_its_bytes() -> None:
    for state in every_state():
        assert from_bytes(type(state), to_bytes(state)) == state


def test_every_message_comes_back_from_a_flower_record() -> None:
    now = until_masked(until_shared(SETUP, ids=identities(SETUP.sites)), random_inputs(SETUP))
    inbox = server.inboxes(SETUP, now.roster, now.shared)[SETUP.sites[0]]
    request = UnmaskRequest(SETUP.sites, {})
    for message in (SETUP, now.roster, now.shared[0], inbox, now.inputs[0], now.survivors, request):
        assert from_fields(type(message), dict(ConfigRecord(to_fields(message)))) == message  # type: ignore[arg-type]


def test_no_secret_shows_when_a_state_is_printed() -> None:
    for state in every_state():
        secrets = [value for name, value in vars(state).items() if name in ("mask_private", "channel_private", "seed")]
        secrets += [*vars(state).get("seed_shares", {}).values(), *vars(state).get("key_shares", {}).values()]
        assert not any(repr(secret)[2:-1] in repr(state) for secret in secrets)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"extra": 1}, "has no field extra"),
        ({"site": None}, "lacks its field site"),
        ({"site": b"a"}, "site of a KeyAdvert must be str"),
        ({"mask-key": "a"}, "mask-key of a KeyAdvert must be bytes"),
    ],
)
def test_other_fields_are_refused(change: dict[str, Any], why: str) -> None:
    fields = {**to_fields(KeyAdvert("a", b"c", b"m")), **change}
    with pytest.raises(RefusedReply, match=why):
        from_fields(KeyAdvert, {name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize(
    "change",
    [
        {"mask-keys.of": ["a", "a"]},
        {"mask-keys.of": ["a"]},
        {"mask-keys": [b"x"]},
        {"mask-keys": [b"x", "y"]},
        {"mask-keys": "xy"},
        {"mask-keys.of": [1, 2]},
    ],
)
def test_mappings_must_match(change: dict[str, Any]) -> None:
    pair = {"a": b"x", "b": b"y"}
    with pytest.raises(RefusedReply):
        from_fields(Roster, {**to_fields(Roster(pair, pair, pair)), **change})


def test_terms_are_checked_when_they_are_read() -> None:
    with pytest.raises(SecureAggregationRefusal, match="threshold 1 of 3"):
        from_fields(RoundSetup, {**to_fields(SETUP), "threshold": 1})
    with pytest.raises(RefusedReply, match="threshold of a RoundSetup must be int"):
        from_fields(RoundSetup, {**to_fields(SETUP), "threshold": True})


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"{}", b'{"hex": "00"}', b'{"site": "a"}'])
def test_other_bytes_are_no_state(raw: bytes) -> None:
    with pytest.raises(RefusedReply, match=r"not hold a Masked|lacks its field"):
        from_bytes(Masked, raw)


def test_a_state_is_plain_json() -> None:
    assert json.loads(to_bytes(every_state()[0]))["site"] == SETUP.sites[0]
