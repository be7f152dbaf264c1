"""Cells over a Ray cluster or a SLURM array. All machines must see the folder of the sweep, by the same path."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrad.errors import ConfigError
from fedrad.experiments.cells import DIED, Cell, Failure, note_failure
from fedrad.experiments.pool import OnDone, OnStart, run_quietly
from fedrad.files import USUAL, write_whole

_DEFAULT_MEMORY_GB = 4


def run_ray(cells: Sequence[Cell], folder: Path, *, jobs: int, memory: int, on_start: OnStart, on_done: OnDone) -> None:
    """Runs the cells as Ray tasks: on the cluster that RAY_ADDRESS names, else on a Ray of this machine's own.

    Args:
        jobs: tasks at once, at most; 0: as many as Ray finds room for.
        memory: bytes that Ray reserves for a task; 0: none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # Flower's own engine, seconds to import

    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        waiting, running = list(cells), dict[Any, Cell]()
        while waiting or running:
            while waiting and len(running) < (jobs or len(cells)):
                cell = waiting.pop(0)
                options = {"num_cpus": cell.experiment.train.threads, "max_retries": 0}
                options |= {"memory": memory} if memory else {}
                options |= {} if cell.experiment.train.device == "cpu" else {"num_gpus": 1}
                running[ray.remote(run_quietly).options(**options).remote(cell, folder)] = cell
                on_start(cell)
            done, _ = ray.wait(list(running))
            for reference in done:
                cell = running.pop(reference)
                try:
                    failure = ray.get(reference)
                except ray.exceptions.RayError as error:  # the task's process died
                    failure = Failure(DIED, f"the Ray task did not end ({type(error).__name__}); see Ray's logs")
                    note_failure(cell, folder, failure)
                on_done(cell, failure)
    finally:
        if started:
            ray.shutdown()


def sbatch(numbers: Sequence[int], file: Path, out: Path, *, threads: int, gpus: bool, jobs: int, memory: int) -> Path:
    """Writes ``sweep.sbatch`` into the sweep's folder: an array with a task for each of these cells.

    Args:
        numbers: of the cells, as ``--cell`` takes them.
        file: the sweep's file; it must not change until the array is done.
        threads: cores of a task.
        jobs: tasks at once, at most; 0: SLURM decides.
        memory: bytes of a task; 0: 4 GB.

    Raises:
        ConfigError: there is nothing to run.
    """
    if not numbers:
        raise ConfigError(f"{out}: every cell has finished; there is nothing for SLURM to run")
    gigabytes = math.ceil(memory / 2**30) or _DEFAULT_MEMORY_GB
    array = ",".join(map(str, numbers)) + (f"%{jobs}" if jobs else "")
    command = [sys.executable, "-m", "fedrad", "sweep", str(file.absolute()), "--out", str(out.absolute()), "--cell"]
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=fedrad-{file.stem}",
        f"#SBATCH --array={array}",
        f"#SBATCH --cpus-per-task={threads}",
        f"#SBATCH --mem={gigabytes}G",
        *(["#SBATCH --gres=gpu:1"] if gpus else []),
        f"#SBATCH --output={out.absolute()}/cells/slurm-%A-%a.log",
        "umask 077",  # what a run shows may hold counts of training reports
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"export OMP_NUM_THREADS={threads}",
        f'{shlex.join(command)} "$SLURM_ARRAY_TASK_ID"',
    ]
    script = out / "sweep.sbatch"
    write_whole(script, ("\n".join(lines) + "\n").encode(), durable=False, mode=USUAL)
    return script
