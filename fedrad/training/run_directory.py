"""The run directory that other programs rely on: experiment.toml, metrics.jsonl, result.json, adapter/, ledger/."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Context
from importlib.metadata import version
from pathlib import Path

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.model.export import export_peft
from fedrad.training.metrics import Scores
from fedrad.training.setup import Setup

_VERSIONS = ("fedrad", "flwr", "torch", "transformers", "peft", "opacus", "dp-accounting", "datasets", "numpy")


@dataclass(frozen=True)
class Result:
    """The final figures of a run.

    Attributes:
        scores: on the test set, of the adapter that was written.
        epsilon: of each site's ledger at ``delta``; infinite for a run without privacy.
        steps: noisy steps of the site that took the most.
        declared: declared shard sizes by site.
        sizes_stated: whether they are public statements of the hospitals; else they were rounded from the actual
            numbers, as a simulation does.
        test_reports: reports of the public or simulated test set.
        seconds: wall time of the run.
        unconfirmed: sites whose last answer was lost: their ledgers may hold more than ``epsilon`` says.
        bytes_up, bytes_down: of the tensors that travelled, round by round, all sites together; none for a centralized
            run.
    """

    scores: Scores
    epsilon: Mapping[str, float]
    steps: int
    declared: Mapping[str, int]
    sizes_stated: bool
    test_reports: int
    seconds: float
    unconfirmed: tuple[str, ...] = ()
    bytes_up: tuple[int, ...] = ()
    bytes_down: tuple[int, ...] = ()

    @property
    def epsilon_max(self) -> float:
        return max(self.epsilon.values())  # none at all is an error: it must not read as epsilon 0


def create_run_directory(experiment: Experiment, base: Path) -> Path:
    """Makes the run directory and writes ``experiment.toml`` into it.

    Args:
        base: where ``runs/`` is put if ``run.out`` is empty.

    Raises:
        ConfigError: ``run.out`` holds something already; nothing is overwritten.
    """
    name = experiment.run.name or experiment.data.name
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = Path(experiment.run.out) if experiment.run.out else _unused(base / "runs" / f"{stamp}-{name}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"run.out: {directory} is not an empty folder; name a new one, nothing is overwritten")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "ledger").mkdir(mode=0o700)
        write_atomically(directory / "experiment.toml", experiment.to_toml())
    except OSError as error:
        raise ConfigError(f"run.out: {directory} can't be written: {error.strerror}") from None
    return directory


def append_metrics(
    directory: Path, *, round: int, step: int, scores: Scores, epsilon: Mapping[str, float], split: str = "test"
) -> None:
    """Adds one evaluation to ``metrics.jsonl``."""
    record = {"round": round, "step": step, "split": split, **scores.as_dict(), "epsilon": _finite(epsilon)}
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def finish(directory: Path, experiment: Experiment, setup: Setup, result: Result) -> None:
    """Writes ``adapter/`` and, last, ``result.json``: a directory with a ``result.json`` is a finished run."""
    statement = privacy_statement(experiment, result, setup.spec.backbone)
    export_peft(
        setup.classifier,
        setup.base,
        directory / "adapter",
        max_length=setup.max_length,
        privacy_statement=statement,
    )
    figures = {
        **result.scores.as_dict(),
        "epsilon": _finite(result.epsilon),
        "epsilon_max": _finite({"": result.epsilon_max})[""],
        "delta": experiment.privacy.delta,
        "unit": experiment.privacy.unit,
        "unconfirmed": list(result.unconfirmed),
        "private": experiment.privacy.epsilon > 0,
        "noise": experiment.privacy.noise,
        "statement": statement,
        "steps": result.steps,
        "reports": {"declared": dict(result.declared), "test": result.test_reports},
        "seconds": round(result.seconds, 2),
        "bytes": {"up": list(result.bytes_up), "down": list(result.bytes_down)},
        "experiment": experiment.digest(),
        "kernels": asdict(setup.classifier.kernels),
        "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
    }
    write_atomically(directory / "result.json", json.dumps(figures, indent=2) + "\n")


def privacy_statement(experiment: Experiment, result: Result, backbone: str = "float32") -> str:
    """What the run guarantees, in words that can stand beside the adapter.

    Args:
        backbone: dtype of the frozen base model in this process.
    """
    privacy = experiment.privacy
    if privacy.epsilon == 0:
        return "Trained WITHOUT differential privacy. The adapter may reveal training reports."
    guarantee = (
        f"{privacy.unit}-level ({rounded_up(result.epsilon_max)}, {rounded_up(privacy.delta)})-differential privacy,"
        f" adding or removing one {privacy.unit}, against everyone who sees every message of the run. Accounted with"
        " privacy loss distributions (pessimistic estimate); Gaussian noise in floating point. Covers the training"
        " reports, not the test reports behind the scores."
    )
    # With "auto" every hospital's own machine decides, and the server does not know.
    if backbone == "bfloat16" or (experiment.train.precision == "auto" and result.bytes_up):
        guarantee += (
            " The base model ran, or at some hospital may have run, in bfloat16: its rounding lets reports of a batch"
            " change each other's gradients a little, which this figure does not cover."
        )
    if result.unconfirmed:
        guarantee += (
            f" NOT CONFIRMED for {', '.join(result.unconfirmed)}: an answer was lost after these may have charged their"
            " ledgers, so the figure is a lower bound for them; ask them what their ledgers say."
        )
    if not result.sizes_stated:
        guarantee += " Simulated: the shard sizes were rounded from the actual ones, not stated in public."
    if len(result.epsilon) > 1:
        total = sum(result.epsilon.values())
        guarantee += (
            f" The figure is the largest over {len(result.epsilon)} hospitals and assumes that no patient is in two of"
            f" them; for a patient with one {privacy.unit} in each, basic composition gives at most"
            f" ({rounded_up(total)}, {rounded_up(len(result.epsilon) * privacy.delta)})."
        )
    if privacy.noise == "seeded":
        return f"Seeded noise: simulation only. Whoever knows the seed can remove the noise. Otherwise: {guarantee}"
    return guarantee


def rounded_up(value: float, digits: int = 6) -> str:
    """A privacy figure to so many significant digits, never below what it is: ``float`` of the text is >= value."""
    # repr, the shortest text that reads back as the same float, so that 0.001 stays 0.001.
    return f"{float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(value))):.{digits}g}"


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader sees all of it or none of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _unused(path: Path) -> Path:
    """Two runs that start in the same second get two directories."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity: a run without privacy has ``null`` for its epsilon."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
