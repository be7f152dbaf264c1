"""The closed list: what leaves a hospital, byte by byte, and what both ends refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedrad.errors import FederationError, RefusedReply
from fedrad.federation.arrays import from_arrays, to_arrays
from fedrad.federation.messages import (
    ERROR_CODES,
    Failure,
    Hello,
    Reply,
    Request,
    check_adapter,
    content_of,
    read_answer,
    read_question,
)
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import FILTER, MECHANISM, PLAN, Account
from tests.grid import CANARY, LABELS, Mercy, forget, over_the_wire, posted, wire_bytes

REPORTS = 37
ADAPTER = {"head.bias": torch.tensor([0.5, -1.0, 0.0]), "head.weight": torch.arange(12.0).reshape(3, 4)}
EVENTS = (Event(0.1, 2.0, 6), Event(0.25, 1.5, 12))
REPLY = Reply("site-000", 2, ADAPTER, 40, "0123456789abcdef", 0.125, 1.25, EVENTS)


@pytest.fixture(scope="module")
def mercy(tmp_path_factory: pytest.TempPathFactory) -> Mercy:
    return Mercy(tmp_path_factory.mktemp("mercy"), REPORTS)


@pytest.fixture(scope="module")
def answer(mercy: Mercy) -> RecordDict:
    """A real reply of a real hospital, after its way over the wire."""
    return mercy.ask(mercy.request())


def emptied(content: RecordDict) -> bytes:
    """The reply's bytes with every tensor's values set to zero: all that could say more than the tensors do."""
    adapter = {name: torch.zeros_like(tensor) for name, tensor in read_answer(content, Reply).adapter.items()}  # type: ignore[union-attr]
    rest = {name: record for name, record in content.items() if name != "adapter"}
    return wire_bytes(RecordDict({"adapter": to_arrays(adapter), **rest}))


def leaks(content: RecordDict) -> list[str]:
    """Words of the reports and of their table that are in the reply's bytes."""
    wire = wire_bytes(content)
    words = [CANARY, "quux", *LABELS, "pneumothorax", "lungs", "reports.csv", "loss", "accuracy", "norm", "num-ex"]
    return [word for word in words if word.encode() in wire.lower()]


def test_a_real_reply_holds_the_closed_list_and_nothing_else(mercy: Mercy, answer: RecordDict) -> None:
    assert set(answer) == {"adapter", "reply"}
    assert set(answer.config_records["reply"]) == {
        "site",
        "round",
        "declared-weight",
        "plan-id",
        "noise",
        "epsilon",
        "events.sampling-rate",
        "events.noise-multiplier",
        "events.steps",
        "masked",
        "rule",
        "order",
    }
    trainable = {name for name in mercy.state if name not in ("centre", "scale")}
    assert set(answer.array_records["adapter"]) == trainable
    reply = read_answer(answer, Reply)
    assert isinstance(reply, Reply)
    assert (reply.site, reply.round, reply.declared_weight) == ("mercy", 1, 40)
    assert 0 < reply.epsilon <= 4.0
    assert leaks(answer) == []


def test_the_scan_for_words_would_find_them(answer: RecordDict) -> None:
    reply = read_answer(answer, Reply)
    assert isinstance(reply, Reply)
    assert leaks(content_of(replace(reply, plan_id=f"{CANARY}3"))) == [CANARY]
    assert "loss" in leaks(RecordDict({**answer, "metrics": MetricRecord({"loss": 0.3})}))


def test_a_tensor_is_its_shape_and_values_and_no_byte_more(answer: RecordDict) -> None:
    for array in answer.array_records["adapter"].values():
        plain = BytesIO()
        np.save(plain, array.numpy(), allow_pickle=False)
        assert array.data == plain.getvalue()


@pytest.mark.parametrize("reports", [REPORTS - 1, 9])
def test_nothing_but_tensor_values_tells_how_many_reports_there_are(
    reports: int, answer: RecordDict, tmp_path: Path
) -> None:
    other = Mercy(tmp_path, reports)
    assert emptied(other.ask(other.request())) == emptied(answer)


def test_the_comparison_would_see_an_exact_count(answer: RecordDict) -> None:
    reply = read_answer(answer, Reply)
    assert isinstance(reply, Reply)
    told = [emptied(content_of(replace(reply, declared_weight=n))) for n in (REPORTS, REPORTS - 1)]
    assert told[0] != told[1]


def with_record(content: RecordDict) -> RecordDict:
    return RecordDict({**content, "metrics": MetricRecord({"loss": 0.25})})


def with_empty_record(content: RecordDict) -> RecordDict:
    return RecordDict({**content, "notes": ConfigRecord()})


def with_field(content: RecordDict) -> RecordDict:
    (name,) = content.config_records
    return RecordDict({**content, name: ConfigRecord({**content.config_records[name], "num-examples": REPORTS})})


