"""The envelope of a certificate: DSSE (github.com/secure-systems-lab/dsse, version 1) with one Ed25519 signature.

The key id is the public key itself, 64 hexadecimal digits: what ``python -m fedrad.federation.identity`` prints and
hospitals pin. A signature over a DSSE text can't be taken for one of secure aggregation, whose texts never
begin with "DSSEv1".
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad.errors import CertificateError
from fedrad.files import PRIVATE, write_whole
from fedrad.secure.keys import KEY_BYTES, identity_public_key, is_signed, new_identity_key, sign

PAYLOAD_TYPE = "application/vnd.fedrad.certificate+json"
KEY_FILE = "certificate.key"


@dataclass(frozen=True)
class Envelope:
    """A certificate as it lies in its file.

    Attributes:
        payload: what was signed, bytes of JSON.
        key: public key of the signer, as the file itself states it: hexadecimal.
        signature: 64 bytes.
    """

    payload: bytes
    key: str
    signature: bytes

    @property
    def signed(self) -> bool:
        """Whether the owner of ``key`` signed exactly this payload."""
        return is_signed(bytes.fromhex(self.key), self.signature, _signed_text(self.payload))


def sealed(content: dict[str, Any], private: bytes) -> bytes:
    """The file of a certificate, signed with this Ed25519 private key of 32 bytes."""
    payload = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": identity_public_key(private).hex(),
                "sig": base64.b64encode(sign(private, _signed_text(payload))).decode(),
            }
        ],
    }
    return (json.dumps(envelope, indent=2) + "\n").encode()


def opened(outer: dict[str, Any]) -> tuple[Envelope, dict[str, Any]]:
    """An envelope that fits the schema, and its content, which may not.

    Raises:
        CertificateError: the payload is no base64, or no JSON object.
    """
    (signature,) = outer["signatures"]
    try:
        payload = base64.b64decode(outer["payload"], validate=True)
        envelope = Envelope(payload, signature["keyid"], base64.b64decode(signature["sig"], validate=True))
        content = json.loads(payload)
    except (binascii.Error, ValueError) as error:
        raise CertificateError(f"its payload or signature can't be decoded ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise CertificateError("its payload is no JSON object")
    return envelope, content


def key_of(state_dir: Path) -> bytes:
    """The private key in a hospital's state directory, made there (0600) the first time.

    Raises:
        CertificateError: others than its owner may read it, it is no key, or it can't be written.
    """
    path = state_dir / KEY_FILE
    try:
        if not path.exists():
            write_whole(path, f"{new_identity_key().hex()}\n".encode(), durable=True, mode=PRIVATE)
        if os.stat(path).st_mode & 0o077:
            raise CertificateError(f"others than its owner may read {path}; chmod 600")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise CertificateError(f"{path} holds no key of {2 * KEY_BYTES} hexadecimal digits; restore it from a backup")
    return key


def pinned_key(text: str, site: str) -> str:
    """The public key that somebody pins: its hexadecimal digits, or a file with them.

    Args:
        text: the digits, or the name of a file: one key, or a line "site key" for each hospital (``peers``).
        site: whose key is meant in such a file.

    Raises:
        CertificateError: there is no key in it, or none of this site.
    """
    if _is_key(text):
        return text.lower()
    try:
        lines = [line.partition("#")[0].split() for line in Path(text).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise CertificateError(
            f"--key {text}: neither a public key ({2 * KEY_BYTES} hexadecimal digits) nor a file with one"
        ) from None
    rows = [line for line in lines if line]
    keys = [row[-1] for row in rows if (len(rows) == len(row) == 1 or row[:-1] == [site]) and _is_key(row[-1])]
    if len(keys) != 1:
        raise CertificateError(f"--key {text}: the file has no public key of {site}")
    return keys[0].lower()


def _is_key(text: str) -> bool:
    return len(text) == 2 * KEY_BYTES and all(digit in "0123456789abcdefABCDEF" for digit in text)


def _signed_text(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
