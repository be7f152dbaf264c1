"""The run directory that other programs rely on: experiment.toml, metrics.jsonl, result.json, adapter/, ledger/; and
what the run goes on from if it is cut off (``training.checkpoint``)."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.files import USUAL, write_whole
from fedrad.privatise.local import figures_of
from fedrad.tasks.metrics import Scores, scores_as_dict
from fedrad.tasks.task import Task
from fedrad.training.checkpoint import VERSIONS
from fedrad.training.privatised import draws_of_run
from fedrad.training.result import Result, privacy_statement
from fedrad.training.setup import Setup


def refuse_used(experiment: Experiment) -> None:
    """Refuses a run directory that is in use. Checked early, so that a run that can't start leaves no directory.

    Raises:
        ConfigError: ``run.out`` holds something already; nothing is overwritten.
    """
    directory = Path(experiment.run.out)
    if experiment.run.out and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        unfinished = (directory / "experiment.toml").is_file() and not (directory / "result.json").exists()
        more = f". It holds an unfinished run: --resume {directory} goes on with it" if unfinished else ""
        raise ConfigError(f"run.out: {directory} is not an empty folder; name a new one, nothing is overwritten{more}")


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
    refuse_used(experiment)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "ledger").mkdir(mode=0o700)
        write_whole(directory / "experiment.toml", experiment.to_toml().encode(), durable=True, mode=USUAL)
    except OSError as error:
        raise ConfigError(f"run.out: {directory} can't be written: {error.strerror}") from None
    return directory


def append_metrics(
    directory: Path, task: Task, *, round: int, step: int, scores: Scores | None, epsilon: Mapping[str, float]
) -> dict[str, object]:
    """Adds one evaluation to ``metrics.jsonl``; without scores, a split and figures that are null. Returns its line."""
    split = None if scores is None else "test"
    figures = scores_as_dict(scores, task.figures)
    record = {"round": round, "step": step, "split": split, **figures, "epsilon": _finite(epsilon)}
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    return record


def finish(
    directory: Path, experiment: Experiment, setup: Setup, result: Result, certify: Callable[[], object]
) -> None:
    """Writes ``adapter/`` and, last, ``result.json``: a directory with a ``result.json`` is a finished run.

    Args:
        certify: writes what certifies the adapter; called when that is there.
    """
    texts = figures_of(experiment)
    draws = None if texts is None else draws_of_run(directory)
    statement = privacy_statement(experiment, result, setup.spec.backbone, draws)
    setup.task.export(
        setup.classifier,
        setup.base,
        directory / "adapter",
        max_length=setup.max_length,
        privacy_statement=statement,
    )
    certify()
    compared = result.comparison
    figures = {
        **scores_as_dict(result.scores, setup.task.figures),
        "evaluated": result.scores is not None,
        "before": None if compared is None else compared.before.as_dict(),
        "label_prior": None if compared is None else compared.prior.as_dict(),
        "positives": {} if result.scores is None else dict(result.scores.positives),
        "decisions_changed": None if compared is None else compared.changed,
        "notes": list(result.notes),
        "epsilon": _finite(result.epsilon),
        "epsilon_max": _finite({"": result.epsilon_max})[""],
        "delta": result.delta,
        "accounting": {site: account.words for site, account in result.charges.items()},
        "unit": experiment.privacy.unit,
        "unconfirmed": list(result.unconfirmed),
        "missed_rounds": {site: list(rounds) for site, rounds in result.missed.items()},
        "private": experiment.privacy.epsilon > 0,
        "noise": experiment.privacy.noise,
        "statement": statement,
        "privatised": texts,
        "steps": result.steps,
        "reports": {"declared": dict(result.declared), "test": result.test_reports},
        "seconds": round(result.seconds, 2),
        "bytes": {"up": list(result.bytes_up), "down": list(result.bytes_down)},
        "experiment": experiment.digest(),
        "kernels": asdict(setup.classifier.kernels),
        "processor": _processor(),
        "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
    }
    content = json.dumps(figures, indent=2) + "\n"
    write_whole(directory / "result.json", content.encode(), durable=True, mode=USUAL)


def _processor() -> str:
    """The processor's name; what the platform calls it where Linux does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _unused(path: Path) -> Path:
    """Two runs that start in the same second get two directories."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity: a run without privacy has ``null`` for its epsilon."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
