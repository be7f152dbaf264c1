"""Why an answer is missing, as the server may say it: in its own words, never in those of the hospital."""

from __future__ import annotations

from flwr.app import Error
from flwr.common.constant import ErrorCode


class SiteFailed(Exception):
    """A site says, or Flower says of it, that it failed."""


class SpentNothing(SiteFailed):
    """It refused before it charged its ledger."""


class ProcessDied(SiteFailed):
    """The process that was answering is gone. It may have charged the ledger, so this is no ``SpentNothing``."""


# What Flower reports for a process that ended: of Ray in a simulation, of a SuperNode in a deployment. A node that has
# gone altogether (5) would let us wait for it.
_PROCESS_DIED = (ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_CRASHED)
_OUT_OF_MEMORY = "ray.exceptions.OutOfMemoryError"


def of_flower(error: Error) -> SiteFailed:
    """What one of Flower's own errors means. Its text may come from the hospital: we look whether Ray's name for a lack
    of memory is in it, and repeat nothing of it."""
    code = f"Flower error code {error.code}"
    if _OUT_OF_MEMORY in (error.reason or ""):
        return ProcessDied(
            f"its process was killed because this machine ran out of memory ({code}). Run fewer processes at once (a"
            " larger train.threads), shorter reports or a smaller model; or take --grid inprocess, which loads the"
            " model once"
        )
    if error.code in _PROCESS_DIED:
        return ProcessDied(f"its process died, often for want of memory ({code}; see the log)")
    if error.code == ErrorCode.NODE_UNAVAILABLE:
        return SiteFailed(f"its node is not connected any more ({code})")
    return SiteFailed(f"{code} (the node or its process failed)")
