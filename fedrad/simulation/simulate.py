"""``fedrad simulate``: an app, a configuration and the caller's paths; then all in this process, or ``flwr run``.

torch and Flower take seconds to import, so they are imported once the configuration has been found in order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.keys import parse_overrides, read_flat
from fedrad.simulation.apps import app_defaults, app_folder, shipped_apps
from fedrad.training.unfinished import experiment_of, telling_how_to_go_on

GridName = Literal["inprocess", "fused", "flower"]


def simulate(
    app: str,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    *,
    config: Path | None = None,
    grid: GridName = "inprocess",
    verbose: bool = False,
) -> None:
    """Runs a simulation app: the same ServerApp, strategy and messages whichever grid.

    Args:
        app: ``mimic``, ``ct_rate``, ``openi``, ``protocol`` or a folder with a Flower app.
        overrides: ``section.key=value``; relative paths are taken from the working directory.
        out: run directory.
        config: a TOML file whose keys go before the app's own; ``overrides`` go before both.
        grid: who carries the messages: ``inprocess``; ``fused``, where one pass serves the reports of all hospitals
            (its results differ by rounding); or ``flower``: the real ``flwr run``, with SuperLink and Ray.
        verbose: show Flower's own log as well.

    Raises:
        ConfigError: all problems of the configuration, before anything is started.
        FedradError: the run did not complete; says why.
    """
    folder = app_folder(app)
    defaults = app_defaults(folder)
    chosen_keys = {} if config is None else read_flat(config)
    noted = {"run.app": folder.name if folder.parent == shipped_apps() else str(folder), "run.grid": grid}
    experiment = Experiment.load(None, {**defaults, **chosen_keys, **parse_overrides(overrides), **noted})
    if out is not None:
        experiment = Experiment.from_flat({**experiment.flat(), "run.out": str(out)})
    experiment = experiment.resolve_paths(Path.cwd())
    if not experiment.run.out:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        chosen = Path.cwd() / "runs" / f"{stamp}-{experiment.run.name or folder.name}"
        experiment = Experiment.from_flat({**experiment.flat(), "run.out": str(chosen)})
    _run(folder, experiment, verbose)


def resume(directory: Path, *, verbose: bool = False) -> None:
    """Goes on with the unfinished run in a directory, from its last finished round and under its settings.

    Raises:
        ConfigError: the directory holds no unfinished run of a simulation.
        FedradError: the run did not complete.
    """
    experiment = experiment_of(directory)
    if not experiment.run.app:
        raise ConfigError(
            f"run.resume: `fedrad simulate` did not begin the run in {directory}. Repeat the `flwr run` that did, with"
            f" run.resume=true and run.out={directory.absolute()}; or use `fedrad centralized --resume {directory}`"
        )
    _run(app_folder(experiment.run.app), experiment, verbose)


def _run(folder: Path, experiment: Experiment, verbose: bool) -> None:
    with telling_how_to_go_on(Path(experiment.run.out), "fedrad simulate"):
        _run_on_grid(folder, experiment, verbose)


def _run_on_grid(folder: Path, experiment: Experiment, verbose: bool) -> None:
    grid = experiment.run.grid
    if grid == "flower":
        from fedrad.simulation.flower_run import run_flower

        run_flower(folder, experiment, verbose=verbose)
    else:
        from fedrad.simulation.grid import InProcessGrid
        from fedrad.simulation.in_process import run_in_process
        from fedrad.simulation.one_pass import FusedGrid

        run_in_process(folder, experiment, grid=FusedGrid if grid == "fused" else InProcessGrid, verbose=verbose)
