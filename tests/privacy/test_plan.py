from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrad
from fedrad.errors import PlanError
from fedrad.privacy import accounting
from fedrad.privacy.plan import PrivacyPlan, declared_size

BASE = {"epsilon": 8.0, "delta": 1e-5, "declared_size": 3000, "expected_batch": 256, "steps": 40, "clip": 1.0}


def plan(**changes) -> PrivacyPlan:
    return PrivacyPlan.calibrate(**{**BASE, **changes})


def meets_its_target(p: PrivacyPlan) -> bool:
    return accounting.epsilon([p.event(p.steps)], p.delta) <= p.epsilon


def test_calibrated_plan() -> None:
    p = plan(epsilon=1.0)
    assert fedrad.PrivacyPlan is PrivacyPlan
    assert meets_its_target(p)
    assert p.private
    assert p.sampling_rate == 256 / 3000
    assert p.divisor == 256
    assert p.event(7) == (256 / 3000, p.noise_multiplier, 7)
    assert p.label == "report-level (1.0, 1e-05)-DP"
    assert p.relation == "add-or-remove-one"
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.noise_multiplier = 0.1  # type: ignore[misc]


def test_a_plan_that_breaks_its_promise_can_not_be_made() -> None:
    p = plan(epsilon=1.0)
    for change in [
        {"noise_multiplier": p.noise_multiplier * 0.99},
        {"steps": 42},
        {"expected_batch": 270},
        {"epsilon": 0.98},
    ]:
        with pytest.raises(PlanError, match="spends epsilon"):
            dataclasses.replace(p, **change)
    dataclasses.replace(p, steps=39)


def test_seeded_is_never_called_private() -> None:
    assert plan(noise="seeded").label == "seeded: simulation only"
    assert "DP" not in plan(noise="seeded").label


def test_not_private() -> None:
    p = plan(epsilon=0.0, clip=math.inf)
    assert not p.private
    assert p.noise_multiplier == 0.0
    assert p.label == "not private"
    assert accounting.epsilon([p.event(1)], 1e-5) == math.inf
    assert json.loads(p.to_json())["clip"] == math.inf


def test_id_changes_with_every_field() -> None:
    p = plan(epsilon=1.0)
    others = [
        dataclasses.replace(p, **change)
        for change in (
            {"declared_size": 3001},
            {"expected_batch": 255},
            {"clip": 2.0},
            {"noise_multiplier": p.noise_multiplier * 2},
            {"steps": 39},
            {"epsilon": 1.1},
            {"delta": 2e-5},
            {"noise": "seeded"},
            {"unit": "patient"},
            {"unit": "patient", "reports_per_patient": 2},
        )
    ]
    assert len({p.id, *(o.id for o in others)}) == 11
    assert p.id == plan(epsilon=1.0).id
    assert len(p.id) == 16
    assert PrivacyPlan(**json.loads(p.to_json())) == p


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"delta": 1 / 3000}, "below 1/declared size"),
        ({"delta": 0.0}, "delta must be"),
        ({"delta": math.nan}, "delta must be"),
        ({"clip": 0.0}, "clip norm"),
        ({"clip": math.inf}, "clip norm"),
        ({"clip": math.nan}, "clip norm"),
        ({"expected_batch": 3001}, "larger than the declared size"),
        ({"expected_batch": 0}, "expected batch must be"),
        ({"expected_batch": 25.6}, "expected batch must be"),
        ({"declared_size": True}, "declared size must be"),
        ({"steps": 0}, "number of steps"),
        ({"epsilon": -1.0}, "epsilon must be"),
        ({"epsilon": math.inf}, "epsilon must be"),
        ({"epsilon": math.nan}, "epsilon must be"),
        ({"unit": "hospital"}, "all 3000 hospitals"),
        ({"reports_per_patient": 4}, "must be 1 with the unit"),
        ({"unit": "patient", "reports_per_patient": 0}, "reports per patient must be"),
        ({"unit": "word"}, "unknown unit"),
        ({"noise": "torch"}, "unknown noise"),
    ],
)
def test_what_can_not_be(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        plan(**changes)


def test_all_problems_at_once() -> None:
    with pytest.raises(PlanError) as error:
        plan(unit="person", clip=-1.0, delta=0.5, steps=0)
    assert str(error.value).count("\n- ") == 4
    with pytest.raises(PlanError, match="relation"):
        dataclasses.replace(plan(), relation="replace-one")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="takes no noise"):
        dataclasses.replace(plan(), epsilon=0.0)


@pytest.mark.parametrize(
    ("n", "size"),
    [(0, 1), (1, 1), (7, 7), (99, 99), (100, 100), (104, 100), (105, 110), (995, 1000), (2846, 2800), (2850, 2900)],
)
def test_declared_size(n: int, size: int) -> None:
    assert declared_size(n) == size


@given(st.integers(1, 10**7))
def test_declared_size_keeps_two_digits(n: int) -> None:
    size = declared_size(n)
    assert abs(size - n) <= 0.05 * n
    assert len(str(size).rstrip("0")) <= 2


def test_declared_size_refuses_nonsense() -> None:
    with pytest.raises(PlanError):
        declared_size(-1)
