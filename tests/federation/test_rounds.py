"""Which replies count, in which order, and what becomes of the rest. Hospitals are played by functions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import FedradError, QuorumLost
from fedrad.federation.arrays import from_arrays, to_arrays
from fedrad.federation.messages import Failure, Reply, Request, content_of, read_question
from fedrad.federation.participants import Federation, Participant, public_weights
from fedrad.federation.rounds import RoundOutcome, Rounds
from fedrad.federation.state_delta import PublicStore, nbytes
from fedrad.model.adapter import LoRASpec
from fedrad.privacy.accounting import Event, epsilon
from fedrad.settings import Strategy as Settings
from strategies.fedavg import FedAvg
from tests.grid import CANARY, over_the_wire, posted

# Three sites on two nodes: site-000 and site-002 share one.
NODES = {"site-000": 10, "site-001": 11, "site-002": 10}
DECLARED = {"site-000": 10, "site-001": 30, "site-002": 20}
STATE = {"frozen": torch.ones(2), "head.bias": torch.zeros(4), "head.weight": torch.zeros(3, 4)}
EXPECTED = {name: tensor for name, tensor in STATE.items() if name != "frozen"}
Answer = Callable[[Request], RecordDict | Error | None]


def adapter_of(site: str, round: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * round + int(site[-3:]))
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in EXPECTED.items()}


DELTA = 1e-5


def charges(steps: int) -> tuple[Event, ...]:
    return (Event(0.1, 2.0, steps),)


def spent(steps: int) -> float:
    return epsilon(charges(steps), DELTA)


def good(request: Request) -> Reply:
    site = request.site
    return Reply(
        site=site,
        round=request.round,
        adapter=adapter_of(site, request.round),
        declared_weight=DECLARED[site],
        plan_id="0123456789abcdef",
        noise=0.1 * DECLARED[site],
        epsilon=spent(request.round),
        events=charges(request.round),
    )


def answers(request: Request) -> RecordDict:
    return content_of(good(request))


def made(
    quorum: int = 3, weights: str = "uniform", rounds: int = 2, asked: int = 3, seed: int = 0
) -> tuple[Rounds, list[RoundOutcome]]:
    hospitals = tuple(
        Participant(site, NODES[site], int(site[-1]), DECLARED[site], rank=2, delta=DELTA) for site in sorted(NODES)
    )
    experiment = Experiment.from_flat(
        {
            "sites.count": 3,
            "sites.fraction": asked / 3,
            "sites.quorum": quorum,
            "strategy.weights": weights,
            "train.rounds": rounds,
            "train.seed": seed,
        }
    )
    federation = Federation(
        run="1",
        experiment=experiment,
        labels=("a", "b", "c"),
        hospitals=hospitals,
        directory="/runs/1",
        trainable=frozenset(EXPECTED),
        lora=LoRASpec(rank=2, alpha=4.0, targets=("query",)),
    )
    made = Rounds(FedAvg(Settings()), federation, STATE)
    return made, made.outcomes


def received(store: PublicStore, request: Request) -> dict[str, Tensor]:
    """As a hospital does it."""
    state = store.receive(request.state)
    store.keep(request.state.digest, state)
    return state


class Played:
    """A grid whose hospitals are functions by site; ``None`` is silence. Remembers who was asked."""

    def __init__(self, behaviour: dict[str, Answer] | None = None, shuffle: int | None = None) -> None:
        self.behaviour = behaviour or {}
        self.random = None if shuffle is None else random.Random(shuffle)
        self.asked: list[list[str]] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies, asked = [], []
        for message in map(posted, messages):
            request = read_question(over_the_wire(message), Request)
            asked.append(request.site)
            answer = self.behaviour.get(request.site, answers)(request)
            if answer is not None:
                reply = posted(Message(answer, reply_to=message))
                if isinstance(answer, Error):  # such errors come from the SuperLink, node 1
                    reply.metadata.__dict__["_src_node_id"] = 1
                replies.append(over_the_wire(reply))
        if asked:
            self.asked.append(asked)
        if self.random:
            self.random.shuffle(replies)
        return replies


def run(strategy: Rounds, grid: Played, rounds: int = 1) -> None:
    strategy.start(grid, to_arrays(STATE), num_rounds=rounds)  # type: ignore[arg-type]


def bits(state: dict[str, Tensor]) -> bytes:
    return b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(state.items()))


def test_everybody_is_asked_for_what_is_theirs() -> None:
    strategy, _ = made()
    questions = list(strategy.configure_train(2, to_arrays(STATE), ConfigRecord(), None))  # type: ignore[arg-type]
    assert [
        (m.metadata.dst_node_id, read_question(m, Request).site, read_question(m, Request).index) for m in questions
    ] == [
        (10, "site-000", 0),
        (11, "site-001", 1),
        (10, "site-002", 2),
    ]
    request = read_question(questions[1], Request)
    assert (request.run, request.round, request.rounds, request.directory) == ("1", 2, 2, "/runs/1")
    assert bits(dict(request.state.tensors)) == bits(STATE)
    assert (request.state.base, request.state.dropped) == ("", ())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**31), st.sampled_from(["uniform", "declared"]))
def test_the_order_of_arrival_does_not_change_a_bit(seed: int, weights: str) -> None:
    (straight, told), (shuffled, retold) = made(weights=weights), made(weights=weights)
    run(straight, Played(), rounds=2)
    run(shuffled, Played(shuffle=seed), rounds=2)
    assert bits(straight.state) == bits(shuffled.state)
    assert [r.site for outcome in retold for r in outcome.replies] == sorted(NODES) * 2
    assert straight.budget == shuffled.budget
    assert told[0].absent == retold[0].absent == {}


def test_two_sites_on_one_node_both_count_and_frozen_tensors_stay() -> None:
    strategy, outcomes = made()
    run(strategy, Played())
    assert [reply.site for reply in outcomes[0].replies] == sorted(NODES)
    mean = sum(adapter_of(site)["head.weight"].double() for site in NODES) / 3
    torch.testing.assert_close(strategy.state["head.weight"].double(), mean, rtol=1e-6, atol=1e-6)
    assert torch.equal(strategy.state["frozen"], STATE["frozen"])
    assert strategy.budget.booked == dict.fromkeys(sorted(NODES), spent(1))


def test_declared_weights_are_those_of_the_introduction() -> None:
    strategy, _ = made(weights="declared")
    run(strategy, Played())
    mean = sum(DECLARED[site] / 60 * adapter_of(site)["head.weight"].double() for site in NODES)
    torch.testing.assert_close(strategy.state["head.weight"].double(), mean, rtol=1e-6, atol=1e-6)


def altered(**changes: object) -> Answer:
    return lambda request: content_of(replace(good(request), **changes))  # type: ignore[arg-type]


def with_value(value: float) -> Answer:
    def answer(request: Request) -> RecordDict:
        adapter = adapter_of(request.site)
        adapter["head.weight"][1, 2] = value
        return content_of(replace(good(request), adapter=adapter))

    return answer


def with_loss(request: Request) -> RecordDict:
    return RecordDict({**answers(request), "metrics": MetricRecord({"loss": 0.25})})


def with_junk(request: Request) -> RecordDict:
    junk = ArrayRecord({"head.bias": Array(dtype="float32", shape=(4,), stype="numpy.ndarray", data=b"junk")})
    return RecordDict({**answers(request), "adapter": junk})


def with_fields_for_tensors(request: Request) -> RecordDict:
    return RecordDict({**answers(request), "adapter": ConfigRecord({"head.bias": 0.0})})


def failed(code: str) -> Answer:
    return lambda request: content_of(Failure(request.site, request.round, code))


BAD: dict[str, tuple[Answer, str]] = {
    "nan": (with_value(float("nan")), "not finite"),
    "inf": (with_value(float("inf")), "not finite"),
    "shape": (altered(adapter={"head.bias": torch.zeros(4), "head.weight": torch.zeros(4, 3)}), "expected"),
    "missing": (altered(adapter={"head.bias": torch.zeros(4)}), "head.weight"),
    "loss": (with_loss, "metrics"),
    "junk": (with_junk, "no tensor"),
    "fields": (with_fields_for_tensors, "tensors"),
    "old round": (altered(round=0), "answers round 0 in round 1"),
    "next round": (altered(round=2), "answers round 2 in round 1"),
    "other site": (altered(site="site-000"), "not asked"),
    "stranger": (altered(site="site-099"), "not asked"),
    "less than its charges": (altered(epsilon=0.5), "its charges compose to"),
    "more than its charges": (altered(epsilon=50.0), "its charges compose to"),
    "no charges": (altered(events=()), "its charges compose to"),
    "charges out of range": (altered(events=(Event(1.5, 2.0, 1),)), "out of range"),
    "no epsilon": (altered(epsilon=math.nan), "nan"),
    "negative epsilon": (altered(epsilon=-1.0), "-1"),
    "negative weight": (altered(declared_weight=-30), "-30"),
    "other weight": (altered(declared_weight=31), "31"),
    "failure": (failed("data"), "data (its reports can't be read)"),
    "nameless failure": (lambda r: content_of(Failure("", 0, "config")), "config"),
    "flower error": (lambda r: Error(code=3, reason=f"ValueError: {CANARY}"), "Flower error code 3"),
    "silence": (lambda r: None, "no reply within the time limit"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reply_is_left_out_if_the_quorum_allows(kind: str) -> None:
    answer, says = BAD[kind]
    strategy, outcomes = made(quorum=2)
    run(strategy, Played({"site-001": answer}))
    assert [reply.site for reply in outcomes[0].replies] == ["site-000", "site-002"]
    assert set(outcomes[0].absent) == {"site-001"}
    assert says in outcomes[0].absent["site-001"]
    assert CANARY not in outcomes[0].absent["site-001"]
    mean = sum(adapter_of(site)["head.weight"].double() for site in ("site-000", "site-002")) / 2
    torch.testing.assert_close(strategy.state["head.weight"].double(), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", BAD)
def test_and_ends_the_run_if_it_does_not(kind: str) -> None:
    answer, says = BAD[kind]
    strategy, outcomes = made(quorum=3)
    with pytest.raises(QuorumLost, match=r"round 1: 2 of 3 hospitals gave a valid reply, 3 are needed") as lost:
        run(strategy, Played({"site-001": answer}))
    assert "site-001: " in str(lost.value)
    assert says in str(lost.value)
    assert CANARY not in str(lost.value)
    assert outcomes == []
    assert bits(strategy.state) == bits(STATE)


@pytest.mark.parametrize("quorum", [0, 1, 3])
def test_without_a_valid_reply_no_run_succeeds(quorum: int) -> None:
    strategy, _ = made(quorum=quorum)
    behaviour: dict[str, Answer] = {
        "site-000": failed("data"),
        "site-001": with_value(float("nan")),
        "site-002": lambda request: Error(code=3, reason="gone"),
    }
    with pytest.raises(QuorumLost) as lost:
        run(strategy, Played(behaviour), rounds=2)
    for said in ("site-000: data", "site-001: ", "not finite", "site-002: Flower error code 3"):
        assert said in str(lost.value)


def test_errors_on_a_shared_node_are_put_down_to_the_right_site() -> None:
    """The SuperLink's own errors name no node of ours, and a node may serve several sites."""
    strategy, outcomes = made(quorum=1)
    run(strategy, Played({"site-002": lambda r: Error(code=3, reason="gone"), "site-001": lambda r: None}, shuffle=4))
    assert [reply.site for reply in outcomes[0].replies] == ["site-000"]
    assert set(outcomes[0].absent) == {"site-001", "site-002"}
    assert "Flower error" in outcomes[0].absent["site-002"]


