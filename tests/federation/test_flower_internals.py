"""What fedrad takes from inside Flower is still there, and does what it is taken for."""

from __future__ import annotations

import pytest
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedrad.federation.flower_internals import (
    CLIENT_PROCESS,
    NODE_UNAVAILABLE,
    OUT_OF_MEMORY,
    PROCESS_DIED,
    SUPERLINK_NODE_ID,
    give_id,
    make_message,
    replace_dead_actors,
    speak_as_server,
)
from fedrad.simulation.grid import InProcessGrid


def test_a_message_speaks_for_the_run_that_was_named_and_answers_the_id_that_was_given() -> None:
    speak_as_server(77)
    question = give_id(Message(RecordDict(), 10, MessageType.TRAIN), "message-7")
    assert (question.metadata.run_id, question.metadata.src_node_id) == (77, SUPERLINK_NODE_ID)
    assert question.metadata.message_id == "message-7"
    assert Message(RecordDict(), reply_to=question).metadata.reply_to_message_id == "message-7"
    speak_as_server(1)


def test_the_names_through_which_it_is_reached() -> None:
    """An attribute that Flower no longer reads could be written for ever without effect."""
    question = Message(RecordDict(), 10, MessageType.TRAIN)
    assert "_message_id" in question.metadata.__dict__
    error = make_message(question.metadata, error=Error(NODE_UNAVAILABLE, "gone"))
    assert error.has_error()
    assert (PROCESS_DIED, NODE_UNAVAILABLE) == ((ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_CRASHED), 5)
    assert InProcessGrid(ClientApp(), [], {}, run_id=5).run.run_id == 5


def test_the_names_of_processes_and_errors() -> None:
    from importlib.metadata import entry_points

    from ray.exceptions import OutOfMemoryError

    assert CLIENT_PROCESS in {entry.name for entry in entry_points(group="console_scripts")}
    assert str(OutOfMemoryError) == f"<class '{OUT_OF_MEMORY}'>"  # as Flower words it in a reason


def test_flowers_pool_gets_a_new_actor_for_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the mend the dead actor comes back, which is how Flower 1.41 loses every later answer."""
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool
    from ray.exceptions import ActorDiedError, OutOfMemoryError

    def pool() -> BasicActorPool:
        made = object.__new__(BasicActorPool)
        made.pool, made._future_to_actor, made.create_actor_fn = [], {"future": "actor"}, lambda: "new"
        return made

    def returned(error: Exception | None) -> list[object]:
        given = pool()
        try:
            if error is not None:
                raise error
            given.add_actor_back_to_pool("future")
        except Exception:  # as Flower's RayBackend.process_message
            given.add_actor_back_to_pool("future")
        assert given._future_to_actor == {}
        return given.pool

    original = BasicActorPool.add_actor_back_to_pool
    assert returned(ActorDiedError()) == ["actor"]  # Flower's own fault is still there; else the mend can go
    monkeypatch.setattr(BasicActorPool, "add_actor_back_to_pool", original)  # put back afterwards
    replace_dead_actors()
    assert returned(ActorDiedError()) == returned(OutOfMemoryError("")) == ["new"]
    assert returned(None) == returned(ValueError("the ClientApp's own")) == ["actor"]
