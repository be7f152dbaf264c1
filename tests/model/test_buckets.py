from __future__ import annotations

from itertools import chain, combinations, pairwise

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


units_of_reports = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=14)


@given(units_of_reports, st.integers(1, 200), st.integers(1, 60))
def test_no_other_cut_of_whole_units_is_cheaper(made_up: list[tuple[int, int]], max_tokens: int, overhead: int) -> None:
    """Against all ways to cut the units, sorted by their longest report, ties by their first: at most 2^5."""
    lengths, units = (np.array(column) for column in zip(*made_up, strict=True))
    found = micro_batches(lengths, np.arange(len(lengths)), max_tokens, overhead, units)
    assert sorted(k for batch in found for k in batch.tolist()) == list(range(len(lengths)))
    homes = [set(units[batch].tolist()) for batch in found]
    assert sum(map(len, homes)) == len(set(units.tolist()))  # none is in two
    whole = [np.flatnonzero(units == unit) for unit in set(units.tolist())]
    whole.sort(key=lambda rows: (lengths[rows].max(), rows[0]))
    ordered = [lengths[rows].tolist() for rows in whole]
    cuts = [
        [ordered[a:b] for a, b in pairwise([0, *inner, len(ordered)])]
        for k in range(len(ordered))
        for inner in combinations(range(1, len(ordered)), k)
    ]
    flat = [[list(chain(*batch)) for batch in cut] for cut in cuts]
    fits = [
        all(len(batch) == 1 or len(reports) * max(reports) <= max_tokens for batch, reports in zip(c, f, strict=True))
        for c, f in zip(cuts, flat, strict=True)
    ]
    best = min(cost(f, overhead) for f, allowed in zip(flat, fits, strict=True) if allowed)
    assert cost([lengths[batch].tolist() for batch in found], overhead) == best


@given(lengths_and_indices, st.integers(1, 1000), st.integers(0, 9))
def test_units_of_one_report_are_cut_as_reports(
    made_up: tuple[list[int], list[int]], max_tokens: int, seed: int
) -> None:
    lengths, indices = np.array(made_up[0]), np.array(made_up[1], dtype=np.int64)
    units = np.random.default_rng(seed).permutation(len(lengths))
    left, right = (micro_batches(lengths, indices, max_tokens, units=u) for u in (units, None))
    assert [batch.tolist() for batch in left] == [batch.tolist() for batch in right]


def test_without_keeping_units_together_a_unit_is_torn_apart() -> None:
    """Control: the same reports without their units are cut in the middle of one."""
    lengths, units = np.array([5, 50, 5, 50]), np.array([0, 0, 1, 1])
    assert [b.tolist() for b in micro_batches(lengths, np.arange(4), 100)] == [[0, 2], [1, 3]]
    assert [b.tolist() for b in micro_batches(lengths, np.arange(4), 100, units=units)] == [[0, 1], [2, 3]]
