"""What travels under secure aggregation is on the closed list, and nothing beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict

from fedrad.errors import FederationError, QuorumLost, RefusedReply, SecureAggregationRefusal
from fedrad.federation import server
from fedrad.federation.arrays import to_arrays
from fedrad.federation.messages import Reply, StageRequest, content_of, read_answer, read_question
from fedrad.federation.secure_rounds import STAGE
from fedrad.secure.messages import KeyAdvert, Roster, SealedShares
from fedrad.simulation import client as simulated_client
from tests.grid import simulated_nodes
from tests.secure_run import Watched, five, plain, site_of


def reply() -> Reply:
    return Reply("ava", 1, {}, 40, "0123456789abcdef", 0.1, 1.0, (), masked=bytes(16))


def test_a_masked_reply_travels_and_nothing_beside_it() -> None:
    content = content_of(reply())
    assert set(content) == {"adapter", "reply"}
    assert not content.array_records["adapter"]
    assert read_answer(content, Reply) == reply()
    with pytest.raises(SecureAggregationRefusal, match="both"):
        content_of(replace(reply(), adapter={"head.bias": torch.zeros(2)}))
    both = RecordDict({**content, "adapter": to_arrays({"head.bias": torch.zeros(2)})})
    with pytest.raises(RefusedReply, match="both masked and in clear"):
        read_answer(both, Reply)


@pytest.mark.parametrize("vector", ["bytes", [b"bytes"], ArrayRecord({"vector": Array(np.zeros(3, np.uint64))})])
def test_what_is_no_masked_vector_is_refused(vector: Any) -> None:
    content = content_of(reply())
    if isinstance(vector, ArrayRecord):
        content["masked"] = vector
    else:
        content.config_records["reply"]["masked"] = vector
    with pytest.raises(RefusedReply, match="masked"):
        read_answer(content, Reply)


def test_stages_have_exactly_their_fields() -> None:
    request = StageRequest("7", "ava", -1, 1, "", Roster({"ava": b"1"}, {"ava": b"2"}, {"ava": b""}))

    def message(content: RecordDict) -> Message:
        return Message(content=content, message_type=STAGE, dst_node_id=10)

    assert read_question(message(content_of(request)), StageRequest) == request
    for key, value in (
        ("more", 1),
        ("index", "0"),
        ("body.kind", "Clear"),
        ("body.kind", "Survivors"),
        ("body.more", b"1"),
        ("body.mask-keys", [1]),
    ):
        content = content_of(request)
        content.config_records["stage-request"][key] = value  # type: ignore[assignment]
        with pytest.raises(FederationError, match="no StageRequest"):
            read_question(message(content), StageRequest)
    with pytest.raises(FederationError, match="no StageRequest"):
        read_question(message(RecordDict({**content_of(request), "adapter": ArrayRecord()})), StageRequest)
    advert = content_of(KeyAdvert("ava", b"1", b"2"))
    assert read_answer(advert, KeyAdvert) == KeyAdvert("ava", b"1", b"2")
    with pytest.raises(RefusedReply, match="none with the fields of a sealed-shares"):
        read_answer(advert, SealedShares)
    advert.config_records["key-advert"]["loss"] = 0.5
    with pytest.raises(RefusedReply, match="no field loss"):
        read_answer(advert, KeyAdvert)


def test_a_masked_reply_is_refused_without_secure_aggregation_and_the_reverse(base: str, tmp_path: Path) -> None:
    """A hospital that answers in the other way than it was asked does not count."""

    class Stubborn(Watched):
        def answer(self, message: Message) -> Message:
            answer = super().answer(message)
            if message.metadata.message_type == MessageType.TRAIN and site_of(message) == "site-000":
                read = read_answer(answer.content, Reply)
                assert isinstance(read, Reply)
                other = (
                    {"masked": b"", "adapter": {"head.bias": torch.zeros(3)}}
                    if read.masked
                    else {
                        "masked": bytes(16),
                        "adapter": {},
                    }
                )
                return Message(content=content_of(replace(read, **other)), reply_to=message)
            return answer

    for build, says in ((plain, "is masked"), (five, "masked numbers")):
        experiment = build(base, tmp_path / says.replace(" ", "-"), sites__quorum=5)
        grid = Stubborn(simulated_client.app, simulated_nodes(5), experiment.flat())
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=experiment.flat())
        with pytest.raises(QuorumLost, match=says):
            server.app(grid, context)
