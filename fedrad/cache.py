"""Where fedrad keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def fedrad_cache_dir() -> Path:
    """The environment variable FEDRAD_CACHE, or ~/.cache/fedrad. May hold report texts: make folders in it 0700."""
    return Path(os.environ.get("FEDRAD_CACHE") or "~/.cache/fedrad").expanduser()
