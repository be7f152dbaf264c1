"""The masks: pseudorandom numbers modulo 2^64, the keystream of AES-256 in counter mode under a key of 256 bits.

Flower's own ``secaggplus_utils.pseudo_rand_gen`` is not secure: it folds the seed into 32 bits by XOR and feeds them to
NumPy's Mersenne Twister. All 2^32 seeds can be tried, the generator's state can be computed from its output, and its
upper bound is one too small, so that the masks are not even uniform.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from fedrad.secure.keys import agree, derive
from fedrad.secure.setup import RoundSetup, joined


def expand(key: bytes, entries: int) -> NDArray[np.uint64]:
    """The first ``entries`` little-endian 64-bit words of the AES-256-CTR keystream, counter from 0.

    The counter may start at 0 because each key is derived for one mask and is used for nothing else.
    """
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(8 * entries))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def self_mask(seed: bytes, setup: RoundSetup, site: str) -> NDArray[np.uint64]:
    """The self mask of ``site``. Anyone who has the seed can remove it."""
    return expand(derive(seed, joined("self mask", setup.context, site)), setup.entries)


def pair_masks(private: bytes, setup: RoundSetup, site: str, peers: Mapping[str, bytes]) -> NDArray[np.uint64]:
    """The sum of the pairwise masks of ``site``. Of a pair the alphabetically first adds, the other subtracts.

    Args:
        private: X25519 private mask key of ``site``.
        peers: public mask keys of the others.
    """
    total = np.zeros(setup.entries, np.uint64)
    for peer, public in peers.items():
        first, second = sorted((site, peer))
        mask = expand(agree(private, public, joined("pair mask", setup.context, first, second)), setup.entries)
        if site == first:
            total += mask
        else:
            total -= mask
    return total
