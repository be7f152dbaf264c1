"""Golden values: dp_accounting 0.6's PLD (pessimistic connect-the-dots), checked once against Opacus's PRV and RDP."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
from scipy import optimize, stats

import fedrad
from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy import accounting, calibration
from fedrad.privacy.accounting import Event, epsilon, rdp_epsilon
from fedrad.privacy.calibration import smallest_noise_multiplier
from fedrad.privacy.composition import Figure

# rate, noise multiplier, steps, delta, epsilon
GOLDEN = [
    (0.02, 60, 300, 1e-5, 0.014740),
    (0.02, 8, 300, 1e-5, 0.139051),
    (0.02, 1.6, 1000, 1e-5, 1.794567),
    (0.02, 1.0, 1000, 1e-5, 3.899092),
    (0.02, 0.7, 1500, 1e-5, 11.090809),
    (0.01, 1.0, 1000, 1e-5, 1.828244),
    (256 / 60000, 1.1, 14063, 1e-5, 2.381779),
    (0.004, 0.5, 2000, 1e-6, 10.056390),
    (1, 10, 100, 1e-5, 4.377178),
    (1, 100, 20, 1e-5, 0.141685),
    (0.25, 4, 200, 1 / 3000, 3.094504),
    (0.05, 1.0, 1, 1e-5, 1.032791),
    (1e-4, 0.7, 100_000, 1e-7, 0.495196),  # width 3e-6; at 1e-4, which is coarse for so many steps, 0.496419
    (256 / 3000, 2.0, 200, 1e-5, 2.815562),
]
# epsilon, smallest noise multiplier for 200 steps at rate 256/3000 and delta 1e-5
CALIBRATED = [
    (0.01, 294.28),
    (0.1, 37.213),
    (0.5, 8.6213),
    (1, 4.6626),
    (2, 2.6060),
    (3, 1.9084),
    (8, 1.0264),
    (10, 0.9142),
]

Accountant = Callable[[float, float, int, float], float]


def ours(rate: float, sigma: float, steps: int, delta: float) -> float:
    return epsilon([(rate, sigma, steps)], delta)


def gaussian_delta(mu: float, eps: float) -> float:
    return float(stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps + stats.norm.logcdf(-mu / 2 - eps / mu)))


def central_limit(rate: float, sigma: float, steps: int, delta: float) -> float:
    """Gaussian DP's CLT figure: too small for subsampled steps."""
    mu = rate * math.sqrt(steps * math.expm1(sigma**-2)) if rate < 1 else math.sqrt(steps) / sigma
    return float(optimize.brentq(lambda eps: gaussian_delta(mu, eps) - delta, 0, 100))


def one_step_exactly(rate: float, sigma: float, delta: float) -> float:
    """The larger of the two directions of one Poisson-subsampled Gaussian step, in closed form."""

    def removed(eps: float) -> float:  # (1-q)N(0) + qN(1) against N(0)
        x = sigma**2 * math.log((math.exp(eps) - 1 + rate) / rate) + 0.5
        without, with_it = float(stats.norm.sf(x, 0, sigma)), float(stats.norm.sf(x, 1, sigma))
        return (1 - rate) * without + rate * with_it - math.exp(eps) * without

    return float(optimize.brentq(lambda eps: removed(eps) - delta, 1e-9, 60))


def matches_golden(accountant: Accountant, row: tuple[float, float, int, float, float]) -> bool:
    # The golden rows were computed on finer grids in places: a part in 10,000 and the last printed digit.
    return abs(accountant(*row[:4]) - row[4]) <= 1e-4 * row[4] + 1e-6


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row[0]:.4g}-{row[1]}-{row[2]}")
def test_golden(row: tuple[float, float, int, float, float]) -> None:
    assert matches_golden(ours, row)


@pytest.mark.parametrize("row", [r for r in GOLDEN if r[0] < 1], ids=lambda row: f"{row[0]:.4g}-{row[1]}-{row[2]}")
def test_negative_control_the_clt_figure_is_caught(row: tuple[float, float, int, float, float]) -> None:
    assert not matches_golden(central_limit, row)
    assert central_limit(*row[:4]) < row[4]


@pytest.mark.parametrize(
    "broken",
    [
        lambda q, s, t, d: ours(q, s, t - 1, d),
        lambda q, s, t, d: ours(1 / math.ceil(1 / q), s, t, d),
        lambda q, s, t, d: ours(q, s, t, 2 * d),
    ],
    ids=["one step short", "rate of a loader", "delta doubled"],
)
def test_negative_control_small_mistakes_are_caught(broken: Accountant) -> None:
    assert not matches_golden(broken, (256 / 3000, 2.0, 200, 1e-5, 2.815562))


