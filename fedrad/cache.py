"""Where fedrad keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def fedrad_cache_dir() -> Path:
    """The environment variable FEDRAD_CACHE, or ~/.cache/fedrad. May hold report texts: make folders in it 0700."""
    return Path(os.environ.get("FEDRAD_CACHE") or "~/.cache/fedrad").expanduser()


def sources(part: Path) -> list[Path]:
    """A file of the package, or all files of a folder of it but compiled ones: code and data that it reads alike.

    For keys of what is kept in the cache, so that a change of what made it is never answered from there.

    Raises:
        FileNotFoundError: it is not there (any more): its changes would go unnoticed.
    """
    if not part.is_dir():
        part.stat()
        return [part]
    found = sorted(file for file in part.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    if not found:
        raise FileNotFoundError(part)  # the part was renamed: what was made of it would never be made again
    return found