def test_an_exhausted_site_is_not_asked_again() -> None:
    strategy, outcomes = made(quorum=2, rounds=3)
    grid = Played({"site-001": lambda r: answers(r) if r.round == 1 else failed("budget-exhausted")(r)})
    run(strategy, grid, rounds=3)
    assert grid.asked == [sorted(NODES), sorted(NODES), ["site-000", "site-002"]]
    assert "budget-exhausted" in outcomes[1].absent["site-001"]
    assert "used up" in outcomes[2].absent["site-001"]  # the round still says so
    assert strategy.budget.booked == {"site-000": spent(3), "site-001": spent(1), "site-002": spent(3)}


def test_a_run_whose_sites_are_all_exhausted_fails() -> None:
    strategy, _ = made(quorum=1)
    with pytest.raises(QuorumLost, match="budget-exhausted"):
        run(strategy, Played(dict.fromkeys(NODES, failed("budget-exhausted"))), rounds=2)
    with pytest.raises(QuorumLost, match="used up"):
        run(strategy, Played(), rounds=1)


def test_one_site_can_not_exhaust_another() -> None:
    """site-000 and site-002 share a node; a failure counts for the one that was asked."""
    strategy, outcomes = made(quorum=2)
    grid = Played({"site-002": lambda r: content_of(Failure("site-000", r.round, "budget-exhausted"))})
    run(strategy, grid, rounds=2)
    assert grid.asked == [sorted(NODES)] * 2
    assert set(outcomes[0].absent) == {"site-002"}


