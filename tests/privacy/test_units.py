"""Units: which reports belong together, which are drawn, and that a whole patient moves the sum by one clip norm."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy import optimizer as optimizer_module
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream
from fedrad.privacy.sampler import poisson_sample
from fedrad.privacy.units import Units, numbered, sum_by_unit, units_of

CLIP = 0.7
# patients, Poisson rate 1/4, at most 3 of their reports; noise that meets epsilon with room to spare
PLAN = PrivacyPlan("patient", "add-or-remove-one", 40, 10, CLIP, 20.0, 3, 8.0, 1e-3, "seeded", reports_per_patient=3)
REPORTS = replace(PLAN, unit="report", reports_per_patient=1)
SHAPES = {"a": (3, 4), "b": (5,)}
D = sum(math.prod(shape) for shape in SHAPES.values())

owners = st.lists(st.integers(0, 6), min_size=1, max_size=25).map(lambda keys: np.array(keys, dtype=np.int64))


# Who belongs together


@given(owners)
def test_numbers_follow_first_appearance_and_keep_the_partition(keys: NDArray[np.int64]) -> None:
    found = numbered(keys)
    assert [int(unit) for unit in found] == [list(dict.fromkeys(keys.tolist())).index(key) for key in keys.tolist()]
    assert units_of("patient", len(keys), keys).count == len(set(keys.tolist()))


def test_a_report_is_its_own_unit_whoever_wrote_it() -> None:
    units = units_of("report", 3, np.array([5, 5, 5]))
    assert (units.of.tolist(), units.count) == ([0, 1, 2], 3)
    assert units_of("patient", 3, np.array([5, 5, 5])).count == 1
    assert units_of("patient", 0, np.empty(0, dtype=np.int64)).count == 0


@pytest.mark.parametrize("patients", [None, np.array([1, 2])])
def test_unknown_patients_are_refused(patients: NDArray[np.int64] | None) -> None:
    with pytest.raises(PrivacyError, match="patient of every report"):
        units_of("patient", 3, patients)
    with pytest.raises(PrivacyError, match="hospital"):
        units_of("hospital", 3, None)


# Which reports are drawn


@given(owners, st.integers(1, 4), st.integers(0, 99), st.floats(0, 1))
def test_of_every_drawn_patient_all_reports_or_as_many_as_allowed(
    keys: NDArray[np.int64], at_most: int, seed: int, rate: float
) -> None:
    units = units_of("patient", len(keys), keys)
    stream = Stream.seeded(seed)
    chosen = poisson_sample(units.count, rate, stream)
    rows = units.reports(chosen, at_most, stream)
    assert (np.diff(rows) > 0).all()
    found = Counter(units.of[rows].tolist())
    assert found == {int(u): min(at_most, int((units.of == u).sum())) for u in chosen}


Draw = Callable[[Units, NDArray[np.int64], int, Stream], NDArray[np.int64]]


def draws_uniformly(draw: Draw, times: int = 3000) -> bool:
    """Every pair of a patient's five reports equally often (chi-square at 1e-5), with neighbours around them."""
    units = units_of("patient", 9, np.array([7, 0, 7, 7, 1, 7, 1, 7, 0]))
    mine = np.flatnonzero(units.of == 0)
    pairs: Counter[tuple[int, ...]] = Counter()
    for step in range(times):
        rows = draw(units, np.arange(3), 2, Stream.seeded(3, "sample", step))
        pairs[tuple(row for row in rows.tolist() if row in mine)] += 1
    counts = [pairs[pair] for pair in combinations(mine.tolist(), 2)]
    return sum(counts) == times and bool(stats.chisquare(counts).pvalue > 1e-5)


def always_the_first(units: Units, chosen: NDArray[np.int64], at_most: int, stream: Stream) -> NDArray[np.int64]:
    return np.concatenate([np.flatnonzero(units.of == unit)[:at_most] for unit in chosen])


def neighbours_in_a_row(units: Units, chosen: NDArray[np.int64], at_most: int, stream: Stream) -> NDArray[np.int64]:
    """Each report equally often, but not each pair."""
    rows = []
    for unit in chosen:
        of_unit = np.flatnonzero(units.of == unit)
        rows.append(np.roll(of_unit, int(stream.integers(1, len(of_unit))[0]))[:at_most])
    return np.sort(np.concatenate(rows))


def test_reports_are_drawn_afresh_and_uniformly() -> None:
    assert draws_uniformly(Units.reports)


@pytest.mark.parametrize("broken", [always_the_first, neighbours_in_a_row], ids=lambda f: f.__name__)
def test_negative_control_other_draws_are_caught(broken: Draw) -> None:
    assert not draws_uniformly(broken)


@given(st.integers(0, 30), st.integers(0, 99))
def test_patients_with_one_report_are_drawn_like_reports(n: int, seed: int) -> None:
    units = units_of("patient", n, np.random.default_rng(seed).permutation(n))
    chosen = poisson_sample(n, 0.4, Stream.seeded(seed))
    assert np.array_equal(units.reports(chosen, 1, Stream.seeded(seed, "more")), chosen)


