"""Fixed point: the error stays within its bound, the sum can't wrap, what is out of range is clamped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedrad.errors import SecureAggregationRefusal
from fedrad.secure.fixed_point import (
    DEFAULT_BOUND,
    FRACTION_BITS,
    check_no_wrap,
    decode,
    encode,
    error_bound,
    flatten,
    out_of_range,
    unflatten,
)


def values(bound: float) -> st.SearchStrategy[float]:
    largest = float(np.float32(bound))
    return st.floats(-largest, largest, width=32)


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 8)), elements=values(DEFAULT_BOUND)),
)
def test_the_sum_is_within_its_error_bound(adapters: np.ndarray) -> None:
    n = len(adapters)
    total = np.sum([encode(row, DEFAULT_BOUND) for row in adapters], axis=0, dtype=np.uint64)
    exact = [math.fsum(float(x) for x in column) for column in adapters.T]

    assert np.abs(decode(total) - exact).max() <= error_bound(n, DEFAULT_BOUND)
    assert error_bound(n, DEFAULT_BOUND) < n * 2.0**-FRACTION_BITS


def test_the_error_bound_is_nearly_reached() -> None:
    """It is no idle bound: a value halfway between two points of the grid loses half a step at each hospital."""
    halfway = np.array([2.0**-41 * (1 - 2**-20)], np.float32)
    total = np.sum([encode(halfway, 1.0) for _ in range(8)], axis=0, dtype=np.uint64)

    assert abs(float(decode(total)[0]) - 8 * float(halfway[0])) > 0.99 * 8 * 2.0**-41


def test_values_on_the_grid_have_no_error() -> None:
    adapter = np.array([0.0, 1.5, -DEFAULT_BOUND, DEFAULT_BOUND, 2**-40, -(2**-17) - 2**-40, 0.1, -99.9], np.float32)

    assert np.array_equal(decode(encode(adapter, DEFAULT_BOUND)), adapter.astype(np.float64))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_that_is_allowed_does_not_wrap(sign: int) -> None:
    hospitals = 2**13 - 1
    check_no_wrap(hospitals, DEFAULT_BOUND)
    one = encode(np.array([sign * DEFAULT_BOUND], np.float32), DEFAULT_BOUND)

    assert decode(one * np.uint64(hospitals))[0] == sign * hospitals * DEFAULT_BOUND


def test_a_bound_at_which_the_sum_could_wrap_is_refused() -> None:
    with pytest.raises(SecureAggregationRefusal, match="could wrap around in the sum: bound must be below 1024"):
        check_no_wrap(2**13, DEFAULT_BOUND)
    one = encode(np.array([DEFAULT_BOUND], np.float32), DEFAULT_BOUND)
    assert decode(one * np.uint64(2**13))[0] == -(2.0**23)  # what would come out


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_bound_is_refused(bound: float) -> None:
    with pytest.raises(SecureAggregationRefusal, match="positive and finite"):
        check_no_wrap(2, bound)


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.float32, st.integers(1, 8), elements=st.floats(width=32, allow_subnormal=True)),
    st.sampled_from([DEFAULT_BOUND, 0.37, 5.0]),
)
def test_no_value_is_refused_and_none_leaves_the_range(adapter: np.ndarray, bound: float) -> None:
    """Whether a hospital answers must not depend on its adapter, and the sum must not wrap around."""
    encoded = decode(encode(adapter, bound))

    assert np.abs(encoded).max() <= bound + 2.0**-FRACTION_BITS
    inside = np.abs(adapter) <= bound
    assert out_of_range(adapter, bound) == int((~inside).sum())
    assert np.abs(encoded - adapter.astype(np.float64))[inside].max(initial=0) <= error_bound(1, bound)


@pytest.mark.parametrize(
    ("beyond", "becomes"), [(math.nan, 0.0), (math.inf, 5.0), (-math.inf, -5.0), (5.01, 5.0), (-3e38, -5.0)]
)
def test_what_is_out_of_range_is_clamped(beyond: float, becomes: float) -> None:
    assert decode(encode(np.array([1.0, beyond], np.float32), bound=5.0)).tolist() == [1.0, becomes]


def test_an_adapter_goes_there_and_back() -> None:
    adapter = {"b": torch.randn(3, 2), "a": torch.randn(4), "c": torch.tensor(1.5)}
    vector = flatten(adapter)
    back = unflatten(decode(encode(vector, DEFAULT_BOUND)), adapter)

    assert vector.tolist()[:4] == adapter["a"].tolist()
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in adapter.items()}
    assert all(torch.allclose(back[name], adapter[name].double(), rtol=0, atol=2.0**-41) for name in adapter)
    with pytest.raises(ValueError, match="do not fill"):
        unflatten(np.zeros(3), adapter)
    with pytest.raises(SecureAggregationRefusal, match=r"b is torch\.bfloat16"):
        flatten({"b": torch.zeros(2, dtype=torch.bfloat16)})
