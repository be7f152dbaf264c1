"""Keys of a round: agreement (X25519 and HKDF), sealed boxes (AES-256-GCM), and pinned identities (Ed25519).

Flower's ``symmetric_encryption`` is not used: it derives keys without a context, so a key would not be bound to a run,
round and pair of hospitals; and its Fernet boxes can't be bound to a sender and a recipient.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrad.errors import SecureAggregationRefusal

KEY_BYTES = 32
SIGNATURE_BYTES = 64
NONCE_BYTES = 12
_TAG_BYTES = 16


def new_private_key() -> bytes:
    """A fresh X25519 private key from the operating system, 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """The X25519 public key of a private one, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derive(secret: bytes, info: bytes) -> bytes:
    """A 32-byte key from a secret, by HKDF-SHA256 (RFC 5869) without salt. Keys of different ``info`` are unrelated."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def agree(private: bytes, public: bytes, info: bytes) -> bytes:
    """The common 32-byte key of two hospitals, bound to ``info``.

    Raises:
        SecureAggregationRefusal: the public key is invalid, or a low-order point, with which the result is known.
    """
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise SecureAggregationRefusal("a hospital's public key is not a usable X25519 key") from None
    return derive(secret, info)


def seal(key: bytes, plaintext: bytes, bound_to: bytes) -> bytes:
    """Nonce and AES-256-GCM ciphertext, with ``bound_to`` as associated data."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, bound_to)


def open_sealed(key: bytes, box: bytes, bound_to: bytes) -> bytes | None:
    """The plaintext; None if the box was changed, or sealed with another key or other associated data."""
    if len(box) < NONCE_BYTES + _TAG_BYTES:
        return None
    try:
        return AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], bound_to)
    except InvalidTag:
        return None


@dataclass(frozen=True)
class Identity:
    """A hospital's long-term signing key, and the pinned public keys of all hospitals.

    The public keys must have been exchanged without the server (on paper, by telephone, in a contract). Only that keeps
    a server from impersonating a hospital.

    Attributes:
        private: Ed25519 private key, 32 bytes.
        pinned: Ed25519 public key of each hospital, including this one.
    """

    private: bytes = field(repr=False)
    pinned: Mapping[str, bytes]

    def check(self, site: str, sites: tuple[str, ...]) -> None:
        """Refuses if a hospital of the round has no pinned key, or if this hospital's own pinned key is wrong.

        Raises:
            SecureAggregationRefusal: naming the hospitals.
        """
        missing = sorted(set(sites) - set(self.pinned))
        if missing:
            raise SecureAggregationRefusal(f"no identity key is pinned for {', '.join(missing)}")
        if len(set(self.pinned.values())) != len(self.pinned):
            raise SecureAggregationRefusal("two hospitals have the same pinned identity key")
        if self.pinned[site] != identity_public_key(self.private):
            raise SecureAggregationRefusal(f"the identity key pinned for {site} does not belong to its private key")


def new_identity_key() -> bytes:
    """A fresh Ed25519 private key from the operating system, 32 bytes; made once for each hospital."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def identity_public_key(private: bytes) -> bytes:
    """The Ed25519 public key of a private one, 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, message: bytes) -> bytes:
    """The Ed25519 signature of a message, 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of ``public`` signed exactly this message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
