from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy import randomness as noise
from fedrad.privacy.randomness import Stream, stream


def looks_normal(values: np.ndarray) -> bool:
    """Kolmogorov-Smirnov at 1e-6, and the tails: the share beyond 3 sigma within 6 standard errors."""
    beyond = float(np.mean(np.abs(values) > 3))
    expected = 2 * stats.norm.sf(3)
    tails = abs(beyond - expected) < 6 * np.sqrt(expected / len(values))
    return bool(stats.kstest(values, "norm").pvalue > 1e-6 and tails)


def test_normal_is_normal() -> None:
    values = Stream.seeded(0).normal([200_001]).numpy()
    assert values.dtype == np.float32
    assert looks_normal(values)


@pytest.mark.parametrize("broken", [lambda v: 0.98 * v, lambda v: v + 0.02, lambda v: np.clip(v, -2.9, 2.9)])
def test_negative_control_a_wrong_distribution_is_caught(broken) -> None:
    assert not looks_normal(broken(Stream.seeded(0).normal([200_001]).numpy()))


def test_keystream_is_chacha20() -> None:
    key = bytes(range(32))
    expected = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(800))
    u = Stream(key, "seeded").uniform(100)
    assert np.array_equal(u, (np.frombuffer(expected, "<u8") >> np.uint64(11)) / 2**53)


@given(st.lists(st.integers(0, 70), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_uniform_does_not_depend_on_how_it_is_drawn(parts: list[int]) -> None:
    s = Stream.seeded(3, "a")
    pieces = np.concatenate([s.uniform(n) for n in parts])
    assert np.array_equal(pieces, Stream.seeded(3, "a").uniform(sum(parts)))
    assert ((pieces >= 0) & (pieces < 1)).all()


@pytest.mark.parametrize("shape", [[], [0], [1], [3], [2, 3], [5, 1, 2]])
def test_normal_shapes(shape: list[int]) -> None:
    assert Stream.seeded(0).normal(shape).shape == torch.Size(shape)
    assert Stream.seeded(0).normal(shape, dtype=torch.float64).dtype == torch.float64


def test_log_of_zero_can_not_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Stream.seeded(0)
    for word in (0, 2**64 - 1):
        monkeypatch.setattr(Stream, "_words", lambda self, n, word=word: np.full(n, word, dtype=np.uint64))
        assert s.normal([6], dtype=torch.float64).isfinite().all()
        assert s.normal([6], dtype=torch.float64).abs().max() < 8.58


def test_integers_and_permutation() -> None:
    s = Stream.seeded(1)
    counts = np.bincount(s.integers(60_000, 6), minlength=6)
    assert stats.chisquare(counts).pvalue > 1e-6
    assert np.array_equal(np.sort(s.permutation(1000)), np.arange(1000))
    assert not np.array_equal(s.permutation(1000), s.permutation(1000))
    assert s.integers(5, 1).tolist() == [0] * 5
    assert s.integers(100, 2**63).min() >= 0
    with pytest.raises(ValueError, match="high"):
        s.integers(1, 0)


def test_integers_have_no_remainder_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    words = iter([2**64 - 1, 7])  # 2^64 % 3 == 1, so the last word is the one to reject
    monkeypatch.setattr(Stream, "_words", lambda self, n: np.array([next(words)], dtype=np.uint64))
    assert Stream.seeded(0).integers(1, 3).tolist() == [1]


def test_labels_are_told_apart() -> None:
    labels = [(), ("a", "bc"), ("ab", "c"), ("abc",), (1,), ("1",), (1, 1), (11,), ("a", 1), ('a",1',)]
    firsts = {Stream.seeded(0, *label).uniform(1)[0] for label in labels} | {Stream.seeded(1).uniform(1)[0]}
    assert len(firsts) == len(labels) + 1


def test_system_streams_differ_and_ignore_every_seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    first = stream("system", 0, "site", 1).uniform(4)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert not np.array_equal(first, stream("system", 0, "site", 1).uniform(4))
    assert np.array_equal(stream("seeded", 0, "site", 1).uniform(4), stream("seeded", 0, "site", 1).uniform(4))
    assert (stream("system", 0).mode, stream("seeded", 0).mode) == ("system", "seeded")


def test_system_key_comes_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(noise.os, "urandom", lambda n: (asked.append(n), bytes(n))[1])
    Stream.system()
    assert asked == [32]


def test_unknown_mode() -> None:
    with pytest.raises(PlanError, match=r"privacy\.noise"):
        stream("secret", 0)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_stream_can_not_be_duplicated(duplicate) -> None:
    with pytest.raises(TypeError, match="pickled or copied"):
        duplicate(Stream.system())


def test_the_key_is_not_shown() -> None:
    s = Stream(b"k" * 32, "seeded")
    assert repr(s) == str(s) == "<Stream seeded>"
    assert not hasattr(s, "__dict__")
    assert all(not isinstance(getattr(s, name), bytes) for name in Stream.__slots__)
    assert s.fingerprint.bit_length() <= 128  # a hash: half as long as the key
    assert s.fingerprint == Stream(b"k" * 32, "seeded").fingerprint != Stream(b"l" * 32, "seeded").fingerprint


def test_a_stream_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Stream.system()
    parent = os.getpid()
    monkeypatch.setattr(noise.os, "getpid", lambda: parent + 1)
    with pytest.raises(PrivacyError, match="another process"):
        s.uniform(1)


def test_a_keystream_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_KEYSTREAM_LIMIT", 64)
    s = Stream.system()
    s.uniform(8)
    with pytest.raises(PrivacyError, match="used up"):
        s.uniform(1)