@pytest.mark.parametrize(
    ("rate", "sigma", "delta"), [(0.05, 1.0, 1e-5), (0.3, 0.8, 1e-6), (0.9, 2.0, 1e-4), (0.01, 0.5, 1e-7)]
)
def test_one_step_is_exact_and_from_above(rate: float, sigma: float, delta: float) -> None:
    exact = one_step_exactly(rate, sigma, delta)
    assert exact <= epsilon([(rate, sigma, 1)], delta) <= exact * 1.001 + 1e-9


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-7, 1e-9])
def test_many_steps_without_sampling_are_exact_and_from_above(delta: float) -> None:
    """Also through the Fourier transforms, at the smallest delta (a rate of 1 would take the closed form)."""
    exact = float(optimize.brentq(lambda eps: gaussian_delta(10 / 9, eps) - delta, 0, 60))
    assert exact <= epsilon([(1.0, 9.0, 100)], delta) <= exact * 1.001
    assert exact * (1 - 1e-6) <= epsilon([(1 - 1e-12, 9.0, 100)], delta) <= exact * 1.001


def test_heterogeneous() -> None:
    assert epsilon([(0.02, 1.0, 500), (0.02, 2.0, 500)], 1e-5) == pytest.approx(2.945011, abs=2e-6)
    # two hospitals that share a patient
    assert epsilon([(0.02, 1.6, 1000), (0.05, 2.0, 500)], 1e-5) == pytest.approx(3.19123, abs=1e-5)
    assert epsilon([(0.02, 1.6, 1000)] * 2, 1e-5) == pytest.approx(2.60797, abs=1e-5)
    mixed = epsilon([(1.0, 20.0, 10), (0.02, 1.0, 500)], 1e-5)
    assert mixed > max(epsilon([(1.0, 20.0, 10)], 1e-5), epsilon([(0.02, 1.0, 500)], 1e-5))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.randoms())
@settings(max_examples=8, deadline=None)
def test_split_and_order_change_nothing(parts: list[int], random) -> None:
    events = [(0.05, 2.0, n) for n in parts] + [(1.0, 30.0, n) for n in parts] + [(0.1, 3.0, 7)]
    shuffled = random.sample(events, len(events))
    whole = [(0.05, 2.0, sum(parts)), (1.0, 30.0, sum(parts)), (0.1, 3.0, 7)]
    assert epsilon(events, 1e-5) == epsilon(shuffled, 1e-5) == epsilon(whole, 1e-5)


def test_twenty_rounds_are_one_run() -> None:
    assert epsilon([(256 / 3000, 2.0, 10)] * 20, 1e-5) == epsilon([(256 / 3000, 2.0, 200)], 1e-5)


@pytest.mark.slow
@given(st.floats(0.005, 0.5), st.floats(0.7, 50), st.integers(1, 400), st.floats(1.02, 2))
@settings(max_examples=6, deadline=None)
def test_monotone(rate: float, sigma: float, steps: int, factor: float) -> None:
    base = epsilon([(rate, sigma, steps)], 1e-5)
    more = max(steps + 1, int(steps * factor))
    assert epsilon([(rate, sigma, more)], 1e-5) >= base
    assert epsilon([(rate, sigma / factor, steps)], 1e-5) >= base
    assert epsilon([(min(rate * factor, 1.0), sigma, steps)], 1e-5) >= base
    assert epsilon([(rate, sigma, steps)], 1e-6) >= base
    assert epsilon([(rate, sigma, steps), (0.01, 5.0, 1)], 1e-5) >= base


@pytest.mark.slow
@pytest.mark.parametrize("epsilon_target", [0.03, 0.5, 4.99, 5.01])
def test_every_prefix_of_a_run_costs_less_than_the_run(epsilon_target: float) -> None:
    """The grid changes with the figure; that must never make fewer steps dearer."""
    sigma = smallest_noise_multiplier(epsilon_target, 1e-5, 0.1, 60)
    spent = [epsilon([(0.1, sigma, steps)], 1e-5) for steps in (1, 2, 10, 30, 50, 58, 59, 60)]
    assert spent == sorted(spent)
    assert spent[-1] <= epsilon_target


def test_edges() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([(0.1, 1.0, 0), (0.0, 1.0, 5), (0.0, 0.0, 5), (0.1, 0.0, 0), (0.5, math.inf, 3)], 1e-5) == 0.0
    assert epsilon([(0.1, 0.0, 1)], 1e-5) == math.inf
    assert epsilon([(0.1, 2.0, 10), (1.0, 0.0, 1)], 1e-5) == math.inf
    assert epsilon([Event(0.1, 1000.0, 1)], 1e-5) < 1e-4
    assert math.isfinite(epsilon([(1.0, 0.02, 3)], 1e-5))
    assert fedrad.epsilon is epsilon


@pytest.mark.parametrize(
    ("event", "delta"),
    [((1.1, 1.0, 1), 1e-5), ((-0.1, 1.0, 1), 1e-5), ((math.nan, 1.0, 1), 1e-5), ((0.1, -1.0, 1), 1e-5)]
    + [((0.1, math.nan, 1), 1e-5), ((0.1, 1.0, -1), 1e-5), ((0.1, 1.0, 1.5), 1e-5)]
    + [((0.1, 1.0, steps), 1e-5) for steps in (math.inf, math.nan, 10**400)]
    + [((0.1, 1.0, 1), d) for d in (0.0, 1.0, -1e-5, 1e-12, math.nan)],
)
def test_nonsense_is_refused(event: tuple[float, float, int], delta: float) -> None:
    with pytest.raises(PlanError):
        epsilon([event], delta)