def test_a_reply_that_nobody_waits_for_is_ignored() -> None:
    strategy, outcomes = made(quorum=3)

    class WithStrangers(Played):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            sent = list(messages)
            replies = super().send_and_receive(sent)
            if not sent:
                return replies
            # A question that this round never put, answered by a node of the federation and by another one.
            forged = []
            for node in (11, 99):
                stray = posted(Message(sent[1].content, dst_node_id=node, message_type="train"))
                content = content_of(replace(good(read_question(sent[1], Request)), adapter=adapter_of("site-009")))
                forged.append(posted(Message(content, reply_to=stray)))
            return [forged[0], *replies, forged[1], *replies]  # and everything twice

    plain, _ = made()
    run(plain, Played())
    run(strategy, WithStrangers())
    assert bits(strategy.state) == bits(plain.state)
    assert outcomes[0].absent == {}


def test_the_right_question_answered_by_another_node_is_refused() -> None:
    strategy, outcomes = made(quorum=2)

    class Misrouted(Played):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            replies = super().send_and_receive(messages)
            for reply in replies[1:2]:
                reply.metadata.__dict__["_src_node_id"] = 99
            return replies

    run(strategy, Misrouted())
    assert "not asked" in outcomes[0].absent["site-001"]


def test_what_arrived_is_booked_even_if_its_adapter_is_refused() -> None:
    """The noised adapter has left the hospital: the guarantee of the run has to count it."""
    strategy, _ = made(quorum=2, rounds=3)
    nan = with_value(float("nan"))
    run(strategy, Played({"site-001": lambda r: answers(r) if r.round == 1 else nan(r)}), rounds=3)
    assert strategy.budget.booked["site-001"] == spent(3)