# What is summed


@given(owners, st.integers(0, 99))
def test_gradients_are_summed_by_owner(keys: NDArray[np.int64], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grads = {name: torch.randn(len(keys), *shape, generator=generator) for name, shape in SHAPES.items()}
    summed, first = sum_by_unit(grads, keys)
    assert sorted(keys[first].tolist()) == sorted(set(keys.tolist()))
    for name in SHAPES:
        for row, key in enumerate(keys[first].tolist()):
            expected = sum(grads[name][i].double() for i in np.flatnonzero(keys == key))
            torch.testing.assert_close(summed[name][row].double(), expected, rtol=0, atol=1e-12)


def test_what_is_not_finite_stays_with_its_owner() -> None:
    grads = {"a": torch.tensor([[1.0], [math.nan], [2.0], [math.inf]])}
    summed, _ = sum_by_unit(grads, np.array([0, 1, 0, 1]))
    assert summed["a"][0] == 3.0
    assert not summed["a"][1].isfinite()


def test_without_anything_to_sum_nothing_is_touched() -> None:
    grads = {"a": torch.ones(3, 2)}
    summed, first = sum_by_unit(grads, np.array([4, 2, 9]))
    assert summed["a"] is grads["a"]
    assert first.tolist() == [0, 1, 2]


# What a patient can change


def make(plan: PrivacyPlan = PLAN) -> PrivateOptimizer:
    named = [(name, nn.Parameter(torch.zeros(shape))) for name, shape in SHAPES.items()]
    return PrivateOptimizer(torch.optim.SGD(named, lr=1.0), plan)


def per_tensor(vectors: Tensor) -> dict[str, Tensor]:
    parts = vectors.split([math.prod(shape) for shape in SHAPES.values()], 1)
    return {name: part.reshape(-1, *SHAPES[name]) for name, part in zip(SHAPES, parts, strict=True)}


def clipped_sum(
    optimizer: PrivateOptimizer, vectors: Tensor, owner: NDArray[np.int64], cuts: list[list[int]] | None = None
) -> Tensor:
    """The sum of a step before its noise; ``cuts`` are the owners of each micro-batch."""
    for part in cuts or [sorted(set(owner.tolist()))]:
        rows = np.flatnonzero(np.isin(owner, part))
        optimizer.accumulate(per_tensor(vectors[rows]), owner[rows])
    total = torch.cat([p.summed_grad.double().flatten() for p in optimizer.params])
    optimizer.zero_grad()
    optimizer._units.clear()
    return total


def shard(seed: int = 0) -> tuple[Tensor, NDArray[np.int64]]:
    """Twelve reports of five patients."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, D, generator=generator), np.array([0, 1, 0, 2, 3, 3, 3, 1, 4, 0, 2, 0])


def patient_moves(plan: PrivacyPlan, extra: Tensor) -> float:
    """How far the sum moves with one more patient, who has all of these reports."""
    vectors, owner = shard()
    if plan.unit == "report":
        owner = np.arange(len(owner))
    own = np.full(len(extra), 99) if plan.unit == "patient" else np.arange(1000, 1000 + len(extra))
    with_them = clipped_sum(make(plan), torch.cat([vectors, extra]), np.concatenate([owner, own]))
    return float((with_them - clipped_sum(make(plan), vectors, owner)).norm())


NASTY = [math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    reports=st.sampled_from([1, 2, 50]),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-3, 1.0, 1e3, 1e37]),
    nasty=st.lists(st.tuples(st.integers(0, 49), st.integers(0, D - 1), st.sampled_from(NASTY)), max_size=4),
)
def test_a_whole_patient_moves_the_sum_by_at_most_the_clip_norm(
    reports: int, seed: int, scale: float, nasty: list[tuple[int, int, float]]
) -> None:
    extra = scale * torch.randn(reports, D, generator=torch.Generator().manual_seed(seed))
    for row, column, value in nasty:
        extra[row % reports, column] = value
    assert patient_moves(PLAN, extra) <= CLIP * (1 + 1e-9)


@pytest.mark.parametrize("reports", [2, 50])
def test_negative_control_clipping_by_report_lets_a_patient_move_it_by_more(reports: int) -> None:
    alike = torch.full((reports, D), 5.0)
    assert patient_moves(PLAN, alike) == pytest.approx(CLIP, rel=1e-9)
    assert patient_moves(REPORTS, alike) == pytest.approx(reports * CLIP, rel=1e-9)


def test_negative_control_a_plan_for_patients_that_clips_by_report_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "sum_by_unit", lambda grads, units: (grads, np.arange(len(units))))
    assert patient_moves(PLAN, torch.full((50, D), 5.0)) > 40 * CLIP


def test_what_a_patient_adds_is_their_clipped_sum() -> None:
    vectors, owner = shard()
    sums = torch.stack([vectors[owner == unit].double().sum(0) for unit in range(5)])
    expected = (sums * (CLIP / sums.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
    torch.testing.assert_close(clipped_sum(make(), vectors, owner), expected, rtol=0, atol=1e-9)


@given(st.permutations(range(5)), st.lists(st.integers(0, 5), max_size=3))
def test_how_whole_patients_are_cut_into_micro_batches_does_not_matter(order: list[int], cuts: list[int]) -> None:
    vectors, owner = shard()
    edges = sorted({0, 5, *cuts})
    parts = [list(order[a:b]) for a, b in pairwise(edges)]
    cut = clipped_sum(make(), vectors, owner, parts)
    torch.testing.assert_close(cut, clipped_sum(make(), vectors, owner), rtol=0, atol=1e-12)


def test_a_patient_in_two_micro_batches_is_refused_and_one_in_two_steps_is_not() -> None:
    vectors, owner = shard()
    optimizer = make()
    optimizer.accumulate(per_tensor(vectors[:3]), owner[:3])
    with pytest.raises(PrivacyError, match="two micro-batches"):
        optimizer.accumulate(per_tensor(vectors[9:]), owner[9:])
    optimizer.step_noisy(Stream.seeded(0, 1))
    optimizer.accumulate(per_tensor(vectors[9:]), owner[9:])


def test_a_plan_for_patients_wants_to_know_whose_a_gradient_is() -> None:
    vectors, owner = shard()
    with pytest.raises(PrivacyError, match="pass `units`"):
        make().accumulate(per_tensor(vectors))
    with pytest.raises(PrivacyError, match="units of 11"):
        make().accumulate(per_tensor(vectors), owner[:11])
    make(REPORTS).accumulate(per_tensor(vectors))


def test_a_plan_for_hospitals_is_not_for_steps_on_reports() -> None:
    hospitals = PrivacyPlan("hospital", "add-or-remove-one", 5, 5, CLIP, 20.0, 3, 8.0, 1e-3, "seeded")
    with pytest.raises(PrivacyError, match="at the server"):
        make(hospitals)
    with pytest.raises(PrivacyError, match="at the server"):
        PrivateOptimizer(torch.optim.SGD([("w", nn.Parameter(torch.zeros(2, 2)))], lr=1.0), PLAN, hospitals)


# Many hospitals in one pass


def stacked(hospitals: int) -> PrivateOptimizer:
    named = [(name, nn.Parameter(torch.zeros(hospitals, *shape))) for name, shape in SHAPES.items()]
    return PrivateOptimizer(torch.optim.SGD(named, lr=1.0), *[PLAN] * hospitals)


def test_stacked_hospitals_clip_their_own_patients() -> None:
    vectors, owner = shard()
    scaled = 30 * vectors
    at = torch.tensor([0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0])  # patients 0 and 3 at the first, 1, 2 and 4 at the second
    optimizer = stacked(2)
    optimizer.accumulate(per_tensor(scaled), owner, at)
    for hospital in (0, 1):
        rows = np.flatnonzero(at.numpy() == hospital)
        alone = clipped_sum(make(), scaled[rows], owner[rows])
        found = torch.cat([p.summed_grad[hospital].reshape(-1) for p in optimizer.params])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


def test_stacked_refuses_what_the_single_one_refuses() -> None:
    vectors, owner = shard()
    nobody = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(PrivacyError, match="pass `units`"):
        stacked(2).accumulate(per_tensor(vectors), hospital=nobody)
    with pytest.raises(PrivacyError, match="two hospitals"):
        stacked(2).accumulate(per_tensor(vectors), owner, torch.tensor([0, 1] * 6))
    optimizer = stacked(2)
    optimizer.accumulate(per_tensor(vectors), owner, nobody)
    with pytest.raises(PrivacyError, match="two micro-batches"):
        optimizer.accumulate(per_tensor(vectors), owner, nobody)


# What it costs


def test_epsilon_of_patients_is_that_of_reports_at_the_patients_rate() -> None:
    """256 of 3000 a step, noise 2, 200 steps: 2.815562, whichever of the two is counted, and whatever the cap."""
    for unit, cap in (("report", 1), ("patient", 1), ("patient", 4), ("patient", 50)):
        plan = PrivacyPlan(
            unit, "add-or-remove-one", 3000, 256, 1.0, 2.0, 200, 3.0, 1e-5, "system", reports_per_patient=cap
        )
        assert plan.sampling_rate == 256 / 3000
        assert epsilon([plan.event(200)], 1e-5) == pytest.approx(2.815562, rel=1e-4)
        assert plan.label == f"{unit}-level (3.0, 1e-05)-DP"


@pytest.mark.parametrize("changes", [{"reports_per_patient": 0}, {"reports_per_patient": True}, {"unit": "report"}])
def test_a_cap_that_means_nothing_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="reports per patient"):
        replace(PLAN, **changes)  # type: ignore[arg-type]
