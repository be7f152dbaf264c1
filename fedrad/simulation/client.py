"""A simulation's ClientApp: each node stands for any number of hospitals, which trust the server and have no policy.

The app of a real hospital is ``fedrad.federation.client``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context

from fedrad.config import Experiment
from fedrad.errors import PolicyRefusal
from fedrad.federation.client_app import client_app
from fedrad.federation.flower_internals import CLIENT_PROCESS
from fedrad.federation.hospital import answer_round
from fedrad.federation.messages import Hello, Reply, Request, Stage, StageRequest
from fedrad.federation.secure_hospital import answer_stage
from fedrad.simulation.hospitals import SimulatedHospital, Simulation
from fedrad.training.setup import pin_arithmetic

# Flower hands nothing to an app but the message and its context, so the process remembers the one simulation that it
# works for, by its configuration (as JSON, which tells 1 from 1.0) and its directory.
_running: dict[tuple[str, str], Simulation] = {}


def simulation_of(config: Mapping[str, Any], directory: str) -> Simulation:
    """The simulation that this process works for, made at its first message; another one takes its place."""
    key = (json.dumps(config, sort_keys=True), directory)
    if key not in _running:
        experiment = Experiment.from_flat(config)
        forget()
        _running[key] = Simulation(experiment, Path(directory))
    return _running[key]


def forget() -> None:
    """Closes and drops the simulation that this process works for."""
    while _running:
        _running.popitem()[1].close()


def _refuse_real_nodes(context: Context) -> None:
    """This app reads what the server names, so it answers on the nodes of a simulation alone.

    The name of the process can only make it refuse: Flower's examples number real nodes as well.

    Raises:
        PolicyRefusal: the node belongs to a hospital.
    """
    numbered = "partition-id" in context.node_config and "site" not in context.node_config
    if not numbered or Path(sys.argv[0]).name == CLIENT_PROCESS:
        raise PolicyRefusal(
            "this app simulates hospitals, which have no policy, and the node is no simulation's; real hospitals take"
            " part with the app in deployment/ (docs/deployment.md)"
        )


def _hello(context: Context) -> Hello:
    _refuse_real_nodes(context)
    return Hello(site="", simulated=True, declared_weight=0, rank=0)


def _stage(request: StageRequest, context: Context) -> Stage:
    _refuse_real_nodes(context)
    hospital = SimulatedHospital(simulation_of(context.run_config, request.directory), request)
    return answer_stage(request, hospital.experiment, hospital.memory, None)


def _round(request: Request, context: Context) -> Reply:
    _refuse_real_nodes(context)
    simulation = simulation_of(context.run_config, request.directory)
    pin_arithmetic(simulation.experiment)
    return answer_round(SimulatedHospital(simulation, request), request)


app = client_app(_hello, _round, _stage)