def test_a_budget_that_shrinks_is_refused() -> None:
    strategy, outcomes = made(quorum=2)
    run(strategy, Played({"site-001": lambda r: told(r, 3 - r.round)}), rounds=2)
    assert "never shrinks" in outcomes[1].absent["site-001"]
    assert strategy.budget.booked["site-001"] == spent(2)
    assert strategy.unconfirmed == {"site-001"}  # and the run's statement will say so


def told(request: Request, steps: int) -> RecordDict:
    return content_of(replace(good(request), epsilon=spent(steps), events=charges(steps)))


def test_the_next_round_starts_from_what_was_aggregated(tmp_path: Path) -> None:
    strategy, _ = made()
    store = PublicStore(tmp_path / "public")
    seen: list[bytes] = []

    def watches(request: Request) -> RecordDict:
        seen.append(bits(received(store, request)))
        return answers(request)

    run(strategy, Played({"site-001": watches}), rounds=2)
    one, _ = made()
    run(one, Played())
    assert seen == [bits(STATE), bits(one.state)]


def test_hospitals_are_never_asked_to_evaluate() -> None:
    strategy, _ = made()
    assert list(strategy.configure_evaluate(1, to_arrays(STATE), ConfigRecord(), None)) == []  # type: ignore[arg-type]
    assert strategy.aggregate_evaluate(1, []) is None


def test_the_result_of_a_run_is_the_state() -> None:
    strategy, _ = made()
    result = strategy.start(Played(), to_arrays(STATE), num_rounds=2)  # type: ignore[arg-type]
    assert bits(from_arrays(result.arrays)) == bits(strategy.state)


def test_a_lost_answer_leaves_the_budget_unconfirmed_until_the_next_one() -> None:
    """The hospital may have charged its ledger: what the mirror says is then only a lower bound."""
    strategy, _ = made(quorum=2, rounds=2)
    run(strategy, Played({"site-001": lambda r: None}))
    assert strategy.unconfirmed == {"site-001"}
    run(strategy, Played())
    assert strategy.unconfirmed == frozenset()


@pytest.mark.parametrize("code", ["budget-exhausted", "policy", "state-missing"])
def test_a_site_that_refused_before_it_charged_is_not_in_doubt(code: str) -> None:
    strategy, _ = made(quorum=2)
    run(strategy, Played({"site-001": failed(code)}))
    assert strategy.unconfirmed == frozenset()


