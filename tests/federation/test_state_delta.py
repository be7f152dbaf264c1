"""Only what has changed travels, and what arrives is what was meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedrad.errors import StateMissing
from fedrad.federation.state_delta import PublicStore, SentStates, delta_of, nbytes

STATE = {"a": torch.ones(2, 3), "b": torch.arange(4.0)}


def received(store: PublicStore, sent: object) -> dict[str, Tensor]:
    state = store.receive(sent)  # type: ignore[arg-type]
    store.keep(sent.digest, state)  # type: ignore[attr-defined]
    return state


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in left
    )


states = st.dictionaries(st.sampled_from("abcde"), st.integers(-3, 3), min_size=1)


@given(history=st.lists(states, min_size=1, max_size=8), lost=st.sets(st.integers(0, 7)), shared=st.booleans())
def test_any_history_arrives(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[str, int]], lost: set[int], shared: bool
) -> None:
    """Some answers never reach the server, which then builds on an older state."""
    store, server = PublicStore(tmp_path_factory.mktemp("site") / "public", None if shared else 4), SentStates()
    for number, values in enumerate(history):
        state = {name: torch.full((3,), float(value)) for name, value in values.items()}
        sent = server.to("mercy", state)
        try:
            assert equal(received(store, sent), state)
        except StateMissing:
            assert len(lost) > 3  # so many answers were lost that the state it builds on is gone
            assert not shared
            server.lost("mercy")
            assert equal(received(store, server.to("mercy", state)), state)
        if number not in lost:
            server.arrived("mercy")


def test_nothing_that_stayed_travels_again() -> None:
    server = SentStates()
    first = server.to("mercy", STATE)
    assert (first.base, set(first.tensors)) == ("", {"a", "b"})
    server.arrived("mercy")
    changed = {"a": STATE["a"], "b": STATE["b"] + 1}
    second = server.to("mercy", changed)
    assert (set(second.tensors), second.dropped, second.base) == ({"b"}, (), first.digest)
    assert nbytes(second.tensors) == 16
    server.arrived("mercy")
    third = server.to("mercy", {"b": changed["b"]})
    assert (dict(third.tensors), third.dropped) == ({}, ("a",))
    assert set(server.to("grace", changed).tensors) == {"a", "b"}  # another hospital has nothing yet


def test_minus_zero_is_not_zero() -> None:
    """The digest is of bits, so what differs in a bit has to travel."""
    sent = delta_of({"a": torch.tensor([-0.0])}, {"a": torch.tensor([0.0])}, "0" * 64)
    assert set(sent.tensors) == {"a"}


def test_what_does_not_add_up_is_refused(tmp_path: Path) -> None:
    store = PublicStore(tmp_path / "public")
    whole = delta_of(STATE)
    with pytest.raises(StateMissing, match="not the one"):
        store.receive(replace(whole, tensors={"a": STATE["a"]}))
    with pytest.raises(StateMissing, match="not here"):
        store.receive(delta_of(STATE, {"a": STATE["a"]}, "f" * 64))
    for name in ("../../../etc/passwd", "", "x" * 64 + "/"):
        with pytest.raises(StateMissing):
            store.receive(replace(whole, digest=name))
    assert not store.folder.exists()


def test_a_hospital_keeps_a_few_states_and_a_simulation_all(tmp_path: Path) -> None:
    for most, kept in ((4, 4), (None, 9)):
        store = PublicStore(tmp_path / str(most), most)
        for value in range(9):
            received(store, delta_of({"a": torch.tensor([float(value)])}))
        assert len(list(store.folder.glob("*.safetensors"))) == kept
        assert (store.folder.stat().st_mode & 0o777) == 0o700
