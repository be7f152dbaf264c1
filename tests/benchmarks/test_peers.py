"""All private engines compute one and the same sum of clipped gradients, and the check notices one that does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.check import TOLERANCE, Verdict, relative_error, tolerance, verdicts
from benchmarks.goals import Goal, line
from benchmarks.measure import Ratio
from benchmarks.peers import BASELINE, PEERS, PRIVATE
from benchmarks.problems import SHAPES, Problem, Workload, library, random_reports, stock
from benchmarks.step import Row, race, show
from fedrad.model.kernels import Kernels
from tests.processors import Bfloat16UnderMedium

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]


@pytest.mark.parametrize(("model", "adapted"), [("tiny-bert", "all"), ("tiny-albert", "qv")])
def test_private_engines_agree(model: str, adapted: str) -> None:
    found = {
        verdict.engine: verdict for verdict in verdicts(Problem(model, adapted), [PEERS[name] for name in PRIVATE])
    }

    assert [verdict for verdict in found.values() if verdict.wrong] == []
    assert found["fedrad, same kernels"].agrees
    assert found["opacus hooks"].agrees
    assert found["opacus ghost"].agrees or "tying" in found["opacus ghost"].reason


def test_an_engine_is_allowed_what_its_products_leave_on_this_processor() -> None:
    """Under "medium" some processors round the factors to bfloat16. That is no mistake of an engine."""
    medium, exact = PEERS["opacus hooks, medium"], PEERS["opacus hooks"]
    with Bfloat16UnderMedium():
        rounded, same, control = verdicts(Problem("tiny-bert"), [medium, exact, replace(BASELINE, precision="medium")])

    assert rounded.error is not None
    assert rounded.error > TOLERANCE  # it would not agree as a float32 engine
    assert rounded.agrees
    assert same.agrees
    assert same.tolerance == TOLERANCE
    assert control.wrong  # an engine that does not clip is noticed all the same
    assert tolerance(medium, "cpu") < 0.1


def test_an_engine_that_does_not_clip_is_noticed() -> None:
    (control,) = verdicts(Problem("tiny-bert"), [BASELINE])

    assert control.wrong
    assert control.error is not None
    assert control.error > 0.1


def test_an_engine_that_leaves_a_tensor_out_is_noticed() -> None:
    whole = {"a": torch.ones(2), "b": torch.ones(3)}

    assert relative_error(whole, whole) == 0.0
    with pytest.raises(KeyError):
        relative_error({"a": torch.ones(2)}, whole)


def test_an_engine_that_can_not_run_is_neither_right_nor_wrong() -> None:
    verdict = Verdict("ghost", "tiny-albert", "qv", None, 1e-5, "refused")

    assert (verdict.agrees, verdict.wrong) == (False, False)


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-albert"])
def test_both_models_are_the_same_model(model: str) -> None:
    problem = Problem(model, "qkv")
    theirs, tensors = stock(problem)
    ours = library(problem, Kernels())
    ids = torch.tensor([[2, 9, 33, 4]])

    assert sorted(tensors) == list(ours.adapter())
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.testing.assert_close(ours(ids, torch.ones_like(ids)), expected, rtol=1e-4, atol=1e-5)


def test_every_engine_takes_a_step_or_says_why_not() -> None:
    batch = random_reports("tiny-albert", [12], seed=0)
    names = ["peft, not private", "opacus hooks, 16 rows", "opacus ghost", "fedrad, same kernels"]

    times, reasons = race(names, Problem("tiny-albert"), [batch], rounds=1)

    assert sorted([*times, *reasons]) == sorted(names)
    assert "tying" in reasons["opacus ghost"]


def test_workloads_of_one_length_are_the_same_in_every_run() -> None:
    first, second = (Workload(4, length=7, batches=2).of("tiny-bert") for _ in range(2))

    assert [list(batch.lengths) for batch in first] == [[7] * 4] * 2
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(first, second, strict=True))
    assert first[0].ids.max() < SHAPES["tiny-bert"].vocabulary


def test_a_goal_says_whether_it_was_missed() -> None:
    goal = Goal("end-to-end", 0.2, lambda settings: Ratio(0.1, 0.1, 0.1, settings.rounds))

    assert line(goal, Ratio(0.18, 0.17, 0.25, 7)).split() == ["end-to-end", "0.18", "<=", "0.20", "(0.17..0.25)"]
    assert line(goal, Ratio(0.21, 0.2, 0.22, 7)).endswith("MISSED")
    assert line(goal, None, "no bfloat16").endswith("not measured (no bfloat16)")


def test_the_table_keeps_engines_that_can_not_run() -> None:
    row = Row("fixed", "albert-base", "qv", "opacus ghost", None, None, None, None, "refused")

    assert "can't run: refused" in show([row])