def without_field(content: RecordDict) -> RecordDict:
    (name,) = content.config_records
    fields = dict(content.config_records[name])
    fields.popitem()
    return RecordDict({**content, name: ConfigRecord(fields)})


def with_wrong_record(content: RecordDict) -> RecordDict:
    (name,) = content.config_records
    return RecordDict({**content, name: MetricRecord({"loss": 0.25})})


def with_bool_for_text(content: RecordDict) -> RecordDict:
    (name,) = content.config_records
    return RecordDict({**content, name: ConfigRecord({**content.config_records[name], "site": True})})


SPOILED = [with_record, with_empty_record, with_field, without_field, with_wrong_record, with_bool_for_text]


@pytest.mark.parametrize("spoil", SPOILED)
def test_the_server_refuses_what_is_not_on_the_list(spoil: Callable[[RecordDict], RecordDict]) -> None:
    for content in (content_of(REPLY), content_of(Failure("site-000", 1, "data"))):
        read_answer(content, Reply)
        with pytest.raises(RefusedReply):
            read_answer(spoil(content), Reply)
    introduction = content_of(Hello("mercy", False, 40, 4))
    read_answer(introduction, Hello)
    with pytest.raises(RefusedReply):
        read_answer(spoil(introduction), Hello)


@pytest.mark.parametrize("spoil", SPOILED)
def test_the_hospital_refuses_requests_that_carry_more_or_less(
    spoil: Callable[[RecordDict], RecordDict], mercy: Mercy
) -> None:
    good = content_of(mercy.request())
    assert read_question(as_message(good), Request).labels == LABELS
    with pytest.raises(FederationError, match="no Request of this version"):
        read_question(as_message(spoil(good)), Request)
    assert read_answer(mercy.ask(spoil(good)), Reply) == Failure("", 0, "federation")


@pytest.mark.parametrize(
    ("field", "value"),
    [("index", 1.0), ("round", True), ("labels", "edema"), ("labels", [1, 2]), ("state.dropped", [1])],
)
def test_the_hospital_refuses_fields_of_another_type(field: str, value: object, mercy: Mercy) -> None:
    content = content_of(mercy.request())
    content["request"] = ConfigRecord({**content.config_records["request"], field: value})  # type: ignore[dict-item]
    with pytest.raises(FederationError):
        read_question(as_message(content), Request)


@pytest.mark.parametrize(
    ("field", "value"), [("epsilon", 1), ("round", 1.0), ("declared-weight", True), ("site", 3), ("events.steps", 6)]
)
def test_the_server_refuses_fields_of_another_type(field: str, value: object) -> None:
    content = content_of(REPLY)
    content["reply"] = ConfigRecord({**content.config_records["reply"], field: value})  # type: ignore[dict-item]
    with pytest.raises(RefusedReply, match=field):
        read_answer(content, Reply)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("events.sampling-rate", [0.1]),
        ("events.sampling-rate", [0.1, 1.5]),
        ("events.sampling-rate", [0.1, float("nan")]),
        ("events.noise-multiplier", [2.0, -1.0]),
        ("events.noise-multiplier", [2, 1]),
        ("events.steps", [6, -12]),
        ("events.steps", [6.0, 12.0]),
    ],
)
def test_the_server_refuses_charges_that_are_none(field: str, value: list[object]) -> None:
    content = content_of(REPLY)
    fields = dict(content.config_records["reply"])
    content["reply"] = ConfigRecord({**fields, field: value})  # type: ignore[dict-item]
    with pytest.raises(RefusedReply, match=r"charges|events"):
        read_answer(content, Reply)


@pytest.mark.parametrize(("rule", "order"), [(PLAN, 0), (MECHANISM, 0), (FILTER, 18)])
def test_the_rule_that_counts_the_charges_travels(rule: str, order: int) -> None:
    read = read_answer(content_of(replace(REPLY, rule=rule, order=order)), Reply)
    assert isinstance(read, Reply)
    assert read.account == Account(REPLY.events, rule, order)


@pytest.mark.parametrize(("rule", "order"), [("none", 0), (PLAN, 18), (FILTER, 0), (FILTER, 19), (FILTER, -2)])
def test_the_server_refuses_a_rule_that_is_none(rule: str, order: int) -> None:
    with pytest.raises(RefusedReply, match="rule that counts"):
        read_answer(content_of(replace(REPLY, rule=rule, order=order)), Reply)


