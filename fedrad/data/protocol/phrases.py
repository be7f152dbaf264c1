"""What order notes say, read from ``phrases.toml``, or from ``public.toml`` for the notes of a warm start."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Protocol:
    """A protocol: reasons to ask for it, history that goes with it, and what takes its place without contrast."""

    name: str
    weight: float
    reasons: tuple[str, ...]
    history: tuple[str, ...]
    fallback: str = ""


@dataclass(frozen=True)
class Ambiguous:
    """A reason that fits several protocols."""

    reason: str
    protocols: tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """How a hospital writes a note."""

    lines: tuple[str, ...]
    joint: str
    upper: bool = False


@dataclass(frozen=True)
class Phrases:
    """All of a file; ``phrases.toml`` explains the parts."""

    protocols: tuple[Protocol, ...]
    ambiguous: tuple[Ambiguous, ...]
    contrast: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]
    styles: tuple[Style, ...]


@cache
def load_phrases(name: str = "phrases") -> Phrases:
    """The phrases that come with fedrad: those of the corpus, or ``public`` ones, which share no reason with them."""
    read = tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))
    return Phrases(
        protocols=tuple(Protocol(**_tuples(each)) for each in read["protocols"]),
        ambiguous=tuple(Ambiguous(**_tuples(each)) for each in read["ambiguous"]),
        contrast=_tuples(read["contrast"]),
        words=_tuples(read["words"]),
        styles=tuple(Style(**_tuples(each)) for each in read["styles"]),
    )


def _tuples(table: Mapping[str, object]) -> dict:  # type: ignore[type-arg]
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
