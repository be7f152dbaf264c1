"""The closed list of what may leave a hospital, and what a server may ask. Nothing else writes or reads Flower records.

What leaves (decision 5): the adapter's tensors, the site's name, the round, the declared weight, the plan's id, the
standard deviation of its noise, the epsilon booked, the charges it comes from (sampling rate, noise multiplier and
steps: public by the plan) and the rule that counts them; or, instead of an adapter, an error's code. A hospital
introduces itself by name, declared size, the rank of its matrices and a digest of its labels' names. Under secure
aggregation the adapter leaves under masks, and beside it, stage by stage, public keys, sealed shares, signatures and
revealed shares. No loss, score, gradient norm, label count, exact number of reports or exception text. Both ends check:
a field that is not on the list is refused, whatever it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedrad import errors
from fedrad.errors import FederationError, RefusedReply, SecureAggregationRefusal
from fedrad.federation.arrays import finite, from_arrays, to_arrays
from fedrad.federation.delivery import Delivery, nbytes
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import FILTER, ORDERS, PLAN, RULES, Account
from fedrad.secure.messages import (
    Confirmation,
    Inbox,
    KeyAdvert,
    Roster,
    SealedShares,
    Survivors,
    Unmasking,
    UnmaskRequest,
)
from fedrad.secure.setup import RoundSetup
from fedrad.secure.wire import from_fields, to_fields

T = TypeVar("T")

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
    "rule": str,
    "order": int,
}
FAILURE_FIELDS: dict[str, type] = {"site": str, "round": int, "code": str}
HELLO_FIELDS: dict[str, type] = {"site": str, "simulated": bool, "declared-weight": int, "rank": int, "labels": str}
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
# Beside training, under secure aggregation: what stage, at whom. The fields of the stage itself are those of its type.
STAGE_FIELDS: dict[str, type] = {
    "stage": str,
    "run": str,
    "site": str,
    "index": int,
    "round": int,
    "directory": str,
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
        inbox: under secure aggregation, what the other hospitals sealed for this one; None: the answer is in clear.
    """

    run: str
    site: str
    index: int
    round: int
    rounds: int
    labels: tuple[str, ...]
    directory: str
    state: Delivery
    inbox: Inbox | None = None


@dataclass(frozen=True)
class Reply:
    """What a hospital answers.

    Attributes:
        adapter: the tensors that the round trained, noised; none if ``masked`` is there.
        declared_weight: the declared shard size, a public statement.
        plan_id: names the privacy plan that was followed.
        noise: standard deviation of its noise in one step's mean gradient: noise multiplier * clip / divisor.
        epsilon: of everything in the site's ledger, at the run's delta.
        events: everything in the site's ledger, as the accountant sees it.
        rule, order: how the ledger counts them, as in `filter.Account`.
        masked: instead of the adapter, the same in fixed point under masks, numbers x 8 bytes, little-endian.
    """

    site: str
    round: int
    adapter: dict[str, Tensor]
    declared_weight: int
    plan_id: str
    noise: float
    epsilon: float
    events: tuple[Event, ...]
    masked: bytes = b""
    rule: str = PLAN
    order: int = 0

    @property
    def account(self) -> Account:
        """What ``epsilon`` is computed from."""
        return Account(self.events, self.rule, self.order)

    @property
    def nbytes(self) -> int:
        """Of what was trained, as it travelled."""
        return len(self.masked) + nbytes(self.adapter)


@dataclass(frozen=True)
class Failure:
    """An error at a hospital: its code, never its text."""

    site: str
    round: int
    code: str


@dataclass(frozen=True)
class Hello:
    """A node's introduction. A simulated node stands for any hospital; a real one names itself.

    Attributes:
        rank: of its LoRA matrices; 0: the run's.
        labels: ``labels_digest`` of those that its node configuration states; empty, if simulated.
    """

    site: str
    simulated: bool
    declared_weight: int
    rank: int
    labels: str = ""


