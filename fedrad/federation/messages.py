"""The closed list of what may leave a hospital, and what a server may ask. Nothing else writes or reads Flower records.

What leaves (decision 5): the adapter's tensors, the site's name, the round, the declared weight, the plan's id, the
standard deviation of its noise, the epsilon booked and the charges it comes from (sampling rate, noise multiplier and
steps: public by the plan); or, instead of an adapter, an error's code. No loss, score, gradient norm, label count,
exact number of reports or exception text. Both ends check: a field that is not on the list is refused, whatever it
holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedrad import errors
from fedrad.errors import FederationError, RefusedReply
from fedrad.federation.delivery import Delivery
from fedrad.privacy.accounting import Event

# Different plans that a site can have been charged for; more would take the server minutes to compose.
_MOST_EVENTS = 1024

# Record names and the exact keys of each, with their types. This table is the closed list.
REPLY_FIELDS: dict[str, type] = {
    "site": str,
    "round": int,
    "declared-weight": int,
    "plan-id": str,
    "noise": float,
    "epsilon": float,
    "rates": list,
    "noise-multipliers": list,
    "steps": list,
}
FAILURE_FIELDS: dict[str, type] = {"site": str, "round": int, "code": str}
HELLO_FIELDS: dict[str, type] = {"site": str, "simulated": bool, "declared-weight": int, "rank": int}
ERROR_CODES = frozenset(
    kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FedradError)
)
# What may come in.
REQUEST_FIELDS: dict[str, type] = {
    "run": str,
    "site": str,
    "index": int,
    "round": int,
    "rounds": int,
    "labels": list,
    "directory": str,
    "base": str,
    "digest": str,
    "dropped": list,
}


@dataclass(frozen=True)
class Request:
    """What the server asks of one site in one round. Public, and a proposal: the hospital may refuse it.

    Attributes:
        run: names the run.
        site: which hospital is meant; a simulated node serves several.
        index: the number of a simulated hospital, -1 for a real one.
        round: counted from 1, of ``rounds``.
        labels: the label names, in the head's order.
        directory: where a simulated hospital keeps its ledger; empty for a real one, which decides for itself.
        state: all public tensors of the run, the frozen ones included, as they travel: what the site lacks.
    """

    run: str
    site: str
    index: int
    round: int
    rounds: int
    labels: tuple[str, ...]
    directory: str
    state: Delivery


@dataclass(frozen=True)
class Reply:
    """What a hospital answers.

    Attributes:
        adapter: the tensors that the round trained, noised.
        declared_weight: the declared shard size, a public statement.
        plan_id: names the privacy plan that was followed.
        noise: standard deviation of the noise in one step's mean gradient: noise multiplier * clip / divisor.
        epsilon: of everything in the site's ledger, at the run's delta.
        events: everything in the site's ledger, as the accountant sees it.
    """

    site: str
    round: int
    adapter: dict[str, Tensor]
    declared_weight: int
    plan_id: str
    noise: float
    epsilon: float
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Failure:
    """An error at a hospital: its code, never its text."""

    site: str
    round: int
    code: str


@dataclass(frozen=True)
class Hello:
    """A node's introduction. A simulated node stands for any hospital; a real one names itself. ``rank`` is that of its
    LoRA matrices; 0: the run's."""

    site: str
    simulated: bool
    declared_weight: int
    rank: int


def request_content(request: Request, state: ArrayRecord | None = None) -> RecordDict:
    """The records of a request.

    Args:
        state: the request's tensors, where the caller has them as a record already: hospitals mostly get the same.
    """
    return RecordDict(
        {
            "state": to_arrays(request.state.tensors) if state is None else state,
            "request": ConfigRecord(
                {
                    "run": request.run,
                    "site": request.site,
                    "index": request.index,
                    "round": request.round,
                    "rounds": request.rounds,
                    "labels": list(request.labels),
                    "directory": request.directory,
                    "base": request.state.base,
                    "digest": request.state.digest,
                    "dropped": list(request.state.dropped),
                }
            ),
        }
    )


def read_request(message: Message) -> Request:
    """The request in a message.

    Raises:
        FederationError: it is not one, or it carries more.
    """
    try:
        if set(message.content) != {"state", "request"}:
            raise RefusedReply("other records than state and request")
        fields = _checked(message.content, "request", REQUEST_FIELDS)
        if not all(isinstance(name, str) for name in [*fields["labels"], *fields["dropped"]]):
            raise RefusedReply("names that are no text")
        return Request(
            run=fields["run"],
            site=fields["site"],
            index=fields["index"],
            round=fields["round"],
            rounds=fields["rounds"],
            labels=tuple(fields["labels"]),
            directory=fields["directory"],
            state=Delivery(
                base=fields["base"],
                digest=fields["digest"],
                tensors=_tensors(message.content, "state"),
                dropped=tuple(fields["dropped"]),
            ),
        )
    except RefusedReply:
        raise FederationError("the server's message is not a training request of this version of fedrad") from None


