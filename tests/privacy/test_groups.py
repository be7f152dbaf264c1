"""Group figures against golden values and against dp_accounting's own (slow) mixture of Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy import groups
from fedrad.privacy.accounting import Event, epsilon
from fedrad.privacy.filter import FILTER, Account, Founding, composed_epsilon, rdp_of_step
from fedrad.privacy.groups import account_epsilon, group_epsilon, patients_in_words
from fedrad.privacy.plan import PrivacyPlan

# dp_accounting 0.6.0, MixtureOfGaussiansDpEvent, delta 1e-5.
GOLDEN = [
    ((0.02, 1.6, 1000), {1: 1.7946, 2: 3.9303, 3: 6.3095, 5: 11.7325, 8: 21.44}),
    ((256 / 3000, 2.0, 200), {1: 2.8156, 2: 6.2820, 3: 10.2551, 5: 19.6252, 8: 37.11}),
]


@pytest.mark.parametrize(("event", "k", "expected"), [(e, k, v) for e, figures in GOLDEN for k, v in figures.items()])
def test_golden_values(event: tuple[float, float, int], k: int, expected: float) -> None:
    found = group_epsilon([event], 1e-5, k)
    assert 0.9999 * expected <= found <= 1.002 * expected  # the grid may be wider, never to our advantage


def composed(step: groups._Step, width: float, steps: int) -> float:
    return max(groups._epsilon_of(one.self_compose(steps), 1e-5, width) for one in step.masses(width))


def oracle(event: tuple[float, float, int], k: int, delta: float, width: float) -> float:
    rate, sigma, steps = event
    weights = [float(w) for w in stats.binom.pmf(range(k + 1), k, rate)]
    one = pld.from_mixture_gaussian_mechanism(sigma, list(range(k + 1)), weights, value_discretization_interval=width)
    return float(one.self_compose(steps).get_epsilon_for_delta(delta))


@pytest.mark.parametrize(
    ("event", "k"), [((0.02, 1.6, 100), 3), ((0.3, 4.0, 20), 2), ((1.0, 10.0, 20), 4), ((0.05, 0.8, 3), 6)]
)
def test_agrees_with_the_library_on_the_same_grid(event: tuple[float, float, int], k: int) -> None:
    step = groups._Step(event[0], event[1], k)
    ours = composed(step, 0.01, event[2])
    assert ours == pytest.approx(oracle(event, k, 1e-5, 0.01), rel=1e-6)


def test_the_distribution_of_one_is_the_accountant_s() -> None:
    """`group_epsilon` never asks the mixture for k = 1, so ask it here."""
    step = groups._Step(0.02, 1.6, 1)
    own = composed(step, 0.001, 1000)
    assert own == pytest.approx(epsilon([(0.02, 1.6, 1000)], 1e-5), rel=1e-3)
    assert group_epsilon([(0.02, 1.6, 1000)], 1e-5, 1) == epsilon([(0.02, 1.6, 1000)], 1e-5)


def test_without_sampling_a_group_is_a_larger_clip_norm() -> None:
    """Exact: k reports in every step move the sum by k, which is a Gaussian with sigma / k."""
    for k in (2, 7):
        exact = epsilon([(1.0, 10.0 / k, 20)], 1e-5)
        assert exact * 0.9999 <= group_epsilon([(1.0, 10.0, 20)], 1e-5, k) <= exact * 1.002


@settings(max_examples=8, deadline=None)
@example(rate=0.5234375, sigma=3.1875, steps=280, k=12, delta=1e-5)  # at 710, where the library's figure overflows
@given(
    rate=st.floats(0.001, 0.9),
    sigma=st.floats(0.7, 20.0),
    steps=st.integers(1, 300),
    k=st.integers(2, 12),
    delta=st.sampled_from([1e-3, 1e-5, 1e-7]),
)
def test_between_one_report_and_all_or_none(rate: float, sigma: float, steps: int, k: int, delta: float) -> None:
    """More reports cost more; and k that come or go together (sampled as one) at the rate of any of them cost most."""
    found = [group_epsilon([(rate, sigma, steps)], delta, j) for j in (1, k, k + 1)]
    assert found[0] * 0.999 <= found[1] <= found[2] * 1.002 + 1e-4
    together = -math.expm1(k * math.log1p(-rate))
    if sigma / k > 0.4:
        assert found[1] <= epsilon([(together, sigma / k, steps)], delta) * 1.002 + 1e-4


def test_far_below_what_group_privacy_says_of_any_mechanism() -> None:
    assert group_epsilon([(0.02, 1.6, 1000)], 1e-5, 2) < 4.0646  # the same by black-box group privacy, at this delta


def test_splits_and_order_do_not_matter_and_empty_ledgers_are_free() -> None:
    split = [(0.05, 2.0, 30), (0.02, 1.6, 100), (0.05, 2.0, 70)]
    assert group_epsilon(split, 1e-5, 3) == group_epsilon([(0.02, 1.6, 100), (0.05, 2.0, 100)], 1e-5, 3)
    assert group_epsilon(split, 1e-5, 3) > group_epsilon(split[:1], 1e-5, 3)
    for free in ([], [(0.0, 1.0, 5)], [(0.1, 1.0, 0)]):
        assert group_epsilon(free, 1e-5, 5) == 0.0
    assert group_epsilon([(0.1, 0.0, 1)], 1e-5, 5) == math.inf


@pytest.mark.parametrize(
    ("event", "delta", "k"), [((2.0, 1.0, 1), 1e-5, 2), ((0.1, 1.0, 1), 0.0, 2), ((0.1, 1.0, 1), 1e-5, 0)]
)
def test_nonsense_is_refused(event: tuple[float, float, int], delta: float, k: int) -> None:
    with pytest.raises(PlanError):
        group_epsilon([event], delta, k)


def test_a_group_that_costs_less_than_one_report_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    pmf = stats.binom.pmf
    monkeypatch.setattr(stats.binom, "pmf", lambda j, k, rate: pmf(j, k, rate / 10))
    groups._group_epsilon.cache_clear()
    with pytest.raises(PrivacyError, match="trust neither"):
        group_epsilon([(0.0201, 1.6, 1000)], 1e-5, 2)


def accounts(*ledgers: list[tuple[float, float, int]]) -> list[Account]:
    """Of hospitals with one plan each."""
    return [Account(tuple(Event(*each) for each in ledger)) for ledger in ledgers]


def test_two_hospitals() -> None:
    one, other = [(0.02, 1.6, 1000)], [(0.05, 2.0, 500)]
    assert composed_epsilon(accounts(one, one), 1e-5) == pytest.approx(2.60797, rel=1e-4)
    assert composed_epsilon(accounts(one, other), 1e-5) == pytest.approx(3.19123, rel=1e-4)
    # Negative control: the maximum over hospitals, which is right for a report in one of them, is far too small here.
    assert max(epsilon(one, 1e-5), epsilon(other, 1e-5)) < 2.6


def test_the_words() -> None:
    small, large = [(0.02, 4.0, 100)], [(0.05, 4.0, 100)]
    report = patients_in_words("report", accounts(small, large, small), 1e-5, (2, 3))
    for k in (2, 3):
        figure = float(report.split(f"{k} reports have epsilon ")[1].split(" ")[0].rstrip(",."))
        exact = group_epsilon(large, 1e-5, k)
        assert exact <= figure <= exact * 1.001
    figure = float(report.split("whichever they are, has epsilon ")[1].rstrip("."))
    assert figure >= epsilon([*small, *large], 1e-5)
    # Two hospitals may have the same ledger.
    twins = patients_in_words("report", accounts(large, large), 1e-5, (2,))
    assert float(twins.split("has epsilon ")[1].rstrip(".")) >= epsilon([*large, *large], 1e-5)
    assert "two hospitals" not in patients_in_words("report", accounts(small, large), 1e-5, (2,), pairs=False)
    patient = patients_in_words("patient", accounts(small), 1e-5)
    assert "however many" in patient
    assert "epsilon" not in patient
    assert "2 reports have no guarantee" in patients_in_words("report", accounts([(0.5, 0.0, 1)]), 1e-5, (2,))
    with pytest.raises(PlanError, match="nothing to say"):
        patients_in_words("hospital", accounts(small), 1e-5)


def test_the_figure_is_the_worst_hospitals_even_where_single_reports_have_the_same_epsilon() -> None:
    """Plans for the same epsilon: which hospital has the largest is decided by the last digits of the calibration."""
    sizes = {600: 128, 20_000: 128}
    plans = [
        PrivacyPlan.calibrate(
            epsilon=1.0, delta=1e-5, declared_size=size, expected_batch=batch, steps=20, clip=1.0, noise="system"
        )
        for size, batch in sizes.items()
    ]
    ledgers = [[plan.event(20)] for plan in plans]
    ones = [epsilon(events, 1e-5) for events in ledgers]
    tens = [group_epsilon(events, 1e-5, 10) for events in ledgers]
    assert ones[0] == pytest.approx(ones[1], rel=1e-3)
    assert max(tens) > 1.4 * min(tens)  # control: it matters which one is told
    said = patients_in_words("report", accounts(*ledgers), 1e-5, (10,))
    assert float(said.split("10 reports have epsilon ")[1].split(" ")[0].rstrip(".")) >= max(tens)


def test_of_very_many_hospitals_it_says_which_were_looked_at() -> None:
    ledgers = [[(0.001 * (i + 1), 4.0, 5)] for i in range(14)]
    said = patients_in_words("report", accounts(*ledgers), 1e-5, (2,))
    assert "one hospital among the 6 kinds with the largest epsilons and the 6 that sample most often" in said
    assert "two of these kinds of hospitals" in said
    patients = patients_in_words("patient", accounts(*ledgers), 1e-5)
    assert "Somebody who is a patient at each of two of these kinds" in patients
    assert float(said.split("2 reports have epsilon ")[1].split(" ")[0].rstrip(".")) >= group_epsilon(
        ledgers[-1], 1e-5, 2
    )


@pytest.mark.parametrize("weak_rate", [0.03, 0.02])
def test_the_weakest_hospital_is_looked_at_however_many_there_are(weak_rate: float) -> None:
    """At the same rate as all others, or at a lower one."""
    weak = [(weak_rate, 0.7, 10)]
    ledgers = [weak, *([(0.03, 4.0 + i, 10)] for i in range(13))]
    said = patients_in_words("report", accounts(*ledgers), 1e-5, (2,))
    assert float(said.split("2 reports have epsilon ")[1].split(" ")[0].rstrip(".")) >= group_epsilon(weak, 1e-5, 2)


@pytest.mark.parametrize(("rate", "sigma"), [(0.0853, 2.0), (0.3, 8.8), (1.0, 3.0)])
def test_divergences_of_a_group_of_one_are_those_of_a_step(rate: float, sigma: float) -> None:
    """At orders that do not reach into the tails, which are taken off delta instead."""
    found, lost = groups._Step(rate, sigma, 1).divergences()
    np.testing.assert_allclose(found[:6], rdp_of_step(rate, sigma)[:6], rtol=1e-3)
    assert 0 < lost < 1e-20


def test_groups_in_a_ledger_with_several_plans_are_counted_by_the_filter() -> None:
    event = Event(0.05, 4.0, 100)
    order = Founding(1.0, 1e-5).order(event)
    several, one = Account((event,), FILTER, order), Account((event,))
    figures = [account_epsilon(several, 1e-5, k) for k in (1, 2, 5)]

    assert figures[0] == several.epsilon(1e-5)
    for k, figure in zip((1, 2, 5), figures, strict=True):
        pld = group_epsilon([event], 1e-5, k)
        assert account_epsilon(one, 1e-5, k) == pld < figure < 2 * pld
    said = patients_in_words("report", [several, one], 1e-5, (2,))
    assert float(said.split("2 reports have epsilon ")[1].split(" ")[0].rstrip(".")) >= figures[1]
    both = composed_epsilon([several, one], 1e-5)
    assert float(said.split("whichever they are, has epsilon ")[1].rstrip(".")) >= both
