"""The source of randomness: a ChaCha20 keystream, keyed by the operating system or, for simulations, by a seed.

Guarantee:
    A system stream's key is 256 fresh bits of ``os.urandom``. It is never stored, printed, copied or pickled, and is
    used in one process only. Without the key its output is indistinguishable from uniform bits (ChaCha20, RFC 8439), so
    noise generated from it can't be predicted or subtracted, whatever seeds the configuration holds.
    A seeded stream can be reproduced by everybody who knows the seed. It protects nobody and is for experiments only.

Limits:
    The noise is floating-point noise: float64 Gaussians on a finite grid, cut off at 8.58 standard deviations (mass
    1e-17). Attacks on the low bits of such noise exist (Mironov 2012; arXiv 2112.05307). Summing in float64 and
    rounding the noised sum to float32 hides most of these bits, but that is no proof. Only an integer mechanism would
    give one, and this is not one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedrad.errors import PlanError, PrivacyError

# ChaCha20's block counter has 32 bits, so the keystream repeats after 256 GiB. Stop long before.
_KEYSTREAM_LIMIT = 2**37


class Stream:
    """A source of randomness. Every draw consumes it. Make one for each step and purpose, and use it nowhere else.

    Use `Stream.system` or `Stream.seeded` (or `stream`), not the constructor.
    """

    __slots__ = ("_cipher", "_mode", "_pid", "_taken", "fingerprint")

    def __init__(self, key: bytes, mode: str) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._mode = mode
        self._pid = os.getpid()
        self._taken = 0
        # A hash of the key (BLAKE2b), to detect that a key is used in two streams.
        self.fingerprint = int.from_bytes(hashlib.blake2b(key, digest_size=16, person=b"fedrad-mark").digest())

    @classmethod
    def system(cls) -> Stream:
        """A stream with a fresh key from the operating system."""
        return cls(os.urandom(32), "system")

    @classmethod
    def seeded(cls, seed: int, *labels: str | int) -> Stream:
        """A stream that depends on the seed and the labels only, e.g. ``Stream.seeded(0, "noise", site, step)``."""
        # JSON is unambiguous: ("a", "bc"), ("ab", "c"), ("1",) and (1,) give four different streams.
        text = json.dumps([seed, *labels], ensure_ascii=True, separators=(",", ":"))
        return cls(hashlib.blake2b(text.encode(), digest_size=32, person=b"fedrad-stream").digest(), "seeded")

    @property
    def mode(self) -> str:
        """ "system" or "seeded"."""
        return self._mode

    def uniform(self, n: int) -> npt.NDArray[np.float64]:
        """[n] float64 values, multiples of 2^-53, uniform in [0, 1)."""
        return (self._words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Standard normal values of this shape on the CPU: Box-Muller (1958) in float64, then rounded to ``dtype``."""
        count = math.prod(shape)
        half = (count + 1) // 2
        u = self.uniform(2 * half)
        radius = np.sqrt(-2.0 * np.log(1.0 - u[:half]))  # 1 - u lies in (0, 1], so the logarithm is finite
        angle = (2.0 * math.pi) * u[half:]
        values = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]
        return torch.from_numpy(values).to(dtype).reshape(tuple(shape))

    def integers(self, n: int, high: int) -> npt.NDArray[np.int64]:
        """[n] int64 values, uniform in [0, high), without the bias of a plain remainder (rejection)."""
        if not 1 <= high <= 2**63:
            raise ValueError(f"high must be between 1 and 2^63, not {high}")
        last = np.uint64(2**64 - 1 - 2**64 % high)  # the largest word of the last complete run of `high` words
        kept = np.empty(0, dtype=np.uint64)
        while len(kept) < n:
            words = self._words(n - len(kept))
            kept = np.concatenate((kept, words[words <= last]))
        return (kept % np.uint64(high)).astype(np.int64)

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """A random order of 0 .. n-1, int64: the order of n random 64-bit words."""
        return np.argsort(self._words(n), kind="stable").astype(np.int64)

    def _words(self, n: int) -> npt.NDArray[np.uint64]:
        if os.getpid() != self._pid:
            raise PrivacyError(
                "A noise stream was copied to another process, where it would repeat its output; make one there."
            )
        self._taken += 8 * n
        if self._taken > _KEYSTREAM_LIMIT:
            raise PrivacyError("A noise stream is used up (128 GiB); make one for each step.")
        # update() continues the keystream where the last call ended, whatever the lengths.
        return np.frombuffer(self._cipher.update(bytes(8 * n)), dtype="<u8")

    def __repr__(self) -> str:
        return f"<Stream {self._mode}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuses pickling and copying: a copy would repeat the noise."""
        raise TypeError("a noise stream can't be pickled or copied: the copy would repeat its noise")


def stream(mode: str, seed: int, *labels: str | int) -> Stream:
    """The stream for a purpose. In mode "system" the seed and the labels are deliberately unused.

    Raises:
        PlanError: the mode is neither "system" nor "seeded".
    """
    match mode:
        case "system":
            return Stream.system()
        case "seeded":
            return Stream.seeded(seed, *labels)
    raise PlanError(f'privacy.noise is "{mode}"; use "system" or "seeded".')
