"""Everything that fedrad uses of the internals of Flower 1.41 and Ray, for want of a public API.
``tests/federation/test_flower_internals.py`` fails when Flower moves it."""

from __future__ import annotations

import sys
from typing import Any

from flwr.app import Message
from flwr.app.message.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["SUPERLINK_NODE_ID", "Run", "make_message"]

APP_FAILED, NODE_UNAVAILABLE = ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.NODE_UNAVAILABLE
# What Flower reports for a process that ended: of Ray in a simulation, of a SuperNode in a deployment. A node that has
# gone altogether (unavailable) would let us wait for it.
PROCESS_DIED = (ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_CRASHED)
OUT_OF_MEMORY = "ray.exceptions.OutOfMemoryError"  # in the reason of such an error
CLIENT_PROCESS = "flwr-clientapp"  # the process that a SuperNode starts for a message


def give_id(message: Message, name: str) -> Message:
    """Gives a message its id, as Flower's grids do when they send it; returns the same message."""
    message.metadata.__dict__["_message_id"] = name
    return message


def speak_as_server(run_id: int) -> None:
    """Says who makes the messages of this process: Flower's ``Message`` asks this class for it."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 1


def replace_dead_actors() -> None:
    """Lets a simulation survive the death of a Ray actor; no effect in a process without Flower's Ray backend.

    Flower puts an actor whose process has died back into its pool, and every later task of that actor fails at once. So
    one out-of-memory kill would lose all later answers. Here the pool gets a new actor instead.
    """
    if "flwr.simulation.ray_transport.ray_actor" not in sys.modules:
        return
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool
    from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError

    def add_actor_back_to_pool(self: BasicActorPool, future: Any) -> None:
        actor = self._future_to_actor.pop(future)
        # Flower calls this while it handles the exception with which the actor's work has ended.
        died = isinstance(sys.exception(), (OutOfMemoryError, RayActorError, WorkerCrashedError))
        self.pool.append(self.create_actor_fn() if died else actor)

    BasicActorPool.add_actor_back_to_pool = add_actor_back_to_pool  # type: ignore[method-assign]
