"""The cache folder, for files that fedrad can make again."""

from __future__ import annotations

import os
from pathlib import Path


def fedrad_cache_dir() -> Path:
    """FEDRAD_CACHE, or ~/.cache/fedrad. It may hold report texts, so make folders in it with mode 0700."""
    return Path(os.environ.get("FEDRAD_CACHE") or "~/.cache/fedrad").expanduser()


def sources(part: Path) -> list[Path]:
    """A file of the package, or all files in a folder of it (code and data) except compiled ones.

    For cache keys: a cached result must not be used after the code or data that produced it has changed.

    Raises:
        FileNotFoundError: it does not exist (any more), so its changes would go unnoticed.
    """
    if not part.is_dir():
        part.stat()
        return [part]
    found = sorted(file for file in part.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    if not found:
        raise FileNotFoundError(part)  # the folder was renamed, and the cache would never be refreshed
    return found
