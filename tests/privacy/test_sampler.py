from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fedrad.errors import PlanError
from fedrad.privacy.randomness import Stream
from fedrad.privacy.sampler import poisson_sample

Sampler = Callable[[int, float, Stream], np.ndarray]


def is_poisson(sampler: Sampler, n: int = 40, rate: float = 0.1, draws: int = 4000) -> bool:
    """Inclusion rate, binomial batch sizes, and no dependence between reports or between steps (each at 1e-5)."""
    hit = np.zeros((draws, n))
    for step in range(draws):
        hit[step, sampler(n, rate, Stream.seeded(0, step))] = 1
    sizes = hit.sum(1)
    spread = rate * (1 - rate)
    each = stats.chi2.sf(((hit.sum(0) - draws * rate) ** 2 / (draws * spread)).sum(), n) > 1e-5
    # the batch size is binomial only if the reports are drawn independently of each other
    variance = (draws - 1) * sizes.var(ddof=1) / (n * spread)
    independent = min(stats.chi2.cdf(variance, draws - 1), stats.chi2.sf(variance, draws - 1)) > 1e-5
    follows = abs(np.corrcoef(hit[:-1].ravel(), hit[1:].ravel())[0, 1]) < 4.5 / np.sqrt(draws * n)
    return bool(each and independent and follows)


def fixed_size(n: int, rate: float, stream: Stream) -> np.ndarray:
    return stream.permutation(n)[: round(n * rate)]


def shuffled_batches(n: int, rate: float, stream: Stream) -> np.ndarray:
    """A shuffling loader: every report once in an epoch of 1/rate steps."""
    shuffled_batches.order = getattr(shuffled_batches, "order", np.empty(0, dtype=int))
    if len(shuffled_batches.order) == 0:
        shuffled_batches.order = stream.permutation(n)
    size = round(n * rate)
    batch, shuffled_batches.order = shuffled_batches.order[:size], shuffled_batches.order[size:]
    return batch


def at_least_one(n: int, rate: float, stream: Stream) -> np.ndarray:
    batch = poisson_sample(n, rate, stream)
    return batch if len(batch) > 1 else np.arange(2)


def test_poisson() -> None:
    assert is_poisson(poisson_sample)


@pytest.mark.parametrize("broken", [fixed_size, shuffled_batches, at_least_one], ids=lambda f: f.__name__)
def test_negative_control_other_samplers_are_caught(broken: Sampler) -> None:
    assert not is_poisson(broken)


def test_a_slightly_wrong_rate_is_caught() -> None:
    assert not is_poisson(lambda n, rate, stream: poisson_sample(n, rate * 1.05, stream))


def test_empty_batches_occur_as_often_as_they_should() -> None:
    empty = sum(len(poisson_sample(10, 0.1, Stream.seeded(1, step))) == 0 for step in range(5000))
    assert abs(empty - 5000 * 0.9**10) < 5 * np.sqrt(5000 * 0.35 * 0.65)


def test_edges() -> None:
    s = Stream.system()
    assert poisson_sample(0, 0.5, s).tolist() == []
    assert poisson_sample(5, 0.0, s).tolist() == []
    assert poisson_sample(5, 1.0, s).tolist() == [0, 1, 2, 3, 4]
    sample = poisson_sample(1000, 0.5, s)
    assert sample.dtype == np.int64
    assert (np.diff(sample) > 0).all()
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(PlanError, match="sampling rate"):
            poisson_sample(5, rate, s)


def test_one_report_does_not_change_the_others() -> None:
    """Neighbouring shards draw the same batch, except for the added report itself."""
    small, large = (poisson_sample(n, 0.3, Stream.seeded(5, "sample")) for n in (100, 101))
    assert np.array_equal(small, large[large < 100])
