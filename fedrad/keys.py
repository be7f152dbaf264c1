"""The keys: each setting by its dotted name, how its value is read, and the message for a wrong value.

The attribute ``max_length`` of the section ``data`` is the key ``data.max-length`` in a TOML file, in
``--set data.max-length=128`` and in Flower's ``--run-config``.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from fedrad.errors import ConfigError
from fedrad.limits import LIMITS, spelt
from fedrad.settings import Lora, Model, Privacy, Run, Strategy, Train
from fedrad.settings_data import Data, Sites

Plain = str | int | float | bool
"""The types that Flower's run configuration can hold. It holds a list as one text with commas."""

_LISTS: dict[Any, Any] = {tuple[str, ...]: str, tuple[int, ...]: int, tuple[float, ...]: float}
_TYPE_NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    tuple[str, ...]: "list of names, or names with commas between",
    tuple[int, ...]: "whole numbers, commas between",
    tuple[float, ...]: "numbers, commas between",
}


class Key(NamedTuple):
    """One setting: a field of a section."""

    section: str
    attribute: str
    type: Any
    default: Any
    doc: str
    choices: Collection[str] | Callable[[], Collection[str]]
    limit: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.attribute.replace('_', '-')}"

    @property
    def words(self) -> tuple[str, ...]:
        """The allowed words; empty if any text is allowed."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    @property
    def allowed(self) -> str:
        """The allowed values, for the documentation."""
        return (
            ", ".join(word if word.strip(",;") else f"`{word}`" for word in self.words)
            or self.limit
            or _TYPE_NAMES[self.type]
        )

    def of(self, experiment: object) -> Any:
        """Its value in an experiment."""
        return getattr(getattr(experiment, self.section), self.attribute)

    def read(self, value: object) -> Any:
        """The value in the field's type. A float may be given as a whole number; true is not a number.

        Raises:
            TypeError: the value is of another type.
        """
        return spelt(_typed(self.type, value), self.words)

    def trouble(self, value: Any) -> str:
        """What is wrong with a value of the right type; empty if nothing is."""
        if self.words and value not in self.words:
            close = difflib.get_close_matches(str(value).lower(), self.words, n=1)
            return f"must be one of {self.allowed}" + (f"; did you mean {close[0]}?" if close else "")
        numbers = value if self.type == tuple[float, ...] else (value,) if self.type is float else ()
        if not all(math.isfinite(number) for number in numbers):
            return "must be finite"
        if self.limit and not LIMITS[self.limit](value):
            return f"must be {self.limit}"
        if self.type == tuple[str, ...] and any("," in name or not name.strip() for name in value):
            return "names must not be empty or hold a comma"
        return ""

    def plain(self, value: Any) -> Plain:
        """The value as Flower's run configuration holds it."""
        plain: Plain = ",".join(map(str, value)) if self.type in _LISTS else self.type(value)
        return plain


SECTIONS: dict[str, Any] = {
    "data": Data,
    "sites": Sites,
    "model": Model,
    "lora": Lora,
    "privacy": Privacy,
    "train": Train,
    "strategy": Strategy,
    "run": Run,
}
KEYS: dict[str, Key] = {
    key.name: key
    for section, kind in SECTIONS.items()
    for f in fields(kind)
    for key in [Key(section, f.name, get_type_hints(kind)[f.name], f.default, **f.metadata)]
}


def unknown(name: str) -> str:
    """The message for an unknown key, with a guess: the same name in another section, or else a similar key or name."""
    last = name.rpartition(".")[2].replace("_", "-")
    names = {known.partition(".")[2]: known for known in reversed(KEYS)}
    elsewhere = [known for known in KEYS if known.endswith(f".{last}")]
    guesses = (
        difflib.get_close_matches(name, elsewhere, n=1, cutoff=0)
        or difflib.get_close_matches(name, KEYS, n=1, cutoff=0.75)
        or [names[close] for close in difflib.get_close_matches(last, names, n=1, cutoff=0.8)]
    )
    return f"{name}: unknown key; " + (
        f"did you mean {guesses[0]}?" if guesses else "`python -m fedrad.reference` lists them"
    )


def shown(value: object) -> str:
    """A value as the user may have typed it, shortened if it is long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def parse_overrides(texts: Sequence[str]) -> dict[str, object]:
    """Typed values by dotted key, from ``section.key=value``.

    Raises:
        ConfigError: naming every text that is not an assignment.
    """
    pairs = [tuple(part.strip() for part in text.partition("=")) for text in texts]
    if broken := [text for text, (key, equals, _) in zip(texts, pairs, strict=True) if not (key and equals)]:
        raise ConfigError([f"`{text}`: write an override as section.key=value" for text in broken])
    return {key: _parse(key, value) for key, _, value in pairs}


def read_flat(path: Path) -> dict[str, object]:
    """The values of a TOML file by dotted key, not yet checked.

    Raises:
        ConfigError: the file can't be read.
    """
    try:
        return flatten(tomllib.loads(path.read_bytes().decode()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """The values of nested tables by dotted key."""
    flat: dict[str, object] = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _parse(name: str, text: str) -> object:
    """The value in ``key=value``. Text needs no quotes, whatever it looks like."""
    kind = KEYS[name].type if name in KEYS else None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.removeprefix("[").removesuffix("]") if kind in _LISTS else text
    if kind is str and not isinstance(value, str):
        return text  # for example a commit such as 1234567, which is a number in TOML
    return value


def _typed(kind: Any, value: object) -> Any:
    if kind in _LISTS:
        return _typed_list(kind, value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise TypeError(f"expected {_TYPE_NAMES[kind]}, got {shown(value)}")


def _typed_list(kind: Any, value: object) -> Any:
    of = _LISTS[kind]
    items = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")] if value.strip() else []
        with suppress(ValueError):
            items = [of(item) for item in items]
    with suppress(TypeError):
        return tuple(_typed(of, item) for item in items)
    raise TypeError(f"expected {_TYPE_NAMES[kind]}, got {shown(value)}")