# A process that died

OOM = Error(code=0, reason=f"<class 'ray.exceptions.OutOfMemoryError'>:<'1 worker(s) were killed {CANARY}'>")
DEAD = Error(code=0, reason=f"<class 'ray.exceptions.ActorDiedError'>:<'The actor died unexpectedly. {CANARY}'>")
CRASHED = Error(code=8, reason="The ClientApp process has crashed.")


def in_turn(*turns: Answer) -> Answer:
    """The first answer to the first question, and so on."""
    waiting = iter(turns)
    return lambda request: next(waiting)(request)


def dies(error: Error) -> Answer:
    return lambda request: error


@pytest.mark.parametrize("error", [OOM, DEAD, CRASHED], ids=["memory", "actor", "crash"])
def test_a_hospital_whose_process_died_is_asked_once_more_and_counts(error: Error) -> None:
    plain, _ = made()
    run(plain, Played())
    strategy, outcomes = made(quorum=3)
    grid = Played({"site-001": in_turn(dies(error), answers)})
    run(strategy, grid)
    assert grid.asked == [sorted(NODES), ["site-001"]]
    assert bits(strategy.state) == bits(plain.state)
    assert outcomes[0].absent == {}
    assert strategy.unconfirmed == frozenset()
    assert outcomes[0].bytes_down == 4 * nbytes(STATE)  # what was sent twice has travelled twice


@pytest.mark.parametrize(
    ("error", "says"), [(OOM, "this machine ran out of memory"), (DEAD, "often for want of memory")]
)
def test_one_that_dies_twice_is_left_out_with_both_reasons(error: Error, says: str) -> None:
    strategy, outcomes = made(quorum=2)
    grid = Played({"site-001": dies(error)})
    run(strategy, grid)
    assert grid.asked == [sorted(NODES), ["site-001"]]  # twice, not for ever
    said = outcomes[0].absent["site-001"]
    assert says in said
    assert "Flower error code 0" in said
    assert said.count("asked once more") == 1
    assert CANARY not in said
    assert strategy.unconfirmed == {"site-001"}


@pytest.mark.parametrize(
    ("second", "says", "exhausted"),
    [
        (failed("budget-exhausted"), "its privacy budget is used up", True),
        (failed("stopped"), "a person there must look", False),
        (lambda request: None, "no reply within the time limit", False),
    ],
)
def test_one_that_refuses_when_it_is_asked_again_may_have_charged(second: Answer, says: str, exhausted: bool) -> None:
    """The same refusal as first answer is without a charge; after a death it is not known to be."""
    strategy, outcomes = made(quorum=2, rounds=3)
    grid = Played({"site-001": in_turn(dies(DEAD), second, answers)})
    run(strategy, grid)
    assert says in outcomes[0].absent["site-001"]
    assert strategy.unconfirmed == {"site-001"}
    run(strategy, grid)
    assert strategy.unconfirmed == ({"site-001"} if exhausted else frozenset())


@pytest.mark.parametrize("code", [1, 2, 3, 5])
def test_what_would_only_fail_again_is_not_asked_again(code: int) -> None:
    strategy, outcomes = made(quorum=2)
    grid = Played({"site-001": lambda r: Error(code=code, reason="no")})
    run(strategy, grid)
    assert grid.asked == [sorted(NODES)]
    assert f"Flower error code {code}" in outcomes[0].absent["site-001"]


# What travels down


def test_what_has_not_changed_travels_once_and_the_bytes_are_counted() -> None:
    strategy, outcomes = made(rounds=3)
    sent: list[set[str]] = []

    def watches(request: Request) -> RecordDict:
        sent.append(set(request.state.tensors))
        return answers(request)

    run(strategy, Played({"site-001": watches}), rounds=3)
    assert sent == [set(STATE), set(EXPECTED), set(EXPECTED)]
    first, later = 3 * nbytes(STATE), 3 * nbytes(EXPECTED)
    assert [outcome.bytes_down for outcome in outcomes] == [first, later, later]
    assert [outcome.bytes_up for outcome in outcomes] == [later] * 3