def reply_content(answer: Reply | Failure) -> RecordDict:
    """The records that leave the hospital. The only place where they are made."""
    if isinstance(answer, Failure):
        code = answer.code if answer.code in ERROR_CODES else "internal"
        return RecordDict({"failure": ConfigRecord({"site": answer.site, "round": answer.round, "code": code})})
    return RecordDict(
        {
            "adapter": to_arrays(answer.adapter),
            "reply": ConfigRecord(
                {
                    "site": answer.site,
                    "round": answer.round,
                    "declared-weight": answer.declared_weight,
                    "plan-id": answer.plan_id,
                    "noise": answer.noise,
                    "epsilon": answer.epsilon,
                    "rates": [event.sampling_rate for event in answer.events],
                    "noise-multipliers": [event.noise_multiplier for event in answer.events],
                    "steps": [event.steps for event in answer.events],
                }
            ),
        }
    )


def read_reply(content: RecordDict) -> Reply | Failure:
    """The answer in these records.

    Raises:
        RefusedReply: a record or field is missing, is of another type, or is not on the closed list.
    """
    names = set(content)
    if names == {"failure"}:
        fields = _checked(content, "failure", FAILURE_FIELDS)
        if fields["code"] not in ERROR_CODES:
            raise RefusedReply("the failure's code is none of fedrad's")
        return Failure(site=fields["site"], round=fields["round"], code=fields["code"])
    if names != {"adapter", "reply"}:
        raise RefusedReply(f"the reply holds the records {sorted(names)}; only adapter and reply may leave a hospital")
    fields = _checked(content, "reply", REPLY_FIELDS)
    return Reply(
        site=fields["site"],
        round=fields["round"],
        adapter=_tensors(content, "adapter"),
        declared_weight=fields["declared-weight"],
        plan_id=fields["plan-id"],
        noise=fields["noise"],
        epsilon=fields["epsilon"],
        events=_events(fields),
    )


def hello_content(hello: Hello) -> RecordDict:
    """The records of a node's introduction."""
    return RecordDict(
        {
            "hello": ConfigRecord(
                {
                    "site": hello.site,
                    "simulated": hello.simulated,
                    "declared-weight": hello.declared_weight,
                    "rank": hello.rank,
                }
            )
        }
    )


def read_hello(content: RecordDict) -> Hello:
    """The introduction in these records.

    Raises:
        RefusedReply: it is not one, or it carries more.
    """
    if set(content) != {"hello"}:
        raise RefusedReply("a node introduced itself with records that are not on the list")
    fields = _checked(content, "hello", HELLO_FIELDS)
    return Hello(fields["site"], fields["simulated"], fields["declared-weight"], fields["rank"])


def check_adapter(adapter: Mapping[str, Tensor], expected: Mapping[str, Tensor], sender: str) -> None:
    """Refuses an adapter whose names, shapes, dtypes or values are not as expected.

    Raises:
        RefusedReply: naming the sender and the first tensor that is wrong.
    """
    if set(adapter) != set(expected):
        odd = sorted(set(adapter) ^ set(expected))
        raise RefusedReply(f"{sender}: the adapter's tensors are not the expected ones; they differ in {odd[:3]}")
    for name, tensor in adapter.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise RefusedReply(
                f"{sender}: {name} is {tuple(tensor.shape)} {tensor.dtype}, expected"
                f" {tuple(expected[name].shape)} {expected[name].dtype}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise RefusedReply(f"{sender}: {name} holds values that are not finite")


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as a Flower record, bit for bit, sorted by name."""
    return ArrayRecord({name: tensors[name].detach().contiguous() for name in sorted(tensors)})


def from_arrays(arrays: ArrayRecord) -> dict[str, Tensor]:
    """A Flower record as tensors of their own memory."""
    return {name: tensor.clone() for name, tensor in arrays.to_torch_state_dict().items()}


def _checked(content: RecordDict, name: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """The fields of a configuration record, after checking that they are exactly these and of these types."""
    record = content[name]
    if not isinstance(record, ConfigRecord):
        raise RefusedReply(f"the record {name} in a message must hold fields")
    if set(record) != set(fields):
        odd = sorted(set(record) ^ set(fields))
        raise RefusedReply(f"a hospital's message must hold exactly {sorted(fields)}; it differs in {odd[:3]}")
    for name, kind in fields.items():
        if type(record[name]) is not kind:
            raise RefusedReply(f"{name} in a hospital's message must be {kind.__name__}")
    return dict(record)


def _events(fields: Mapping[str, Any]) -> tuple[Event, ...]:
    """The charges of a reply, checked: they are what the server's own figure comes from."""
    rates, noises, steps = fields["rates"], fields["noise-multipliers"], fields["steps"]
    kinds = ((rates, float), (noises, float), (steps, int))
    if len(rates) != len(noises) or len(rates) != len(steps) or len(rates) > _MOST_EVENTS:
        raise RefusedReply("the charges in a hospital's message are incomplete or too many")
    if any(type(value) is not kind for values, kind in kinds for value in values):
        raise RefusedReply("the charges in a hospital's message are no numbers")
    events = tuple(Event(*each) for each in zip(rates, noises, steps, strict=True))
    if not all(0 <= e.sampling_rate <= 1 and e.noise_multiplier >= 0 and e.steps >= 0 for e in events):
        raise RefusedReply("the charges in a hospital's message are out of range")
    return events


def _tensors(content: RecordDict, name: str) -> dict[str, Tensor]:
    record = content[name]
    if not isinstance(record, ArrayRecord):
        raise RefusedReply(f"the record {name} in a message must hold tensors")
    try:
        return from_arrays(record)
    except Exception:  # bytes from elsewhere, which numpy refuses in many ways
        raise RefusedReply(f"the record {name} in a message holds bytes that are no tensor") from None
