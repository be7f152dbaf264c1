"""A filter for the log lines of Flower and Ray. It keeps our own lines and Flower's warnings and errors."""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ACTOR = re.compile(r"^\([\w.:<>]+ pid=\d+(, ip=[\d.]+)?\) ")
_CONSOLE = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) *: {1,6}(.*)$")
# Messages of `flwr run` about the temporary home folder, and warnings about settings that our wrapper chose.
_NOISE = re.compile(
    "^("
    + "|".join(
        (
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


def is_chatter(line: str) -> bool:
    """Whether a line of ``flwr run --stream`` is left out."""
    plain = _ACTOR.sub("", _COLOUR.sub("", line.rstrip("\n")))
    if found := _CONSOLE.match(plain):
        return found[1] in ("DEBUG", "INFO") or bool(_NOISE.match(found[2]))
    return not plain.strip() or bool(_NOISE.match(plain))
