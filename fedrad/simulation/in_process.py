"""A simulation app in this process: its own ServerApp and ClientApp, on a grid that carries the messages by hand.

The base model is loaded once, nothing is started and nothing stays: no SuperLink, no Ray, no module of the app.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, RecordDict

from fedrad.config import Experiment
from fedrad.errors import FederationError, FedradError, place_of
from fedrad.federation.flower_internals import SUPERLINK_NODE_ID
from fedrad.simulation import client as simulated_client
from fedrad.simulation.apps import importable, load_apps
from fedrad.simulation.grid import InProcessGrid


def run_in_process(
    folder: Path, experiment: Experiment, *, grid: type[InProcessGrid] = InProcessGrid, verbose: bool = False
) -> None:
    """One run of the app with this configuration; prints what the run prints.

    Args:
        grid: who answers for the nodes, of which there is one for each hospital.

    Raises:
        ConfigError: the app can't be loaded.
        FedradError: the run did not complete.
    """
    run_id, count = secrets.randbits(62), experiment.sites.count
    with importable(folder), _flowers_log(verbose):
        server, client = load_apps(folder)
        config = experiment.flat()
        nodes = [{"partition-id": index, "num-partitions": count} for index in range(count)]
        context = Context(run_id, SUPERLINK_NODE_ID, node_config={}, state=RecordDict(), run_config=dict(config))
        try:
            server(grid(client, nodes, config, run_id, SignsOfLife()), context)
        except FedradError:
            raise
        except (Exception, SystemExit) as error:  # an app that ends itself has not finished the run, whatever it says
            problem = f"the run did not complete: {type(error).__name__} in the ServerApp at {place_of(error)}"
            raise FederationError(problem) from None
        finally:
            simulated_client.forget()


@dataclass
class SignsOfLife:
    """A line while a round takes long, so that nobody takes it for dead.

    Attributes:
        every: seconds between two lines.
    """

    every: float = 20.0
    _last: float = field(default_factory=time.monotonic)

    def __call__(self, done: int, of: int) -> None:
        if done < of and time.monotonic() - self._last > self.every:
            print(f"  {done} of {of} hospitals have answered", flush=True)
            self._last = time.monotonic()
        if done == of:
            self._last = time.monotonic()


@contextmanager
def _flowers_log(verbose: bool) -> Iterator[None]:
    """Flower's warnings are shown; its progress notes only on demand."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
