"""Shards with canaries of a tiny model, seeded."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from fedrad.audit.battery import DECODER
from fedrad.audit.decoder import save_random_decoder
from fedrad.audit.stage import Stage, gradient_stage
from fedrad.config import Experiment
from tests import small


def experiment(**changes: object) -> Experiment:
    """Sixty steps at epsilon 1.5, an eighth of some 450 units in each."""
    settings: dict[str, object] = {
        "lora__targets": "",
        "privacy__delta": 1e-5,
        "privacy__epsilon": 1.5,
        "train__rounds": 2,
        "train__local_steps": 30,
        "train__batch": 56,
        "train__average": 0.0,
        "train__learning_rate": 0.0,
        "train__warm_start": "none",
        "sites__count": 1,
    }
    return small.experiment(**{**settings, **changes})


@cache
def of_decoder() -> Experiment:
    """Likewise of a random decoder, of which 24 steps are enough."""
    name = save_random_decoder(Path(mkdtemp(prefix="fedrad-tiny-")) / "decoder")
    changes = DECODER | {"model.name": name, "train.rounds": 1, "train.local-steps": 24}
    return Experiment.from_flat(experiment().flat() | changes)


@cache
def stage(kind: str = "report") -> Stage:
    """800 canaries that are reports of an encoder, or notes of a ``decoder``; or 400 that are each a ``patient`` with
    eight reports."""
    if kind == "patient":
        # The generator's patients have two reports each.
        return gradient_stage(experiment(privacy__unit=kind, privacy__reports_per_patient=8, train__batch=28), 400)
    if kind == "decoder":
        return gradient_stage(of_decoder(), 800)
    return gradient_stage(experiment(), 800)