@pytest.mark.parametrize("answer", [lambda r: None, failed("data"), with_value(float("nan")), failed("state-missing")])
def test_a_hospital_gets_what_it_lacks_whatever_became_of_its_last_answer(answer: Answer, tmp_path: Path) -> None:
    """The store is the hospital's own; what it receives is the server's state in every round."""
    strategy, _ = made(quorum=2, rounds=4)
    store = PublicStore(tmp_path / "public")
    arrived: list[tuple[bytes, bytes]] = []

    def hospital(request: Request) -> RecordDict | Error | None:
        arrived.append((bits(received(store, request)), bits(strategy.state)))
        return answer(request) if request.round == 2 else answers(request)

    run(strategy, Played({"site-001": hospital}), rounds=4)
    assert len({state for _, state in arrived}) == 4
    assert all(here == at_the_server for here, at_the_server in arrived)


def test_a_hospital_that_lost_its_state_gets_everything_again(tmp_path: Path) -> None:
    strategy, outcomes = made(quorum=2, rounds=3)
    store = PublicStore(tmp_path / "public")

    def forgetful(request: Request) -> RecordDict:
        if request.round == 2:
            for file in store.folder.iterdir():
                file.unlink()
        try:
            received(store, request)
        except FedradError as error:
            return content_of(Failure(request.site, request.round, error.code))
        return answers(request)

    run(strategy, Played({"site-001": forgetful}), rounds=3)
    assert [set(outcome.absent) for outcome in outcomes] == [set(), {"site-001"}, set()]
    assert "everything" in outcomes[1].absent["site-001"]


# Who takes part


@pytest.mark.parametrize("asked", [1, 2])
def test_a_fraction_of_the_hospitals_is_asked_and_the_rest_spend_nothing(asked: int) -> None:
    strategy, outcomes = made(quorum=asked, rounds=6, asked=asked, seed=3)
    grid = Played()
    run(strategy, grid, rounds=6)
    assert [len(sites) for sites in grid.asked] == [asked] * 6
    assert len({tuple(sites) for sites in grid.asked}) > 1
    assert all(outcome.absent == {} for outcome in outcomes)
    taken_part = {site for sites in grid.asked for site in sites}
    assert strategy.budget.booked.keys() == taken_part
    again, _ = made(quorum=asked, rounds=6, asked=asked, seed=3)
    repeated = Played()
    run(again, repeated, rounds=6)
    assert repeated.asked == grid.asked
    other, _ = made(quorum=asked, rounds=6, asked=asked, seed=4)
    different = Played()
    run(other, different, rounds=6)
    assert different.asked != grid.asked


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-6, 1e3)), min_size=1, max_size=9),
    st.sampled_from(["uniform", "declared", "inverse-variance"]),
)
def test_weights_sum_to_one_and_one_hospital_has_exactly_one(sites: list[tuple[int, float]], rule: str) -> None:
    declared, noise = [size for size, _ in sites], [sd for _, sd in sites]
    weights = public_weights(declared, noise, rule)
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) >= 0
    assert public_weights(declared[:1], noise[:1], rule) == [1.0]


def test_inverse_variance_weights_give_the_mean_of_least_noise() -> None:
    noise = [1.0, 2.0, 0.5]
    best = public_weights([1, 1, 1], noise, "inverse-variance")
    assert best == pytest.approx([4 / 21, 1 / 21, 16 / 21])

    def variance(weights: list[float]) -> float:
        return sum((w * sd) ** 2 for w, sd in zip(weights, noise, strict=True))

    for other in ([1 / 3] * 3, [0.2, 0.05, 0.75], [0.19, 0.05, 0.76]):
        assert variance(best) < variance(other)


def test_inverse_variance_weights_are_those_of_the_plans() -> None:
    strategy, _ = made(weights="inverse-variance")
    run(strategy, Played())
    parts = {site: 1 / DECLARED[site] ** 2 for site in NODES}
    mean = sum(parts[s] / sum(parts.values()) * adapter_of(s)["head.weight"].double() for s in NODES)
    torch.testing.assert_close(strategy.state["head.weight"].double(), mean, rtol=1e-6, atol=1e-6)


def test_a_hospital_can_not_change_the_noise_that_it_is_weighed_by() -> None:
    strategy, outcomes = made(quorum=2, weights="inverse-variance")
    run(strategy, Played({"site-001": lambda r: content_of(replace(good(r), noise=1.0 / r.round))}), rounds=2)
    assert "a plan stays as it is" in outcomes[1].absent["site-001"]
