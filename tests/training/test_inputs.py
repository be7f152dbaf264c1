"""What the trainable part reads: kept or computed on the fly, it is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedrad.training import inputs as module
from fedrad.training.inputs import Inputs, SharedLowerParts, prepare, sharing
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny

TARGETS = pytest.mark.parametrize("targets", ["", "query,value"])


def prepared(targets: str = "query,value", micro_tokens: int = 128, **changes: object) -> Inputs:
    changes = {"lora__targets": targets, "train__micro_tokens": micro_tokens, **changes}
    setup = set_up(small.experiment(**changes), small.TASK)
    tiny.randomise(setup.classifier)
    return prepare(setup, small.tokens())


def logits(inputs: Inputs, rows: NDArray[np.int64]) -> torch.Tensor:
    batch = inputs.batch(rows)
    with torch.no_grad():
        return inputs.classifier.suffix(batch.hidden, batch.attention)


@TARGETS
def test_what_is_kept_is_what_would_be_computed(targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = prepared(targets)
    monkeypatch.setattr(module, "KEEP_AT_MOST", 0)
    computed = prepared(targets)
    assert kept.kept is not None
    assert computed.kept is None
    for rows in (np.arange(40), np.array([7]), np.array([31, 2, 2, 19])):
        left, right = kept.batch(rows), computed.batch(rows)
        real = left.attention.bool() if targets else slice(None)

        assert torch.allclose(left.hidden[real], right.hidden[real], rtol=0, atol=1e-5)
        assert torch.equal(left.attention, right.attention)
        assert torch.equal(left.labels, right.labels)
        assert torch.equal(left.mask, right.mask)
        assert torch.allclose(logits(kept, rows), logits(computed, rows), rtol=0, atol=1e-5)


def test_with_the_head_alone_one_vector_stands_for_a_report() -> None:
    inputs = prepared("")
    assert inputs.kept is not None

    assert inputs.kept.shape == (40, 32)
    assert (inputs.lengths == 1).all()
    assert inputs.batch(np.array([3, 5])).hidden.shape == (2, 32)


def test_with_all_layers_adapted_nothing_is_kept() -> None:
    inputs = prepared(lora__layers=0)

    assert inputs.kept is None
    assert (inputs.lengths == inputs.tokens.lengths).all()


@TARGETS
def test_preparing_twice_gives_the_same_bits(targets: str) -> None:
    first, second = prepared(targets), prepared(targets)
    assert first.kept is not None
    assert second.kept is not None

    assert first.kept.tobytes() == second.kept.tobytes()


@TARGETS
def test_how_it_was_cut_changes_nothing_but_rounding(targets: str) -> None:
    one, many = prepared(targets, micro_tokens=1), prepared(targets, micro_tokens=10_000)
    assert one.kept is not None
    assert many.kept is not None

    assert np.allclose(one.kept, many.kept, rtol=0, atol=1e-5)


@TARGETS
def test_a_report_alone_is_the_report_in_a_batch(targets: str) -> None:
    """Nothing of a report reaches another through padding."""
    inputs = prepared(targets)
    together = logits(inputs, np.arange(40))
    for row in (0, 17, 39):
        assert torch.allclose(logits(inputs, np.array([row]))[0], together[row], atol=1e-5)


def test_progress_counts_every_report_once() -> None:
    setup = set_up(small.experiment(), small.TASK)
    told: list[tuple[int, int]] = []
    prepare(setup, small.tokens(), lambda done, total: told.append((done, total)))

    assert told[-1] == (40, 40)
    assert told == sorted(set(told))


def test_an_empty_shard_is_no_trouble() -> None:
    setup = set_up(small.experiment(), small.TASK)

    assert len(prepare(setup, small.tokens().select(np.array([], int)))) == 0


@TARGETS
def test_runs_of_a_sweep_share_what_frozen_layers_made(targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, passes = prepared(targets), list[int]()
    real = module._lower_part

    def counted(*arguments: object) -> NDArray[np.float32]:
        passes.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_lower_part", counted)
    parts = SharedLowerParts()
    with sharing(parts):
        first, second = prepared(targets), prepared(targets, privacy__epsilon=1.0, train__checkpointing=True)
        assert len(passes) == 1
        for inputs in (first, second):
            assert inputs.kept is not None
            assert alone.kept is not None
            assert inputs.kept.tobytes() == alone.kept.tobytes()
        prepared(targets, model__pooling="cls", train__warm_start="none")
        prepared(targets, micro_tokens=64)  # other passes, other rounding
        assert len(passes) == 3
        prepared("query" if targets else "query,value")
    assert len(passes) == (3 if targets else 4)  # the same layers below; without LoRA the head reads something else
    prepared(targets)
    assert len(passes) == (4 if targets else 5)  # nothing is shared outside


def test_the_head_alone_shares_nothing_where_another_centring_is_meant() -> None:
    setup = set_up(small.experiment(lora__targets=""), small.TASK)
    with sharing(SharedLowerParts()):
        before = prepare(setup, small.tokens())
        setup.classifier.set_centring(torch.ones(32), 2.0)
        after = prepare(setup, small.tokens())
        others = prepare(setup, small.tokens(seed=1))
    assert before.kept is not None
    assert after.kept is not None
    assert others.kept is not None
    assert np.abs(before.kept - after.kept).max() > 0.1
    assert np.abs(after.kept - others.kept).max() > 0.01


def test_what_is_shared_has_bounds() -> None:
    parts = SharedLowerParts(at_most=80)
    for name in "abc":
        parts.keep(name, np.zeros(10, dtype=np.float32))
    assert [name for name in "abc" if parts.found(name) is not None] == ["b", "c"]
