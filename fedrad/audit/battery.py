"""Which audits there are, and at which settings: small enough for two cores, strong enough to see a broken path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedrad.audit import controls
from fedrad.audit.bounds import epsilon_bound, gaussian_bound, guess, pair_bound
from fedrad.audit.decoder import save_random_decoder
from fedrad.audit.outcome import Outcome
from fedrad.audit.stage import Seen, Stage, centralized_view, gradient_stage, server_view
from fedrad.audit.texts import REPORTS, SAMPLED, text_view
from fedrad.config import Experiment

CONFIDENCE = 0.95
PAIR_CONFIDENCE = 0.99  # that bound is so near the claim that at 95% some of a battery's audits would be above it
# Fixed before any score is seen.
GUESSED = 5  # one canary in so many
DIRAC = "gradient"
HEAD, LORA = "final head", "final LoRA and head"
SERVER = "each round's answer"

# A claim this small is refuted by few canaries where it is wrong; at epsilon 8 a quarter of the noise would need many
# thousands (docs/audits.md). Sixty steps, an eighth of the units in each.
_SETTINGS: Mapping[str, Any] = {
    "data.reports": 120,
    "data.max-length": 48,
    "sites.count": 1,
    "lora.targets": "",
    "privacy.epsilon": 1.5,
    "train.rounds": 5,
    "train.local-steps": 12,
    "train.warm-start": "synthetic",
    "train.average": 0.0,  # what is seen is the last iterate, which tells more than a mean
}
_LORA = {"lora.targets": "query,value"}
_PATIENTS = {"privacy.unit": "patient", "privacy.reports-per-patient": 8}  # so their sum is 8 clip norms long
# Only the last layer is trained, so that all below are computed once, and mostly 24 steps are taken, not 60: those of a
# decoder are dearer.
DECODER = {
    "model.task": "causal-lm",
    "model.instruction": "Protocol?",
    "data.name": "protocol",
    "data.max-length": 128,
    "lora.targets": "query,value",
    "lora.layers": 1,
    "train.rounds": 2,
    "train.warm-start": "none",
}


@dataclass(frozen=True)
class _Group:
    """Audits of one shard with gradient canaries: the intact path, then controls."""

    canaries: int
    view: str
    look: Callable[[Stage], Seen]
    settings: Mapping[str, Any]
    broken: Mapping[str, Callable[[], AbstractContextManager[Any]]]


_ALL_CONTROLS = {
    "noise off": controls.noise_off,
    "noise / 4": controls.noise_quartered,
    "no subsampling": controls.no_subsampling,
    "clip ignored": controls.clip_ignored,
}
_HALF = {"noise / 2": controls.noise_halved}  # needs 2,500 canaries, and steps enough to be in one
_PATIENT_CONTROL = {"clipped by report": controls.patients_clipped_by_report}
_QUICK = (
    _Group(2500, HEAD, centralized_view, {}, _ALL_CONTROLS | _HALF),
    _Group(400, HEAD, centralized_view, _PATIENTS, _PATIENT_CONTROL),
    _Group(1500, SERVER, server_view, {"sites.count": 2}, {}),
)
_FULL = (
    _Group(3000, HEAD, centralized_view, {}, _ALL_CONTROLS | _HALF),
    _Group(3000, HEAD, centralized_view, {"privacy.epsilon": 8.0}, {}),
    _Group(1000, HEAD, centralized_view, _PATIENTS, _PATIENT_CONTROL),
    _Group(1500, LORA, centralized_view, _LORA, _ALL_CONTROLS),
    _Group(1500, SERVER, server_view, _LORA | {"sites.count": 2}, {"noise / 4": controls.noise_quartered}),
)
_TEXTS = 300
RANDOM = "random"


def run_battery(
    *, quick: bool, decoder: str = "", told: Callable[[str], None] = lambda line: None
) -> Iterator[Outcome]:
    """Every audit and every control, one after the other.

    Args:
        decoder: only those of a decoder, and more of them: ``RANDOM``, or as ``model.name``.
        told: what is being done, for a progress line.

    Raises:
        ModelError: the decoder can't be loaded, or is none.
    """
    with TemporaryDirectory(prefix="fedrad-audit-") as folder:
        if decoder in ("", RANDOM):
            name, called = save_random_decoder(Path(folder) / "decoder"), "a random decoder"
        else:
            name, called = decoder, Path(decoder).name
        groups = decoder_groups(name, called, few=quick or not decoder)
        for group in groups if decoder else [*(_QUICK if quick else _FULL), *groups]:
            yield from _audited(group, told)
    if not quick and not decoder:
        for kind in (REPORTS, SAMPLED):
            told(f"{_TEXTS} canaries: {kind}")
            yield _texts(kind)


def decoder_groups(name: str, called: str, *, few: bool) -> Sequence[_Group]:
    """Audits of a decoder, in NF4 as well if that is installed.

    Args:
        called: what the table calls it.
        few: those of a minute.
    """
    settings, lora = DECODER | {"model.name": name}, f"LoRA of {called}"
    some = {broken: _ALL_CONTROLS[broken] for broken in ("noise / 4", "clip ignored")}
    groups = [_Group(1500, lora, centralized_view, settings, some)]
    if not few:
        groups = [
            _Group(2500, lora, centralized_view, settings, _ALL_CONTROLS),
            _Group(2500, lora, centralized_view, settings | {"train.rounds": 5}, _HALF),
            _Group(400, lora, centralized_view, settings | _PATIENTS, _PATIENT_CONTROL),
            _Group(1500, SERVER, server_view, settings | {"sites.count": 2}, some),
        ]
    if find_spec("bitsandbytes") is not None:
        groups.append(_Group(1500, f"{lora}, NF4", centralized_view, settings | {"model.quantize": "nf4"}, some))
    return groups


def audit_experiment(changes: Mapping[str, Any], units: int) -> Experiment:
    """The battery's settings, with an eighth of so many units in a step."""
    return Experiment.from_flat({**_SETTINGS, "train.batch": max(units // 8, 1), **changes})


def _audited(group: _Group, told: Callable[[str], None]) -> Iterator[Outcome]:
    told(f"{group.canaries} canaries, {group.view}: a shard with half of them")
    units = _SETTINGS["data.reports"] // group.settings.get("sites.count", 1) + group.canaries // 2
    stage = gradient_stage(audit_experiment(group.settings, units), group.canaries)
    paths: Sequence[tuple[str, Callable[[], AbstractContextManager[Any]]]] = [
        ("", controls.intact),
        *group.broken.items(),
    ]
    for broken, opened in paths:
        told(f"{group.canaries} canaries, {group.view}: {broken or 'the path as it is'}")
        started = time.monotonic()
        with opened():
            seen = group.look(stage)
        yield outcome_of(DIRAC, group.view, broken, stage.experiment, seen, stage.inside, started)


def _texts(kind: str) -> Outcome:
    units, started = _SETTINGS["data.reports"] + _TEXTS // 2, time.monotonic()
    experiment = audit_experiment({**_LORA, "privacy.epsilon": 8.0}, units)
    seen, inside = text_view(experiment, kind, _TEXTS)
    return outcome_of(kind, "final model's losses", "", experiment, seen, inside, started)


def outcome_of(
    kind: str, view: str, broken: str, experiment: Experiment, seen: Seen, inside: Any, started: float
) -> Outcome:
    """Guesses by the scores, and bounds by the guesses."""
    guesses, delta = guess(seen.scores, inside, len(inside) // GUESSED), experiment.privacy.delta
    return Outcome(
        kind=kind,
        view=view,
        unit=experiment.privacy.unit,
        broken=broken,
        epsilon=seen.epsilon,
        delta=delta,
        bound=epsilon_bound(guesses, delta, CONFIDENCE),
        gaussian_bound=gaussian_bound(guesses, delta, CONFIDENCE),
        confidence=CONFIDENCE,
        guesses=guesses,
        seconds=time.monotonic() - started,
        pair_bound=pair_bound(seen.scores, inside, delta, PAIR_CONFIDENCE) if kind == DIRAC else None,
        pair_confidence=PAIR_CONFIDENCE,
    )
