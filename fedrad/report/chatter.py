"""Flower's and Ray's log lines, told apart from what a run has to say.

Flower logs every record twice: in colour on its console handler, and with a date where it reaches the root logger.
Shown are our own lines and warnings and errors, once each; Flower's progress notes are not.
"""

from __future__ import annotations

import logging
import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ACTOR = re.compile(r"^\([\w.:<>]+ pid=\d+(, ip=[\d.]+)?\) ")
_CONSOLE = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) *: {1,6}(.*)$")
_DATED = re.compile(r"^\d\d/\d\d/\d{4} \d\d:\d\d:\d\d:(DEBUG|INFO|WARNING|ERROR|CRITICAL):(.*)$")
_QUIET = ("DEBUG", "INFO")
# Notes of `flwr run` about the private home that the wrapper gave it, and warnings about what the wrapper itself chose.
_NOISE = re.compile(
    "^("
    + "|".join(
        (
            r"Flower configuration not found\.",
            r"Starting local SuperLink on ",
            r"Using SuperLink: ",
            r"Successfully (started run|installed) ",
            r"Since flwr [\d.]+, default simulated SuperNodes ",
            r"Manually terminating ClientAppActor",
            r".*: FutureWarning: Tip: In future versions of Ray",
            r" +warnings\.warn\($",
        )
    )
    + ")"
)


def flower_says_once() -> None:
    """Opacus gives the root logger a handler when it is imported. Flower's records have a handler of their own, and
    would be printed twice."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # not a subclass, which somebody wanted
            handler.addFilter(_not_of_flower)


def _not_of_flower(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] != "flwr"


class Chatter:
    """Decides line by line, in the order in which the lines come; it remembers the last warning or error."""

    def __init__(self) -> None:
        self._record: list[str] = []
        self._repeats: list[str] = []

    def drops(self, line: str) -> bool:
        """Whether a line of ``flwr run --stream`` is left out."""
        plain = _ACTOR.sub("", _COLOUR.sub("", line.rstrip("\n")))
        if found := _DATED.match(plain):
            self._repeats = []
            if found[1] in _QUIET or _NOISE.match(found[2]):
                return True
            if self._record[:1] == [found[2]]:
                self._repeats = self._record[1:]
                return True
            return False
        if self._repeats and plain == self._repeats[0]:
            del self._repeats[0]
            return True
        self._repeats = []
        if found := _CONSOLE.match(plain):
            quiet = found[1] in _QUIET or bool(_NOISE.match(found[2]))
            self._record = [] if quiet else [found[2]]
            return quiet
        if self._record:
            self._record.append(plain)
        return not plain.strip() or bool(_NOISE.match(plain))