@pytest.mark.parametrize("stype", ["numpy.ndarray", "torch.pickle"])
@pytest.mark.parametrize("data", [b"", b"junk", b"\x93NUMPY\x01\x00\xff\xff", b"PK\x03\x04", b"\x80\x04N."])
def test_bytes_that_are_no_tensor_are_a_refused_reply_and_never_unpickled(stype: str, data: bytes) -> None:
    content = content_of(REPLY)
    content["adapter"] = ArrayRecord({"head.bias": Array(dtype="float32", shape=(3,), stype=stype, data=data)})
    with pytest.raises(RefusedReply, match="no tensor"):
        read_answer(content, Reply)


def test_a_failure_is_a_site_a_round_and_a_known_code() -> None:
    for code in sorted(ERROR_CODES):
        assert read_answer(content_of(Failure("a", 3, code)), Reply) == Failure("a", 3, code)
    # Whatever else stands in it, on its way out it becomes "internal", and on its way in it is refused.
    content = content_of(Failure("a", 3, f"ValueError: {CANARY}"))
    assert read_answer(content, Reply) == Failure("a", 3, "internal")
    content["failure"] = ConfigRecord({"site": "a", "round": 3, "code": CANARY})
    with pytest.raises(RefusedReply) as caught:
        read_answer(content, Reply)
    assert CANARY not in str(caught.value)


def as_message(content: RecordDict) -> Message:
    return over_the_wire(posted(Message(content=content, message_type=MessageType.TRAIN, dst_node_id=10)))


def changed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {**ADAPTER, name: tensor}


def spoiled_at(value: float) -> dict[str, Tensor]:
    tensor = ADAPTER["head.weight"].clone()
    tensor[2, 3] = value
    return changed("head.weight", tensor)


@pytest.mark.parametrize(
    "adapter",
    [
        changed("head.weight", ADAPTER["head.weight"].T.contiguous()),
        changed("head.weight", ADAPTER["head.weight"].flatten()),
        changed("head.weight", ADAPTER["head.weight"].double()),
        changed("head.weight", ADAPTER["head.weight"].half()),
        changed("head.bias", torch.zeros(3, dtype=torch.int32)),
        changed("loss", torch.zeros(1)),
        {"head.weight": ADAPTER["head.weight"]},
        {},
        spoiled_at(float("nan")),
        spoiled_at(float("inf")),
        spoiled_at(float("-inf")),
    ],
    ids=["transposed", "flat", "float64", "float16", "int32", "extra", "missing", "empty", "nan", "inf", "-inf"],
)
def test_a_wrong_adapter_is_refused_and_its_sender_named(adapter: dict[str, Tensor]) -> None:
    arrived = read_answer(over_the_wire(as_message(content_of(replace(REPLY, adapter=adapter)))).content, Reply)
    assert isinstance(arrived, Reply)
    with pytest.raises(RefusedReply, match="site-007"):
        check_adapter(arrived.adapter, ADAPTER, "site-007")


def test_the_right_adapter_is_not_refused() -> None:
    check_adapter(ADAPTER, ADAPTER, "site-007")
    check_adapter({"x": torch.tensor([-0.0, 1e-45, 3.4e38])}, {"x": torch.zeros(3)}, "site-007")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40), st.booleans())
def test_tensors_travel_bit_for_bit(bits: list[int], transposed: bool) -> None:
    special = [0x80000000, 0x00000001, 0x807FFFFF, 0x7F800000, 0x7FC00001]  # -0.0, denormals, infinity, a NaN
    values = np.array([[*special, *bits]] * 2, dtype=np.uint32).view(np.float32)
    tensor = torch.from_numpy(values.copy())
    tensor = tensor.T if transposed else tensor
    content = RecordDict({"state": to_arrays({"x": tensor, "scalar": tensor[0, 0]})})
    arrived = from_arrays(as_message(content).content.array_records["state"])
    assert arrived["x"].shape == tensor.shape
    assert arrived["scalar"].shape == ()
    assert np.array_equal(arrived["x"].numpy().view(np.uint32), tensor.contiguous().numpy().view(np.uint32))


@given(st.floats(allow_nan=False), st.integers(0, 2**40), st.text(max_size=20))
def test_replies_travel_unchanged(epsilon: float, number: int, site: str) -> None:
    sent = Reply(site, number, ADAPTER, number, "0123456789abcdef", abs(epsilon), epsilon, EVENTS)
    arrived = read_answer(as_message(content_of(sent)).content, Reply)
    assert isinstance(arrived, Reply)
    assert replace(arrived, adapter={}) == replace(sent, adapter={})
    assert np.float64(arrived.epsilon).tobytes() == np.float64(epsilon).tobytes()
    assert all(torch.equal(arrived.adapter[name], ADAPTER[name]) for name in ADAPTER)


def test_arrived_tensors_are_writable_and_nobody_elses(answer: RecordDict) -> None:
    forget()
    first, second = (from_arrays(answer.array_records["adapter"]) for _ in range(2))
    first["head.bias"].add_(1.0)
    assert not torch.equal(first["head.bias"], second["head.bias"])
