"""Central noise for whole hospitals: what one hospital can change, the noise, the divisor. Controls beside each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy import hospital_unit as central
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.hospital_unit import clip_update, hospital_plan, noised_mean, update_of
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream

CLIP = 0.5
LIKE = {"b": torch.zeros(2, 3), "a": torch.zeros(4)}
PLAN = hospital_plan(epsilon=8.0, delta=1e-5, hospitals=5, rounds=3, clip=CLIP, noise="seeded")
Updates = Mapping[str, Mapping[str, Tensor]]
Clip = Callable[[Mapping[str, Tensor], float], Mapping[str, Tensor]]


def random_update(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(t.shape, generator=generator) for name, t in LIKE.items()}


def noise() -> Stream:
    return Stream.seeded(0, "central", 1)


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def moved(left: Updates, right: Updates) -> float:
    """How far the sums of two neighbouring rounds lie apart: same noise, so it cancels."""
    like = {name: tensor.double() for name, tensor in LIKE.items()}
    ends = [flat(noised_mean(updates, like, PLAN, noise())) for updates in (left, right)]
    return float((ends[0] - ends[1]).norm()) * PLAN.divisor


NASTY = st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 0.0]), st.floats(width=32))
others = {f"site-{i}": random_update(i) for i in range(4)}


@settings(max_examples=100, deadline=None)
@given(st.lists(NASTY, min_size=10, max_size=10))
def test_a_hospital_moves_the_sum_by_at_most_the_clip_norm(values: list[float]) -> None:
    flattened = torch.tensor(values, dtype=torch.float32)
    joined = {**others, "site-4": {"b": flattened[:6].reshape(2, 3), "a": flattened[6:]}}
    assert moved(joined, others) <= CLIP * (1 + 1e-9)


def test_replacing_a_hospital_is_two_changes() -> None:
    one, opposite = random_update(7, 100.0), random_update(7, -100.0)
    distance = moved({**others, "site-4": one}, {**others, "site-4": opposite})
    assert CLIP * 1.9 < distance <= 2 * CLIP * (1 + 1e-9)


def test_not_finite_counts_as_absent() -> None:
    for bad in (math.nan, math.inf):
        broken = {**random_update(1), "a": torch.tensor([0.1, bad, 0.0, 0.0])}
        assert moved({**others, "site-4": broken}, others) == 0.0


def per_tensor(update: Mapping[str, Tensor], largest: float) -> Mapping[str, Tensor]:
    return {name: t.double() * min(1.0, largest / float(t.double().norm())) for name, t in update.items()}


def not_at_all(update: Mapping[str, Tensor], largest: float) -> Mapping[str, Tensor]:
    return {name: t.double() for name, t in update.items()}


def nan_passes(update: Mapping[str, Tensor], largest: float) -> Mapping[str, Tensor]:
    norm = float(flat(update).norm())
    return {name: t.double() * min(1.0, largest / norm) for name, t in update.items()}


@pytest.mark.parametrize(
    ("broken", "update"),
    [
        (per_tensor, random_update(5, 100.0)),
        (not_at_all, random_update(5, 100.0)),
        (nan_passes, {**random_update(5), "a": torch.full((4,), math.nan)}),
    ],
    ids=["per tensor", "not at all", "NaN passes"],
)
def test_negative_control_broken_clipping_is_caught(
    broken: Clip, update: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours = {**others, "site-4": update}
    assert moved(neighbours, others) <= CLIP * (1 + 1e-9)
    monkeypatch.setattr(central, "clip_update", broken)
    assert not moved(neighbours, others) <= CLIP * 1.1  # a NaN is not "at most" anything either


def test_clipping_is_joint_and_leaves_small_updates_alone() -> None:
    assert float(flat(clip_update(random_update(0, 50.0), CLIP)).norm()) == pytest.approx(CLIP, rel=1e-9)
    little = random_update(0, 0.01)
    assert torch.equal(flat(clip_update(little, CLIP)), flat(little))
    zero = clip_update(LIKE, CLIP)
    assert all(not tensor.any() for tensor in zero.values())


def test_an_update_is_what_the_hospital_changed() -> None:
    sent, reply = random_update(0), random_update(1)
    assert torch.equal(flat(update_of(reply, sent)), flat(reply) - flat(sent))
    assert not flat(update_of(sent, sent)).any()


def spread(plan: PrivacyPlan, updates: Updates, like: Mapping[str, Tensor]) -> float:
    return float(flat(noised_mean(updates, like, plan, noise())).std())


def test_the_noise_has_the_planned_size_whoever_answers() -> None:
    like = {"w": torch.zeros(40_000)}
    planned = PLAN.noise_multiplier * CLIP / 5
    for answering in (0, 1, 5):
        silent = {f"site-{i}": like for i in range(answering)}
        assert spread(PLAN, silent, like) == pytest.approx(planned, rel=0.02)
    # Negative control: without privacy there is none, and the comparison would see it.
    open_plan = hospital_plan(epsilon=0.0, delta=1e-5, hospitals=5, rounds=3, clip=math.inf, noise="seeded")
    assert spread(open_plan, {}, like) == 0.0


def test_the_divisor_is_the_planned_number() -> None:
    plan = hospital_plan(epsilon=0.0, delta=1e-5, hospitals=5, rounds=3, clip=math.inf, noise="seeded")
    two = {"x": random_update(0), "y": random_update(1)}
    torch.testing.assert_close(flat(noised_mean(two, LIKE, plan, noise())), (flat(two["x"]) + flat(two["y"])) / 5)


def test_the_order_of_arrival_changes_no_bit() -> None:
    ends = [noised_mean(dict(order), LIKE, PLAN, noise()) for order in (others.items(), reversed(others.items()))]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in LIKE)
    assert {name: t.dtype for name, t in ends[0].items()} == {name: t.dtype for name, t in LIKE.items()}


@pytest.mark.parametrize(("noise", "rounds", "expected"), [(10.0, 100, 4.377178), (100.0, 20, 0.141685)])
def test_golden_epsilon_without_sampling(noise: float, rounds: int, expected: float) -> None:
    plan = PrivacyPlan("hospital", "add-or-remove-one", 8, 8, CLIP, noise, rounds, 5.0, 1e-5, "system")
    assert plan.sampling_rate == 1.0
    assert epsilon([plan.event(rounds)], plan.delta) == pytest.approx(expected, rel=1e-3)


def test_the_plan() -> None:
    assert (PLAN.unit, PLAN.divisor, PLAN.sampling_rate, PLAN.steps) == ("hospital", 5, 1.0, 3)
    assert epsilon([PLAN.event(3)], 1e-5) <= 8.0
    system = hospital_plan(epsilon=8.0, delta=1e-5, hospitals=5, rounds=3, clip=CLIP)
    assert system.label == "hospital-level (8.0, 1e-05)-DP"
    with pytest.raises(PlanError, match=r"at most 0\.001"):
        hospital_plan(epsilon=8.0, delta=0.1, hospitals=5, rounds=3, clip=CLIP)
    with pytest.raises(PlanError, match="sampling hospitals gains nothing"):
        PrivacyPlan("hospital", "add-or-remove-one", 8, 4, CLIP, 10.0, 3, 8.0, 1e-5, "system")


def test_what_is_refused() -> None:
    reports = PrivacyPlan("report", "add-or-remove-one", 40, 8, 1.0, 20.0, 3, 8.0, 1e-3, "seeded")
    six = {f"site-{i}": random_update(i) for i in range(6)}
    for updates, plan, stream, problem in (
        (others, reports, noise(), "unit is the report"),
        (others, PLAN, Stream.system(), "seeded noise"),
        (six, PLAN, noise(), "planned"),
        ({"x": {"a": torch.zeros(4)}}, PLAN, noise(), "other tensors"),
    ):
        with pytest.raises(PrivacyError, match=problem):
            noised_mean(updates, LIKE, plan, stream)
