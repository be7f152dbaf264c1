"""Frozen dataclasses as flat fields (for Flower's records) and as bytes (for a state file), without pickle.

Fields are str, int, float, bytes, tuple[str, ...], Mapping[str, bytes] or another such dataclass. What is read must
have exactly the declared fields, of exactly the declared types: nothing is ignored, converted or filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from fedrad.errors import RefusedReply

Value = str | int | float | bytes | list[str] | list[bytes]
T = TypeVar("T")


def to_fields(record: Any) -> dict[str, Value]:
    """Flat fields, such as a Flower ``ConfigRecord`` holds. A mapping becomes two lists, sorted by name."""
    flat: dict[str, Value] = {}
    for field in fields(record):
        name, value = field.name.replace("_", "-"), getattr(record, field.name)
        if is_dataclass(value):
            flat |= {f"{name}.{inner}": kept for inner, kept in to_fields(value).items()}
        elif isinstance(value, Mapping):
            flat[f"{name}.of"] = sorted(value)
            flat[name] = [value[key] for key in sorted(value)]
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def from_fields(kind: type[T], flat: Mapping[str, Any]) -> T:
    """The dataclass that these fields were made from.

    Raises:
        RefusedReply: a field is missing, is too many, or is not of its type.
        SecureAggregationRefusal: the dataclass itself refuses the values.
    """
    rest = dict(flat)
    found: dict[str, Any] = {}
    for field, hint in _hints(kind).items():
        name = field.replace("_", "-")
        if is_dataclass(hint) and isinstance(hint, type):
            prefix = f"{name}."
            found[field] = from_fields(
                hint, {k.removeprefix(prefix): rest.pop(k) for k in flat if k.startswith(prefix)}
            )
        elif hint == Mapping[str, bytes]:
            names = _list_of(str, _taken(kind, rest, f"{name}.of"), name)
            values = _list_of(bytes, _taken(kind, rest, name), name)
            if len(set(names)) != len(values) or len(names) != len(values):
                raise RefusedReply(f"{name} of a {kind.__name__}: as many names as values are needed, each name once")
            found[field] = dict(zip(names, values, strict=True))
        elif hint == tuple[str, ...]:
            found[field] = tuple(_list_of(str, _taken(kind, rest, name), name))
        else:
            found[field] = _taken(kind, rest, name)
            if type(found[field]) is not hint:
                raise RefusedReply(f"{name} of a {kind.__name__} must be {hint.__name__}")
    if rest:
        raise RefusedReply(f"a {kind.__name__} has no field {sorted(rest)[0]}")
    return kind(**found)


def to_bytes(record: Any) -> bytes:
    """The record with its kind's name, as JSON; bytes in hexadecimal."""
    content = {"kind": type(record).__name__, "fields": to_fields(record)}
    return json.dumps(content, default=lambda raw: {"hex": raw.hex()}).encode()


def from_bytes(kinds: tuple[type[T], ...], raw: bytes) -> T:
    """The record, which must be of one of these kinds.

    Raises:
        RefusedReply: it is none, or not one of these.
    """
    try:
        content = json.loads(
            raw, object_hook=lambda found: bytes.fromhex(found["hex"]) if set(found) == {"hex"} else found
        )
        kind = {kind.__name__: kind for kind in kinds}[content["kind"]]
        flat = dict(content["fields"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise RefusedReply("these bytes are no state of secure aggregation") from None
    return from_fields(kind, flat)


def _hints(kind: type) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _taken(kind: type, rest: dict[str, Any], name: str) -> Any:
    if name not in rest:
        raise RefusedReply(f"a {kind.__name__} lacks its field {name}")
    return rest.pop(name)


def _list_of(kind: type, value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        raise RefusedReply(f"{name} must be a list of {kind.__name__}")
    return value
