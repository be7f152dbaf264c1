"""A TOML table that is read key by key, so that all faults of a file are reported together."""

from __future__ import annotations

from typing import Any


class Table:
    """A table of ``file``. Faults are added to ``problems``, with file and key.

    If ``values`` is not a table, the caller has reported that, and missing keys are not reported again.
    """

    def __init__(self, file: str, key: str, values: object, problems: list[str]) -> None:
        self.file, self.key, self.problems = file, key, problems
        self.left: dict[str, Any] = dict(values) if isinstance(values, dict) else {}
        self.missing = not isinstance(values, dict)

    def wrong(self, key: str, problem: str) -> None:
        self.problems.append(f"{self.file}: {'.'.join(filter(None, (self.key, key)))}: {problem}")

    def keys(self) -> list[str]:
        return list(self.left)

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key. A key without a default is required."""
        value = self.left.pop(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        if isinstance(value, kind):
            return value
        if not self.missing:
            need = {str: "text", float: "a number", int: "a whole number", bool: "true or false", list: "a list"}[kind]
            self.wrong(key, f"must be {need}" + (" and is missing" if value is None else ""))
        return kind()

    def table(self, key: str) -> Table:
        value = self.left.pop(key, None)
        if not isinstance(value, dict) and not self.missing:
            self.wrong(key, "must be a table" + (" and is missing" if value is None else ""))
        return Table(self.file, ".".join(filter(None, (self.key, key))), value, self.problems)

    def tables(self, key: str) -> list[Table]:
        values = self.take(key, list)
        return [Table(self.file, f"{key} {at}", value, self.problems) for at, value in enumerate(values, 1)]

    def strings(self) -> dict[str, str]:
        return {key: self.take(key, str) for key in self.keys()}

    def numbers(self) -> dict[str, float]:
        return {key: self.take(key, float) for key in self.keys()}

    def words(self, key: str) -> tuple[str, ...]:
        """A list of at least one text."""
        given = self.left.get(key)
        values = self.take(key, list)
        if isinstance(given, list) and not (values and all(isinstance(word, str) for word in values)):
            self.wrong(key, "must be a list of texts")
            return ()
        return tuple(values)

    def lines(self, key: str) -> list[tuple[int, str]]:
        """The lines of a text with their numbers, without comments and blank lines."""
        lines = enumerate(self.take(key, str).splitlines(), 1)
        found = [(at, line.strip()) for at, line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not found and not self.missing:
            self.wrong(key, "must have at least one line")
        return found

    def done(self) -> None:
        for key in self.left:
            self.wrong(key, "unknown key")
