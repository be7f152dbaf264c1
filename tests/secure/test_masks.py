"""Masks: known answers, uniform to look at, cancelling in pairs."""

from __future__ import annotations

import numpy as np
from scipy import stats

from fedrad.secure.keys import agree, derive, new_private_key, public_key, seal
from fedrad.secure.masks import expand, pair_masks, self_mask
from tests.secure.whole_round import terms, until_masked, until_shared


def uniformity(raw: bytes) -> float:
    """The p-value of the chi-square test that all 256 values of a byte are equally likely."""
    return float(stats.chisquare(np.bincount(np.frombuffer(raw, np.uint8), minlength=256)).pvalue)


def test_expansion_is_aes_256_in_counter_mode() -> None:
    """The blocks E(K, 0) and E(K, 1) under the zero key: test case 13 of McGrew and Viega's GCM specification, where
    the first is the hash key and the second the tag of nothing."""
    blocks = bytes.fromhex("dc95c078a2408989ad48a21492842087" + "530f8afbc74536b9a963b4f1c4cb738b")

    assert expand(bytes(32), 4).tobytes() == blocks
    assert expand(bytes(32), 3).tobytes() == blocks[:24]
    assert expand(bytes(32), 1)[0] == int.from_bytes(blocks[:8], "little")


def test_key_derivation_is_hkdf_sha256() -> None:
    """RFC 5869, test case 3 (no salt, no info); 32 of its 42 bytes."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"

    assert derive(b"\x0b" * 22, b"").hex() == expected


def test_agreement_is_x25519() -> None:
    """RFC 7748, section 6.1."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    secret = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

    assert public_key(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert agree(alice, public_key(bob), b"info") == agree(bob, public_key(alice), b"info") == derive(secret, b"info")


def test_masks_of_a_pair_cancel_and_are_another_for_each_purpose() -> None:
    setup, later = terms(3, 2, entries=9), terms(3, 2, entries=9, number=2)
    a, b, c = setup.sites
    private = {site: new_private_key() for site in setup.sites}
    public = {site: public_key(key) for site, key in private.items()}
    ab = pair_masks(private[a], setup, a, {b: public[b]})

    assert np.array_equal(ab + pair_masks(private[b], setup, b, {a: public[a]}), np.zeros(9, np.uint64))
    assert not np.isin(ab, pair_masks(private[a], later, a, {b: public[b]})).any()
    assert not np.isin(ab, pair_masks(private[a], setup, a, {c: public[c]})).any()
    assert not np.isin(self_mask(bytes(32), setup, a), self_mask(bytes(32), setup, b)).any()


def test_a_masked_input_looks_uniform_and_the_plain_one_does_not() -> None:
    """A hospital's message shows nothing of its adapter, here all zeros, to whoever has only the message."""
    setup = terms(3, 2, entries=20_000)
    encoded = {site: np.zeros(setup.entries, np.uint64) for site in setup.sites}
    encoded[setup.sites[0]] = np.arange(setup.entries, dtype=np.uint64)
    now = until_masked(until_shared(setup), encoded)

    assert min(uniformity(masked.vector) for masked in now.inputs) > 1e-7
    assert max(uniformity(values.tobytes()) for values in encoded.values()) < 1e-100


def test_a_sealed_box_looks_different_every_time() -> None:
    assert seal(bytes(32), b"text", b"") != seal(bytes(32), b"text", b"")
