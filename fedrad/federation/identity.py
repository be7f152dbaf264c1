"""A hospital's identity key, and the pinned public keys of all hospitals, in two small text files.

Both are named in the node configuration. ``python -m fedrad.federation.identity FILE`` makes a key, once, and prints
the line that goes to the other hospitals by any way that does not lead through the server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fedrad.errors import ConfigError
from fedrad.secure.keys import KEY_BYTES, Identity, identity_public_key, new_identity_key


def read_identity(key: Path, peers: Path) -> Identity:
    """The identity that these files hold.

    Args:
        key: the private key, 64 hexadecimal digits.
        peers: a line for each hospital, the own one included: site, space, public key in hexadecimal. ``#`` begins a
            remark.

    Raises:
        ConfigError: a file can't be read, others than its owner may read the key, or a line is no key.
    """
    if key.exists() and key.stat().st_mode & 0o077:
        raise ConfigError(f"node-config identity-key: others than its owner may read {key}; chmod 600")
    pinned: dict[str, bytes] = {}
    for line in _lines(peers, "peers"):
        site, _, digits = line.partition(" ")
        if site in pinned:
            raise ConfigError(f"node-config peers: {peers} names {site} twice")
        pinned[site] = _key(digits.strip(), peers, "peers")
    lines = _lines(key, "identity-key")
    if len(lines) != 1:
        raise ConfigError(f"node-config identity-key: {key} must hold one key")
    return Identity(_key(lines[0], key, "identity-key"), pinned)


def make_identity(key: Path) -> str:
    """Writes a new private key to a file that does not exist yet, mode 0600, and returns the public one in hexadecimal.

    Raises:
        ConfigError: there is such a file, or it can't be written.
    """
    private = new_identity_key()
    try:
        with os.fdopen(os.open(key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(private.hex() + "\n")
    except OSError as error:
        raise ConfigError(f"{key}: {error.strerror}; an identity is made once, in a new file") from None
    return identity_public_key(private).hex()


def _lines(file: Path, name: str) -> list[str]:
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"node-config {name}: {file} can't be read ({type(error).__name__})") from None
    return [line for line in lines if line]


def _key(digits: str, file: Path, name: str) -> bytes:
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:  # never the line itself: it may be a private key
        raise ConfigError(f"node-config {name}: a line of {file} holds no key of {2 * KEY_BYTES} hexadecimal digits")
    return key


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m fedrad.federation.identity NEW-FILE")
    try:
        print(f"<site> {make_identity(Path(sys.argv[1]))}")
    except ConfigError as error:
        sys.exit(str(error))