def labels_digest(labels: Sequence[str]) -> str:
    """16 hexadecimal digits of names and order."""
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Opening:
    """The first stage of secure aggregation, server to hospital.

    Attributes:
        setup: the terms of the round's sum.
        noise_multiplier: of the sum, where hospitals share its noise; 0: each adds all of its own.
        digest: of the whole state that the training request will bring, the same for all hospitals.
    """

    setup: RoundSetup
    noise_multiplier: float
    digest: str


Body = Opening | Roster | Survivors | UnmaskRequest
Stage = KeyAdvert | SealedShares | Confirmation | Unmasking
# For each stage what is asked and what is answered; masking, the fourth, is in the training request and its reply.
STAGES: dict[str, tuple[type[Body], type[Stage]]] = {
    "advertise": (Opening, KeyAdvert),
    "share": (Roster, SealedShares),
    "confirm": (Survivors, Confirmation),
    "unmask": (UnmaskRequest, Unmasking),
}


@dataclass(frozen=True)
class StageRequest:
    """A stage of secure aggregation for one site; the fields are those of ``Request``."""

    run: str
    site: str
    index: int
    round: int
    directory: str
    body: Body


def request_content(request: Request, state: ArrayRecord | None = None) -> RecordDict:
    """The records of a request.

    Args:
        state: the request's tensors, where the caller has them as a record already: hospitals mostly get the same.
    """
    inbox = {} if request.inbox is None else {"inbox": _plain(request.inbox)}
    return RecordDict(
        {
            **inbox,
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
        if set(message.content) - {"inbox"} != {"state", "request"}:
            raise RefusedReply("other records than state, request and inbox")
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
            inbox=from_fields(Inbox, _record(message.content, "inbox")) if "inbox" in message.content else None,
        )
    except RefusedReply:
        raise FederationError("the server's message is not a training request of this version of fedrad") from None


def reply_content(answer: Reply | Failure) -> RecordDict:
    """The records that leave the hospital. The only place where they are made."""
    if isinstance(answer, Failure):
        code = answer.code if answer.code in ERROR_CODES else "internal"
        return RecordDict({"failure": ConfigRecord({"site": answer.site, "round": answer.round, "code": code})})
    if answer.masked and answer.adapter:
        raise SecureAggregationRefusal("an adapter must not leave both masked and in clear")
    sent = {"masked": _masked_array(answer.masked)} if answer.masked else {"adapter": to_arrays(answer.adapter)}
    return RecordDict(
        {
            **sent,
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
                    "rule": answer.rule,
                    "order": answer.order,
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
        return _failure(content)
    if names not in ({"adapter", "reply"}, {"masked", "reply"}):
        raise RefusedReply(
            f"the reply holds the records {sorted(names)}; only adapter (or masked) and reply may leave a hospital"
        )
    fields = _checked(content, "reply", REPLY_FIELDS)
    if fields["rule"] not in RULES or fields["order"] not in (ORDERS if fields["rule"] == FILTER else (0,)):
        raise RefusedReply("the rule that counts the charges in a hospital's message is unknown")
    return Reply(
        site=fields["site"],
        round=fields["round"],
        adapter=_tensors(content, "adapter") if "adapter" in names else {},
        declared_weight=fields["declared-weight"],
        plan_id=fields["plan-id"],
        noise=fields["noise"],
        epsilon=fields["epsilon"],
        events=_events(fields),
        masked=_masked(content) if "masked" in names else b"",
        rule=fields["rule"],
        order=fields["order"],
    )


def stage_content(request: StageRequest) -> RecordDict:
    """The records of a stage of secure aggregation."""
    stage = next(name for name, (asked, _) in STAGES.items() if isinstance(request.body, asked))
    where = ConfigRecord(
        {
            "stage": stage,
            "run": request.run,
            "site": request.site,
            "index": request.index,
            "round": request.round,
            "directory": request.directory,
        }
    )
    return RecordDict({"stage": where, "body": _plain(request.body)})


def read_stage(message: Message) -> StageRequest:
    """The stage in a message.

    Raises:
        FederationError: it is none, or it carries more.
        SecureAggregationRefusal: its terms would not protect.
    """
    try:
        if set(message.content) != {"stage", "body"}:
            raise RefusedReply("other records than stage and body")
        fields = _checked(message.content, "stage", STAGE_FIELDS)
        if fields["stage"] not in STAGES:
            raise RefusedReply("a stage that does not exist")
        body = from_fields(STAGES[fields.pop("stage")][0], _record(message.content, "body"))
        return StageRequest(**fields, body=body)
    except RefusedReply:
        raise FederationError("the server's message is no stage of this version's secure aggregation") from None


def stage_answer_content(answer: Stage) -> RecordDict:
    """The records in which a stage's answer leaves the hospital."""
    stage = next(name for name, (_, answered) in STAGES.items() if isinstance(answer, answered))
    return RecordDict({stage: _plain(answer)})


def read_stage_answer(content: RecordDict, kind: type[T]) -> T | Failure:
    """The answer of this kind in these records, or the failure.

    Raises:
        RefusedReply: it is neither, or it carries more.
    """
    if set(content) == {"failure"}:
        return _failure(content)
    stage = next(name for name, (_, answered) in STAGES.items() if kind is answered)
    if set(content) != {stage}:
        raise RefusedReply(f"the answer holds the records {sorted(content)}; only {stage} was asked for")
    return from_fields(kind, _record(content, stage))


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
                    "labels": hello.labels,
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
    return Hello(fields["site"], fields["simulated"], fields["declared-weight"], fields["rank"], fields["labels"])


def check_adapter(
    adapter: Mapping[str, Tensor], expected: Mapping[str, Tensor], sender: str, *, must_be_finite: bool = True
) -> None:
    """Refuses an adapter whose names, shapes, dtypes or values are not as expected.

    Args:
        must_be_finite: refuse it also for a number that is not finite.

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
        if must_be_finite and not finite(tensor):
            raise RefusedReply(f"{sender}: {name} holds values that are not finite")


def _plain(record: object) -> ConfigRecord:
    return ConfigRecord({**to_fields(record)})


def _failure(content: RecordDict) -> Failure:
    fields = _checked(content, "failure", FAILURE_FIELDS)
    if fields["code"] not in ERROR_CODES:
        raise RefusedReply("the failure's code is none of fedrad's")
    return Failure(site=fields["site"], round=fields["round"], code=fields["code"])


def _record(content: RecordDict, name: str) -> ConfigRecord:
    record = content[name]
    if not isinstance(record, ConfigRecord):
        raise RefusedReply(f"the record {name} in a message must hold fields")
    return record


def _checked(content: RecordDict, name: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """The fields of a configuration record, after checking that they are exactly these and of these types."""
    record = _record(content, name)
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


def _masked_array(masked: bytes) -> ArrayRecord:
    return ArrayRecord({"vector": Array(np.frombuffer(masked, "<u8"))})


def _masked(content: RecordDict) -> bytes:
    """The bytes of a masked adapter, checked to be one vector of whole numbers of 64 bits."""
    record = content["masked"]
    if not isinstance(record, ArrayRecord) or set(record) != {"vector"}:
        raise RefusedReply("the record masked in a message must hold one vector")
    try:
        vector = record["vector"].numpy()
    except Exception:  # bytes from elsewhere, which numpy refuses in many ways
        raise RefusedReply("the record masked in a message holds bytes that are no array") from None
    if vector.ndim != 1 or vector.dtype != np.uint64 or not len(vector):
        raise RefusedReply("a masked adapter must be a vector of whole numbers of 64 bits")
    return vector.astype("<u8").tobytes()


def _tensors(content: RecordDict, name: str) -> dict[str, Tensor]:
    record = content[name]
    if not isinstance(record, ArrayRecord):
        raise RefusedReply(f"the record {name} in a message must hold tensors")
    try:
        return from_arrays(record)
    except Exception:  # bytes from elsewhere, which numpy refuses in many ways
        raise RefusedReply(f"the record {name} in a message holds bytes that are no tensor") from None
