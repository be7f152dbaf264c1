"""The number of passes: a function of public figures that a step exceeds with negligible probability only."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrad.privacy.passes import MARGIN, SHARE_OF_DELTA, STEPS_COVERED, most_units, padded, passes_of_step


def exceeded(n: int, rate: float, passes: int) -> float:
    """P(Binomial(n, rate) > passes), summed term by term and not by the library that chose ``passes``."""
    if rate == 1.0:
        return float(n > passes)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(rate)
        + (n - k) * math.log1p(-rate)
        for k in range(passes + 1, n + 1)
    ]  # fmt: skip
    return math.fsum(math.exp(value) for value in logs)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.floats(1e-4, 1.0), st.sampled_from([1e-9, 1e-5, 1e-3]))
def test_a_million_steps_exceed_it_with_a_hundredth_of_delta_at_most(declared: int, rate: float, delta: float) -> None:
    passes = passes_of_step(declared, rate, delta)
    for n in {1, declared, most_units(declared)}:
        assert STEPS_COVERED * exceeded(n, rate, passes) <= SHARE_OF_DELTA * delta * (1 + 1e-6)
    if passes > 1:  # and it is no larger than that takes
        assert STEPS_COVERED * exceeded(most_units(declared), rate, passes - 1) > SHARE_OF_DELTA * delta * (1 - 1e-6)


def test_where_everybody_is_drawn_it_is_the_largest_shard_that_the_declared_size_covers() -> None:
    assert passes_of_step(40, 1.0, 1e-5) == most_units(40) == 44
    assert most_units(1) == 2
    assert MARGIN == 0.1  # docs/privacy.md says so


def test_a_million_sampled_steps() -> None:
    drawn = np.random.default_rng(0).binomial(most_units(500), 0.1, STEPS_COVERED)
    assert drawn.max() <= passes_of_step(500, 0.1, 1e-5)
    assert drawn.max() > passes_of_step(500, 0.08, 1e-5) * 0.8  # control: the figure is not far above what is drawn


@pytest.mark.parametrize(("needed", "runs"), [(0, 7), (1, 7), (7, 7), (8, 14), (14, 14), (15, 21)])
def test_more_than_planned_is_the_next_multiple(needed: int, runs: int) -> None:
    assert padded(needed, 7) == runs
