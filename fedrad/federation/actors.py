"""The Ray actors of a Flower simulation, when one of them dies.

Flower 1.41 puts an actor whose process has died back into its pool, where everything that is given to it from then on
fails at once: one kill for want of memory loses all later answers. Here the pool gets a new actor instead.
"""

from __future__ import annotations

import sys
from typing import Any


def replace_dead_actors() -> None:
    """For the process that runs a simulation; no effect in one that has not loaded Flower's Ray backend."""
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
