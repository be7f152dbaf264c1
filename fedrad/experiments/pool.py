"""Cells over processes of this machine: as many as cores and memory allow, none of which outlives the sweep.

A process takes one cell after the other, so that cells that read the same reports with the same model compute its
frozen features once. A process that dies (out of memory, say) is that cell's failure and nobody else's.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from fedrad.errors import FedradError
from fedrad.experiments.cells import DIED, Cell, Failure, note_failure, output_in, run_cell

OnDone = Callable[[Cell, Failure | None], None]
OnStart = Callable[[Cell], None]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def run_pool(
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int,
    memory: int,
    on_start: OnStart = lambda cell: None,
    on_done: OnDone = lambda cell, failure: None,
    on_bound: Callable[[int], None] = lambda jobs: None,
) -> None:
    """Runs the cells.

    Args:
        jobs: processes at most; 0: as many as the machine allows.
        memory: bytes of a cell; 0: the most that one has needed so far. The first is then alone.
        on_bound: told how many processes there will be, once that is known.
    """
    pool = _Pool(list(cells), folder)
    threads = max((cell.experiment.train.threads for cell in cells), default=1)
    limit = max(1, _cores() // threads)
    wanted = min(jobs or limit, limit, max(1, len(cells)))

    def bound(need: int, running: int) -> int:
        return max(1, min(wanted, running + max(0, free_memory()) // need))

    allowed, needed = bound(memory, 0) if memory else 1, 0
    if memory or wanted == 1:
        on_bound(allowed)
    try:
        while pool.waiting or pool.busy:
            while pool.waiting and len(pool.busy) < allowed:
                on_start(pool.start_one(threads))
            for cell, failure, peak in pool.finished_ones():
                if peak > needed and not memory and wanted > 1:
                    needed, allowed = peak, bound(peak, len(pool.workers))
                    on_bound(allowed)
                on_done(cell, failure)
    finally:
        pool.close()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    cell: Cell | None = None
    reads: object = None  # of the cell before, whose features it has


@dataclass
class _Pool:
    waiting: list[Cell]
    folder: Path
    workers: list[_Worker] = field(default_factory=list)

    @property
    def busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.cell is not None]

    def start_one(self, threads: int) -> Cell:
        """Gives a cell that waits to a worker that is free, or to a new one: one whose features it has, if there is."""
        free = [worker for worker in self.workers if worker.cell is None]
        known = [(worker, cell) for worker in free for cell in self.waiting if cell.reads == worker.reads]
        taken = {worker.reads for worker in self.workers}
        fresh = [cell for cell in self.waiting if cell.reads not in taken] or self.waiting
        worker, cell = known[0] if known else (free[0] if free else self._new(threads), fresh[0])
        self.waiting.remove(cell)
        worker.cell, worker.reads = cell, cell.reads
        with suppress(OSError):  # it has died; whoever waits for its answer will see
            worker.connection.send((cell, self.folder))
        return cell

    def _new(self, threads: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, threads), daemon=False)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))
        return self.workers[-1]

    def finished_ones(self) -> list[tuple[Cell, Failure | None, int]]:
        """Waits for the next answers: cell, failure, and the process's peak memory in bytes (0: it died)."""
        ready = wait([worker.connection for worker in self.busy])
        found = []
        for worker in [worker for worker in self.busy if worker.connection in ready]:
            cell, worker.cell = worker.cell, None
            assert cell is not None  # noqa: S101 - only busy ones are waited for
            try:
                failure, peak = worker.connection.recv()
            except (EOFError, OSError):  # also one that is reset
                worker.process.join()
                self.workers.remove(worker)
                failure, peak = _died(worker.process.exitcode), 0
                note_failure(cell, self.folder, failure)
            found.append((cell, failure, peak))
        return found

    def close(self) -> None:
        """Ends the workers; one that is still at work is killed."""
        for worker in self.workers:
            worker.connection.close()
            if worker.cell is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join()


def _died(code: int | None) -> Failure:
    why = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
    hint = "; out of memory? State memory-gb, or take fewer --jobs" if code == -9 else ""
    return Failure(DIED, f"the process {why}{hint}")


def _serve(connection: Connection, threads: int) -> None:
    """A worker: one cell after the other, until the sweep is done or dead."""
    os.environ |= dict.fromkeys(_THREADS, str(threads))  # before torch is imported
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from fedrad.training.inputs import SharedLowerParts, sharing

    with sharing(SharedLowerParts()):
        while True:
            try:
                cell, folder = connection.recv()
            except EOFError:
                return
            connection.send((run_quietly(cell, folder), _peak()))


def run_quietly(cell: Cell, folder: Path) -> Failure | None:
    """``run_cell``, with what the run prints in a file beside its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with output_in(folder / f"{cell.name}.log"):
            return run_cell(cell, folder)
    except FedradError as error:  # another process has it
        return Failure(type(error).__name__, str(error))


def _end_with_parent() -> None:
    """A killed sweep leaves nobody at work in its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _peak() -> int:
    """Most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _cores() -> int:
    """Cores that this process may use."""
    affinity: Any = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_memory(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that are free, here and in this process's control group."""
    free = psutil.virtual_memory().available
    try:
        most = int((control_group / "memory.max").read_text())
        return int(min(free, most - int((control_group / "memory.current").read_text())))
    except (OSError, ValueError):  # no control group, or no limit
        return int(free)
