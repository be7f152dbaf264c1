"""Frozen dataclasses as flat fields (for Flower's records) and as bytes (for a state file), without pickle.

The dataclass defines what may be sent. Its fields may be str, int, float, bool, bytes, tuple[str, ...],
Mapping[str, bytes], a tuple of named tuples (sent as one list for each column), another such dataclass or a union of
them, or Mapping[str, Tensor], which is passed through. A message must have exactly the declared fields, of exactly the
declared types: nothing is ignored, converted or filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from torch import Tensor

from fedrad.errors import RefusedReply

T = TypeVar("T")


def to_fields(record: Any) -> dict[str, Any]:
    """Flat fields, such as a Flower ``ConfigRecord`` holds. A mapping becomes two lists, sorted by name."""
    flat: dict[str, Any] = {}
    for field, hint in _hints(type(record)).items():  # type: ignore[arg-type]  # mypy takes no type for hashable
        name, value = _dashed(field), getattr(record, field)
        if is_dataclass(value):
            kind = {f"{name}.kind": type(value).__name__} if len(_dataclasses(hint)) > 1 else {}
            flat |= kind | {f"{name}.{inner}": kept for inner, kept in to_fields(value).items()}
        elif hint == Mapping[str, bytes]:
            flat[f"{name}.of"] = sorted(value)
            flat[name] = [value[key] for key in sorted(value)]
        elif columns := _columns(hint):
            flat |= {f"{name}.{_dashed(column)}": [getattr(row, column) for row in value] for column in columns}
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def from_fields(kind: type[T], flat: Mapping[str, Any]) -> T:
    """The dataclass with these fields.

    Raises:
        RefusedReply: a field is missing, unknown, or of the wrong type.
        SecureAggregationRefusal: the dataclass itself refuses the values.
    """
    rest = dict(flat)
    found: dict[str, Any] = {}
    for field, hint in _hints(kind).items():  # type: ignore[arg-type]
        name = _dashed(field)
        if inner := _dataclasses(hint):
            prefix = f"{name}."
            below = {key.removeprefix(prefix): rest.pop(key) for key in flat if key.startswith(prefix)}
            found[field] = from_fields(_named(inner, below, name), below)
        elif hint == Mapping[str, bytes]:
            names = _list_of(str, _taken(kind, rest, f"{name}.of"), name)
            values = _list_of(bytes, _taken(kind, rest, name), name)
            if len(set(names)) != len(values) or len(names) != len(values):
                raise RefusedReply(f"{name} of a {kind.__name__} needs one value for each name, and each name once")
            found[field] = dict(zip(names, values, strict=True))
        elif columns := _columns(hint):
            keys = {f"{name}.{_dashed(column)}": of for column, of in columns.items()}
            lists = [_list_of(of, _taken(kind, rest, key), key) for key, of in keys.items()]
            if len({len(column) for column in lists}) != 1:
                raise RefusedReply(f"{name} of a {kind.__name__} is incomplete")
            found[field] = tuple(get_args(hint)[0](*row) for row in zip(*lists, strict=True))
        elif hint == tuple[str, ...]:
            found[field] = tuple(_list_of(str, _taken(kind, rest, name), name))
        else:
            found[field] = _taken(kind, rest, name)
            expected = dict if hint == Mapping[str, Tensor] else hint
            if type(found[field]) is not expected:
                raise RefusedReply(f"{name} of a {kind.__name__} must be {getattr(hint, '__name__', hint)}")
    if rest:
        raise RefusedReply(f"a {kind.__name__} has no field {sorted(rest)[0]}")
    return kind(**found)


def to_bytes(record: Any) -> bytes:
    """The record's fields as JSON; bytes in hexadecimal."""
    return json.dumps(to_fields(record), default=lambda raw: {"hex": raw.hex()}).encode()


def from_bytes(kind: type[T], raw: bytes) -> T:
    """The record that ``to_bytes`` wrote.

    Raises:
        RefusedReply: the bytes do not hold such a record.
    """
    try:
        flat = json.loads(
            raw, object_hook=lambda found: bytes.fromhex(found["hex"]) if set(found) == {"hex"} else found
        )
    except (ValueError, TypeError, UnicodeDecodeError):
        flat = None
    if not isinstance(flat, dict):
        raise RefusedReply(f"these bytes do not hold a {kind.__name__}")
    return from_fields(kind, flat)


@cache
def _hints(kind: type) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _dataclasses(hint: Any) -> list[type]:
    """The dataclasses that a field may hold; none for any other field."""
    return [kind for kind in get_args(hint) or (hint,) if isinstance(kind, type) and is_dataclass(kind)]


def _named(kinds: list[type], below: dict[str, Any], name: str) -> type:
    """The only kind, or the one named in the field's ``kind``."""
    if len(kinds) == 1:
        return kinds[0]
    wanted = below.pop("kind", None)
    for kind in kinds:
        if kind.__name__ == wanted:
            return kind
    raise RefusedReply(f"{name} is of an unknown kind")


def _columns(hint: Any) -> dict[str, Any]:
    """Names and types of the columns, if the field is a tuple of named tuples."""
    (row, *_) = get_args(hint) or (None,)
    return get_type_hints(row) if isinstance(row, type) and issubclass(row, tuple) else {}


def _taken(kind: type, rest: dict[str, Any], name: str) -> Any:
    if name not in rest:
        raise RefusedReply(f"a {kind.__name__} lacks its field {name}")
    return rest.pop(name)


def _list_of(kind: type, value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        raise RefusedReply(f"{name} must be a list of {kind.__name__}")
    return value
