"""The closed list of what may leave a hospital, and what a server may ask. Nothing else writes or reads Flower records.

What leaves (docs/privacy.md has it in words) is an answer of one of the types below, field by field: ``Reply`` or, in
its place, ``Failure``; ``Hello``; and under secure aggregation the answers of ``fedrad.secure.messages``. No loss,
score, gradient norm, label count, exact number of reports or exception text. The types are the list: a message's record
is named by its type and holds exactly its fields (``fedrad.secure.wire``); its tensors are in a record for each field
that holds some. Both ends check: what is not on the list is refused, whatever it holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedrad import errors
from fedrad.errors import FederationError, RefusedReply, SecureAggregationRefusal
from fedrad.federation.arrays import finite, from_arrays, to_arrays
from fedrad.federation.state_delta import StateDelta, nbytes
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

# Different plans that a site can have been charged for; more would take the server minutes to compose.
_MOST_EVENTS = 1024
ERROR_CODES = frozenset(
    kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FedradError)
)

IN_CLEAR = Inbox({})


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
        inbox: under secure aggregation, what the other hospitals sealed for this one; empty: the answer is in clear.
    """

    run: str
    site: str
    index: int
    round: int
    rounds: int
    labels: tuple[str, ...]
    directory: str
    state: StateDelta
    inbox: Inbox = IN_CLEAR


@dataclass(frozen=True)
class Reply:
    """What a hospital answers.

    Attributes:
        adapter: the tensors that the round trained, noised; none if ``masked`` is there.
        declared_weight: the declared shard size, a public statement.
        plan_id: names the privacy plan that was followed.
        noise: standard deviation of its noise in one step's mean gradient: noise multiplier * clip / divisor.
        epsilon: of everything in the site's ledger, at the run's delta.
        events: everything in the site's ledger, as the accountant sees it: public by the plan.
        masked: instead of the adapter, the same in fixed point under masks, numbers x 8 bytes, little-endian.
        rule, order: how the ledger counts them, as in `filter.Account`.
    """

    site: str
    round: int
    adapter: Mapping[str, Tensor]
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


@dataclass(frozen=True)
class StageRequest:
    """A stage of secure aggregation beside training, for one site; the fields are those of ``Request``. The body's type
    says which stage; the fourth, masking, is in the training request and its reply."""

    run: str
    site: str
    index: int
    round: int
    directory: str
    body: Body


Answer = Hello | Reply | Failure | Stage
Q = TypeVar("Q", Request, StageRequest)
A = TypeVar("A", Hello, Reply, KeyAdvert, SealedShares, Confirmation, Unmasking)
T = TypeVar("T")


def content_of(message: Request | StageRequest | Answer, made: Mapping[str, ArrayRecord] | None = None) -> RecordDict:
    """The records of a message: the only place where those that leave a hospital are made.

    Args:
        made: records of tensors that the caller has already, by name: hospitals mostly get the same ones.

    Raises:
        SecureAggregationRefusal: an adapter would leave both masked and in clear.
    """
    if isinstance(message, Failure) and message.code not in ERROR_CODES:
        message = Failure(message.site, message.round, "internal")
    if isinstance(message, Reply) and message.masked and message.adapter:
        raise SecureAggregationRefusal("an adapter must not leave both masked and in clear")
    flat = to_fields(message)
    tensors = {name: flat.pop(name) for name, value in list(flat.items()) if isinstance(value, Mapping)}
    arrays = {name: (made or {}).get(name) or to_arrays(value) for name, value in tensors.items()}
    return RecordDict({_record_name(type(message)): ConfigRecord(flat), **arrays})


def read_question(message: Message, kind: type[Q]) -> Q:
    """What the server asks.

    Raises:
        FederationError: it is no question of this kind, or it carries more.
        SecureAggregationRefusal: the terms of a sum would not protect.
    """
    try:
        return _read(message.content, kind)
    except RefusedReply:
        raise FederationError(f"the server's message is no {kind.__name__} of this version of fedrad") from None


def read_answer(content: RecordDict, kind: type[A]) -> A | Failure:
    """What a hospital answers, or that it failed.

    Raises:
        RefusedReply: a record or field is missing, is of another type, or is not on the closed list.
    """
    if "failure" in content:
        failure = _read(content, Failure)
        if failure.code not in ERROR_CODES:
            raise RefusedReply("the failure's code is none of fedrad's")
        return failure
    answer = _read(content, kind)
    if isinstance(answer, Reply):
        _check_reply(answer)
    return answer


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


def _record_name(kind: type) -> str:
    return re.sub("(?<!^)([A-Z])", r"-\1", kind.__name__).lower()


def _read(content: RecordDict, kind: type[T]) -> T:
    """The message of this kind in these records, which hold nothing else."""
    name = _record_name(kind)
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise RefusedReply(f"the message holds the records {sorted(content)}, and none with the fields of a {name}")
    flat: dict[str, object] = dict(record)
    for other, arrays in content.items():
        if other != name:
            if not isinstance(arrays, ArrayRecord) or other in flat:
                raise RefusedReply(f"the record {other} in a message is not on the list, or must hold tensors")
            flat[other] = _tensors(arrays, other)
    return from_fields(kind, flat)


def _tensors(record: ArrayRecord, name: str) -> dict[str, Tensor]:
    try:
        return from_arrays(record)
    except Exception:  # bytes from elsewhere, which numpy refuses in many ways
        raise RefusedReply(f"the record {name} in a message holds bytes that are no tensor") from None


def _check_reply(reply: Reply) -> None:
    """The charges and the rule that counts them, which the server's own figure comes from; and one adapter only."""
    if reply.masked and reply.adapter:
        raise RefusedReply("a hospital's message holds its adapter both masked and in clear")
    if reply.rule not in RULES or reply.order not in (ORDERS if reply.rule == FILTER else (0,)):
        raise RefusedReply("the rule that counts the charges in a hospital's message is unknown")
    in_range = (0 <= e.sampling_rate <= 1 and e.noise_multiplier >= 0 and e.steps >= 0 for e in reply.events)
    if len(reply.events) > _MOST_EVENTS or not all(in_range):
        raise RefusedReply("the charges in a hospital's message are out of range or too many")
