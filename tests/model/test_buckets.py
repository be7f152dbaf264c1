from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.model.buckets import OVERHEAD, micro_batches

lengths_and_indices = st.lists(st.integers(1, 300), min_size=1, max_size=80).flatmap(
    lambda lengths: st.tuples(st.just(lengths), st.lists(st.integers(0, len(lengths) - 1), unique=True))
)


@given(lengths_and_indices, st.integers(1, 1000))
def test_every_report_once_within_the_limit(made_up: tuple[list[int], list[int]], max_tokens: int) -> None:
    lengths, indices = np.array(made_up[0]), np.array(made_up[1], dtype=np.int64)
    batches = micro_batches(lengths, indices, max_tokens)
    assert sorted(k for batch in batches for k in batch.tolist()) == sorted(indices.tolist())
    assert all(len(batch) for batch in batches)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= max_tokens
    shuffled = indices[np.random.default_rng(0).permutation(len(indices))]
    assert [b.tolist() for b in micro_batches(lengths, shuffled, max_tokens)] == [b.tolist() for b in batches]


def test_sorted_by_length_and_index() -> None:
    batches = micro_batches(np.array([5, 2, 5, 9, 2]), np.array([4, 3, 2, 1, 0]), 10, overhead=1)
    assert [batch.tolist() for batch in batches] == [[1, 4], [0, 2], [3]]
    assert micro_batches(np.array([5]), np.array([], dtype=np.int64), 10) == []


def cost(widths: list[list[int]], overhead: int) -> int:
    return sum(len(batch) * max(batch) + overhead for batch in widths)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 120), st.integers(1, 60))
def test_no_other_cut_is_cheaper(lengths: list[int], max_tokens: int, overhead: int) -> None:
    """Against all 2^(n-1) ways to cut the sorted reports."""
    found = micro_batches(np.array(lengths), np.arange(len(lengths)), max_tokens, overhead)
    ordered = sorted(lengths)
    cuts = [
        [ordered[a:b] for a, b in pairwise([0, *inner, len(ordered)])]
        for k in range(len(ordered))
        for inner in combinations(range(1, len(ordered)), k)
    ]
    allowed = [cut for cut in cuts if all(len(b) == 1 or len(b) * max(b) <= max_tokens for b in cut)]
    assert cost([[lengths[i] for i in batch] for batch in found], overhead) == min(cost(c, overhead) for c in allowed)


def test_real_lengths_are_hardly_padded() -> None:
    """Report lengths as on Open-i (median 63, 99th percentile 178): under a tenth of the tokens is padding."""
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(63), 0.45, 64).astype(np.int64), 6, 256)
    batches = micro_batches(lengths, np.arange(64), 2048)
    computed = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert computed < 1.1 * lengths.sum()
    assert computed < 0.5 * 64 * lengths.max()  # what padding to the longest computes


@pytest.mark.parametrize("overhead", [1, OVERHEAD, 10_000])
def test_equal_lengths_fill_the_budget(overhead: int) -> None:
    assert [len(b) for b in micro_batches(np.full(10, 7), np.arange(10), 30, overhead)] == [4, 4, 2]