@pytest.mark.parametrize("row", GOLDEN[:6], ids=lambda row: f"{row[0]:.4g}-{row[1]}-{row[2]}")
def test_rdp_is_an_upper_bound_that_opacus_confirms(row: tuple[float, float, int, float, float]) -> None:
    rate, sigma, steps, delta, pld = row
    orders = [*range(2, 64)]
    theirs, _ = get_privacy_spent(
        orders=orders, rdp=compute_rdp(q=rate, noise_multiplier=sigma, steps=steps, orders=orders), delta=delta
    )
    value = rdp_epsilon([(rate, sigma, steps)], delta)
    assert pld <= value <= float(theirs) * 1.005


def test_accountants_that_disagree_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "_quick_bound", lambda events, delta: 0.5)
    with pytest.raises(PrivacyError, match="disagree"):
        epsilon([(0.0213, 1.0, 1000)], 1e-5)


@pytest.mark.parametrize(("target", "sigma"), CALIBRATED)
def test_calibration_golden(target: float, sigma: float) -> None:
    found = smallest_noise_multiplier(target, 1e-5, 256 / 3000, 200)
    assert found == pytest.approx(sigma, rel=2.5e-4)
    assert epsilon([(256 / 3000, found, 200)], 1e-5) <= target


@pytest.mark.slow
@given(st.floats(0.02, 12), st.sampled_from([0.01, 0.1, 0.5, 1.0]), st.sampled_from([1, 10, 150]))
@settings(max_examples=5, deadline=None)
def test_calibration_is_met_from_below_and_tight(target: float, rate: float, steps: int) -> None:
    found = smallest_noise_multiplier(target, 1e-5, rate, steps)
    assert epsilon([(rate, found, steps)], 1e-5) <= target
    assert epsilon([(rate, found * (1 - 2e-4), steps)], 1e-5) > target


def test_calibration_refuses_what_can_not_be() -> None:
    for arguments in [
        (0.0, 1e-5, 0.1, 1),
        (math.inf, 1e-5, 0.1, 1),
        (1.0, 0.0, 0.1, 1),
        (1.0, 1e-5, 0.0, 1),
        (1.0, 1e-5, 0.1, 0),
    ]:
        with pytest.raises(PlanError):
            smallest_noise_multiplier(*arguments)


def test_no_noise_multiplier_meets_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "_pld", lambda events, delta, third: Figure(5.0, 1.0, 1.0))
    monkeypatch.setattr(accounting, "_quick_bound", lambda events, delta: 6.0)
    with pytest.raises(PlanError, match="No noise multiplier"):
        smallest_noise_multiplier(0.987, 1e-5, 0.1234, 17)


def test_a_rate_below_delta_needs_next_to_no_noise() -> None:
    assert smallest_noise_multiplier(3.0, 1e-5, 1e-6, 1) == calibration.SMALLEST_NOISE


@given(
    st.lists(st.tuples(st.floats(1e-3, 1.0), st.floats(0.5, 20.0), st.integers(1, 300)), min_size=1, max_size=3),
    st.floats(1e-6, 0.1),
)
@settings(max_examples=10, deadline=None)
def test_the_divergences_kept_for_one_step_compose_to_what_the_accountant_says(
    events: list[tuple[float, float, int]], delta: float
) -> None:
    merged = accounting._merge(events)
    whole = RdpAccountant(accounting._RDP_ORDERS)
    for rate, sigma, count in merged:
        whole.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)), count)
    assert rdp_epsilon(events, delta) == whole.get_epsilon(delta)


def test_a_noise_multiplier_that_was_kept_is_checked_before_it_is_believed() -> None:
    arguments = (1.7, 1e-5, 0.05, 23)
    right = smallest_noise_multiplier(*arguments)
    (kept,) = {calibration._kept_noise(1.7 * (1 - 1e-9), *arguments[1:])}
    assert float(kept.read_text()) == right
    for wrong in (repr(0.5 * right), "nan", "0", "-1", "inf", "", "nonsense"):
        kept.write_text(wrong)  # somebody who may write the cache must not be able to lower the noise
        smallest_noise_multiplier.cache_clear()
        assert smallest_noise_multiplier(*arguments) == right
        assert float(kept.read_text()) == right
    assert epsilon([(0.05, 0.5 * right, 23)], 1e-5) > 1.7  # control: half the noise would have broken the promise


def test_a_cache_that_can_not_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDRAD_CACHE", str(tmp_path / "file" / "cache"))
    smallest_noise_multiplier.cache_clear()
    assert epsilon([(0.05, smallest_noise_multiplier(1.7, 1e-5, 0.05, 23), 23)], 1e-5) <= 1.7
