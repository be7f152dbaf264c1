"""Why a hospital's answer is missing, as the server may say it: in its own words, never in those of the hospital."""

from __future__ import annotations

from flwr.app import Error

from fedrad.federation.flower_internals import NODE_UNAVAILABLE, OUT_OF_MEMORY, PROCESS_DIED
from fedrad.federation.messages import Failure


class SiteFailed(Exception):
    """A site says, or Flower says of it, that it failed."""


class SpentNothing(SiteFailed):
    """It refused before it charged its ledger."""


class ProcessDied(SiteFailed):
    """The process that was answering is gone. It may have charged the ledger, so this is no ``SpentNothing``."""


_BEFORE_ANY_CHARGE = ("budget-exhausted", "policy", "state-missing", "stopped")
_HINTS = {
    "budget-exhausted": "its privacy budget is used up",
    "policy": "its policy refuses what was proposed: privacy.*, the model, the labels, train.precision or sites.quorum",
    "federation": "the round does not fit those before it; in one run no setting may change",
    "stopped": "an error that nobody foresaw; a person there must look into it and remove the file 'stopped'",
    "secure-aggregation": "going on could have shown its adapter, or the state that was sent is too large",
    "ledger-busy": "another process holds its ledger",
    "ledger-tampered": "its ledger was changed or removed",
    "data": "its reports can't be read",
    "config": "its node configuration is wrong",
    "model": "its model does not fit the adapter that was sent",
    "plan": "no noise multiplier meets the budget there, or its policy's own is too small for so many steps",
    "preflight": "its pre-flight check failed",
    "state-missing": "it lacks what the server built on; the next round sends it everything",
}


def of_hospital(failure: Failure) -> SiteFailed:
    """What a hospital's own error code means."""
    kind = SpentNothing if failure.code in _BEFORE_ANY_CHARGE else SiteFailed
    return kind(f"{failure.code} ({_HINTS.get(failure.code, 'see the log at the hospital')})")


def of_flower(error: Error) -> SiteFailed:
    """What one of Flower's own errors means. Its text may come from the hospital: we look whether Ray's name for a lack
    of memory is in it, and repeat nothing of it."""
    code = f"Flower error code {error.code}"
    if OUT_OF_MEMORY in (error.reason or ""):
        return ProcessDied(
            f"its process was killed because this machine ran out of memory ({code}). Run fewer processes at once (a"
            " larger train.threads), shorter reports or a smaller model; or take --grid inprocess, which loads the"
            " model once"
        )
    if error.code in PROCESS_DIED:
        return ProcessDied(f"its process died, often for want of memory ({code}; see the log)")
    if error.code == NODE_UNAVAILABLE:
        return SiteFailed(f"its node is not connected any more ({code})")
    return SiteFailed(f"{code} (the node or its process failed)")
