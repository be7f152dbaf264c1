"""Paired statistics: cases that can be worked out by hand or by enumeration, and how often they err under the null."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from fedrad.evidence.paired import (
    Seed,
    bootstrap,
    bootstrap_p,
    equivalence,
    holm,
    interval,
    label_f1,
    mcnemar,
    mean_interval,
    observed,
    patient_counts,
    randomisation_p,
    signed_rank_p,
    smallest_signed_rank_p,
    weighted_f1,
)

Bools = NDArray[np.bool_]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def corpus(patients: int, seed: int, labels: int = 3) -> tuple[Bools, NDArray[np.int64]]:
    """Labels of one to three reports of each patient, and whose they are."""
    draw = generator(seed)
    owners = np.repeat(np.arange(patients), draw.integers(1, 4, patients))
    return draw.random((len(owners), labels)) < 0.4, owners


def noisy(truth: Bools, share: float, draw: np.random.Generator) -> Bools:
    """Decisions of which this share is wrong."""
    return truth ^ (draw.random(truth.shape) < share)


def seed_of(truth: Bools, owners: NDArray[np.int64], *models: Bools, name: str = "one") -> Seed:
    known = np.ones_like(truth)
    return Seed(np.stack([patient_counts(m, truth, known, owners) for m in models]), name)


def test_f1_is_scikit_learns() -> None:
    truth, owners = corpus(50, seed=1)
    decisions, known = noisy(truth, 0.2, generator(2)), generator(3).random(truth.shape) < 0.9
    totals = patient_counts(decisions, truth, known, owners).sum(axis=0)
    masked = [f1_score(truth[known[:, k], k], decisions[known[:, k], k]) for k in range(3)]
    everything = patient_counts(decisions, truth, np.ones_like(known), owners).sum(axis=0)

    assert label_f1(totals) == pytest.approx(masked)
    assert weighted_f1(everything) == pytest.approx(f1_score(truth, decisions, average="weighted"))
    assert weighted_f1(np.zeros((2, 3))) == 0.0


def test_counts_are_of_patients_and_leave_out_what_is_masked() -> None:
    truth = np.array([[1], [1], [0], [0]], dtype=bool)
    decisions = np.array([[1], [0], [1], [1]], dtype=bool)
    known = np.array([[1], [1], [1], [0]], dtype=bool)

    counts = patient_counts(decisions, truth, known, np.array(["b", "a", "b", "a"]))

    assert counts.tolist() == [[[0, 0, 1]], [[1, 1, 0]]]  # a missed one; b found one and invented one


def test_mcnemar_by_hand() -> None:
    # 1 report right with the first only, 5 with the second only: 2 (C(6,0) + C(6,1)) / 2^6 = 14/64; mid-p takes off
    # C(6,1) / 2^6.
    gains = np.array([-1, 1, 1, 1, 1, 1, 0, 0])

    found = mcnemar([gains], [np.arange(8)])

    assert (found.only_first, found.only_second, found.first_ahead, found.second_ahead) == (1, 5, 0, 1)
    assert found.exact == pytest.approx(14 / 64)
    assert found.mid == pytest.approx(14 / 64 - 6 / 64)
    nothing = mcnemar([np.zeros(3, dtype=np.int64)], [np.arange(3)])
    assert (nothing.exact, nothing.mid) == (1.0, 1.0)
    even = mcnemar([np.array([-1, 1])], [np.arange(2)])
    assert (even.exact, even.mid) == pytest.approx((1.0, 1 - (1 / 2) / 2))  # Fagerland: half of the chance of a tie


def test_mcnemar_takes_the_reports_and_seeds_of_a_patient_for_one_piece_of_evidence() -> None:
    # Patients a and b, each gained in three seeds: as two pieces of evidence P(|+-3 +-3| >= 6) = 1/2, not 2 / 2^6.
    gains = [np.array([1, 1])] * 3
    clustered = mcnemar(gains, [np.array(["a", "b"])] * 3)
    assert (clustered.only_second, clustered.second_ahead) == (6, 3)
    assert clustered.exact == pytest.approx(1 / 2)
    assert mcnemar(gains, [np.array([2 * seed, 2 * seed + 1]) for seed in range(3)]).exact == pytest.approx(2 / 2**6)
    # A seed that went the other way takes back what another has shown.
    assert mcnemar([np.array([1, 1]), np.array([-1, -1])], [np.arange(2)] * 2).exact == 1.0


def test_mcnemar_is_exact_for_clusters_of_any_size() -> None:
    draw = generator(7)
    owners, gains = draw.integers(0, 7, 30), [draw.integers(-1, 2, 30) for _ in range(3)]
    sums = np.bincount(owners, weights=sum(gains), minlength=7)
    totals = np.array([np.dot(sums, signs) for signs in product([-1, 1], repeat=7)])
    found = mcnemar(gains, [owners] * 3)
    assert 0 < abs(sums.sum()) < np.abs(sums).sum()
    assert found.exact == pytest.approx((np.abs(totals) >= abs(sums.sum())).mean())
    assert found.mid == pytest.approx(
        (np.abs(totals) > abs(sums.sum())).mean() + (np.abs(totals) == abs(sums.sum())).mean() / 2
    )


@pytest.mark.parametrize("seed", range(3))
def test_mcnemar_is_rarely_sure_where_two_models_differ_by_chance(seed: int) -> None:
    """Five seeds that agree about each report: to pool them as if they were five test sets would be far too sure."""
    draw, clustered, pooled = generator(seed), 0, 0
    for _ in range(300):
        gains = [draw.choice([-1, 0, 1], 60, p=[0.2, 0.6, 0.2])] * 5
        clustered += mcnemar(gains, [np.arange(60)] * 5).exact <= 0.05
        pooled += mcnemar(gains, [np.arange(60) + 60 * k for k in range(5)]).exact <= 0.05
    assert clustered <= 300 * 0.05 + 3 * (300 * 0.05 * 0.95) ** 0.5
    assert pooled > 60


def test_holm_by_hand() -> None:
    # In order .01, .02, .03, .04: times 4, 3, 2, 1, and never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_randomisation_is_exact_where_all_swaps_can_be_tried() -> None:
    truth, owners = corpus(6, seed=4, labels=2)
    a, b = noisy(truth, 0.4, generator(5)), noisy(truth, 0.1, generator(6))
    seed = seed_of(truth, owners, a, b)
    counts_a, counts_b = seed.counts
    differences = []
    for swaps in product([False, True], repeat=6):
        swap = np.array(swaps)[:, None, None]
        one, other = np.where(swap, counts_b, counts_a), np.where(swap, counts_a, counts_b)
        differences.append(float(weighted_f1(other.sum(axis=0)) - weighted_f1(one.sum(axis=0))))
    everything, seen = np.array(differences), differences[0]  # without a swap
    expected = 2 * min((everything >= seen - 1e-12).mean(), (everything <= seen + 1e-12).mean())

    assert randomisation_p([seed], 64, generator()) == pytest.approx(expected)
    assert randomisation_p([seed, seed], 64, generator()) == pytest.approx(expected)  # swapped in both at once
    assert randomisation_p([seed], 20, generator()) != pytest.approx(expected)  # control: drawn, not enumerated


def test_identical_models_do_not_differ_and_are_equivalent() -> None:
    truth, owners = corpus(80, seed=7)
    a = noisy(truth, 0.2, generator(8))
    draws = bootstrap([seed_of(truth, owners, a, a)], 500, generator())
    differences = draws[:, 1] - draws[:, 0]

    assert np.all(differences == 0)
    assert bootstrap_p(differences) == 1.0
    assert equivalence(differences, 0.01).p == pytest.approx(1 / 501)
    assert randomisation_p([seed_of(truth, owners, a, a)], 200, generator()) == 1.0


def test_a_worse_model_is_found_and_is_not_equivalent() -> None:
    truth, owners = corpus(300, seed=9)
    a, b = noisy(truth, 0.05, generator(10)), noisy(truth, 0.2, generator(11))
    seed = seed_of(truth, owners, a, b)
    draws = bootstrap([seed], 1000, generator())
    differences = draws[:, 1] - draws[:, 0]
    (before, after) = observed([seed])[0]
    low, high = interval(differences)

    assert low < after - before < high < 0
    assert bootstrap_p(differences) == pytest.approx(2 / 1001)
    assert randomisation_p([seed], 999, generator()) <= 2 / 1000
    assert equivalence(differences, 0.01).no_loss > 0.9
    assert equivalence(differences, 0.01).no_gain < 0.01
    assert equivalence(differences, 0.5).p < 0.01  # within a margin that is wide enough


def test_p_values_are_near_uniform_under_the_null() -> None:
    """Two models of the same error rate, on reports that come in patients."""
    draw, p = generator(12), list[tuple[float, float]]()
    for number in range(200):
        truth, owners = corpus(60, seed=100 + number)
        seed = seed_of(truth, owners, noisy(truth, 0.2, draw), noisy(truth, 0.2, draw))
        draws = bootstrap([seed], 300, draw)
        p.append((bootstrap_p(draws[:, 1] - draws[:, 0]), randomisation_p([seed], 300, draw)))

    for values in np.array(p).T:
        assert 0.01 <= (values < 0.05).mean() <= 0.11
        assert 0.4 <= (values < 0.5).mean() <= 0.6


def test_patients_that_are_copied_do_not_make_evidence() -> None:
    """Each report ten times: by patient the interval stays as wide as it was; by report it would shrink to a third."""
    truth, owners = corpus(60, seed=13)
    a, b = noisy(truth, 0.25, generator(14)), noisy(truth, 0.2, generator(15))

    def width(repeat: int, by_patient: bool) -> float:
        t, first, second, who = (np.repeat(x, repeat, axis=0) for x in (truth, a, b, owners))
        seed = seed_of(t, who if by_patient else np.arange(len(who)), first, second)
        draws = bootstrap([seed], 2000, generator(16))
        low, high = interval(draws[:, 1] - draws[:, 0])
        return high - low

    assert width(10, by_patient=True) == pytest.approx(width(1, by_patient=True), rel=0.01)
    assert width(10, by_patient=False) < 0.5 * width(1, by_patient=True)  # control


def test_seeds_of_one_test_set_share_its_patients() -> None:
    """With the same predictions in each, six seeds know no more than one."""
    truth, owners = corpus(60, seed=17)
    a, b = noisy(truth, 0.25, generator(18)), noisy(truth, 0.2, generator(19))

    def width(*names: str) -> float:
        draws = bootstrap([seed_of(truth, owners, a, b, name=name) for name in names], 2000, generator(20))
        low, high = interval(draws[:, 1] - draws[:, 0])
        return high - low

    assert width(*["one"] * 6) == pytest.approx(width("one"), rel=0.1)
    assert width(*"abcdef") < 0.75 * width("one")  # control: six test sets do


def test_the_bootstrap_sees_the_seeds() -> None:
    truth, owners = corpus(400, seed=21)
    seeds = [
        seed_of(truth, owners, noisy(truth, 0.05, generator(n)), noisy(truth, 0.05 + n % 2 * 0.2, generator(50 + n)))
        for n in range(6)
    ]
    draws = bootstrap(seeds, 1000, generator())
    low, high = interval(draws[:, 1] - draws[:, 0])

    assert high - low > 0.08  # half of the seeds lose a lot, half nothing
    alone = bootstrap(seeds[:1], 1000, generator())
    assert np.ptp(interval(alone[:, 1] - alone[:, 0])) < high - low


def test_few_seeds_can_not_reach_five_percent() -> None:
    assert signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(0.0625) == smallest_signed_rank_p(5)
    assert signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(0.03125) == smallest_signed_rank_p(6)
    assert np.isnan(signed_rank_p([0.0, 0.0]))


def test_students_interval_by_hand() -> None:
    # Mean 2, standard deviation 1, t(2) at 97.5% = 4.302653
    low, high = mean_interval([1.0, 2.0, 3.0])

    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert np.isnan(mean_interval([1.0])).all()
