"""What a sequence of noisy steps costs: epsilon by privacy loss distributions (PLD), with RDP as a cross-check.

Guarantee:
    ``epsilon(events, delta)`` is an upper bound: a mechanism that took these Poisson-sampled Gaussian steps,
    adaptively and with every intermediate result published, is (epsilon, delta)-differentially private when one unit
    is added or removed. It rests on dp_accounting's pessimistic connect-the-dots discretisation (Doroshenko et al.,
    arXiv 2207.04380) and on its floating-point convolutions, whose error is far below the smallest delta that is
    accepted here.

The CLT approximation (Gaussian DP) under-reports subsampled steps, by 5x in places. It only starts the search here.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache, reduce
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from numpy.typing import NDArray
from scipy import optimize, stats

from fedrad.cache import fedrad_cache_dir
from fedrad.errors import PlanError, PrivacyError
from fedrad.privacy import composition
from fedrad.privacy.composition import NoisyStep

# Below this the rounding of the Fourier transforms is no longer negligible beside delta.
SMALLEST_DELTA = 1e-9
# The search for a noise multiplier never looks below this; such a plan meets its target with room to spare.
SMALLEST_NOISE = 0.05
_LARGEST_NOISE = 1e8
# Grid widths are powers of ten: exponents of the usual and of the finest one.
_USUAL_GRID, _FINEST_GRID = -4, -6
# Whole orders have a closed form; fractional ones near 1 do not always converge. Orders above 1024 overflow a binomial
# in scipy, and orders above 64 are needed for epsilon below 0.1.
_RDP_ORDERS = [*range(2, 41), 48, 64, 96, 128, 192, 256, 512, 1024]


class Event(NamedTuple):
    """Noisy steps of one kind: each samples with ``sampling_rate`` and adds noise of ``noise_multiplier`` x clip."""

    sampling_rate: float
    noise_multiplier: float
    steps: int


def epsilon(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    """The epsilon that all these steps together have spent at this delta, from above.

    Args:
        events: (sampling rate, noise multiplier, steps) of each group of steps, in any order and split.
        delta: between 1e-9 and 1, exclusive.

    Returns:
        0.0 for no steps (or a sampling rate of 0), ``math.inf`` where steps took no noise, otherwise the PLD figure on
        a grid no wider than a thousandth of it (down to a width of 1e-6).

    Raises:
        PlanError: a value is outside its range.
        PrivacyError: PLD and RDP contradict each other, so neither can be trusted.
    """
    _check_delta(delta)
    return _epsilon(_merge(events), float(delta))


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Steps of the same kind as one event, sorted: a ledger as a message carries it."""
    return tuple(Event(rate, noise, n) for (rate, noise), n in sorted(step_counts(events).items()))


def step_counts(events: Iterable[Event]) -> Counter[tuple[float, float]]:
    """How many steps there are of each kind (sampling rate, noise multiplier)."""
    total: Counter[tuple[float, float]] = Counter()
    for event in events:
        total[event.sampling_rate, event.noise_multiplier] += event.steps
    return total


def rdp_epsilon(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    """The same by Renyi DP (Mironov et al., arXiv 1908.10530): an independent, looser upper bound."""
    _check_delta(delta)
    return _rdp(_merge(events), float(delta))


@lru_cache(maxsize=256)
def smallest_noise_multiplier(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier with which ``steps`` steps spend at most ``epsilon``, from above.

    It is within 1e-4 (relative) of the smallest, never below 0.05, and rounded up to six significant digits. What was
    found before is kept in the cache folder (a simulation of a hundred hospitals needs dozens, a second each) and is
    used only if it still meets the target. So
    `epsilon` of the result is at most the target: the same function checks it.

    Raises:
        PlanError: a value is outside its range, or no multiplier meets the target.
    """
    _check_delta(delta)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise PlanError(f"A target epsilon must be positive and finite, not {epsilon}.")
    if not 0 < sampling_rate <= 1 or steps < 1:
        raise PlanError(f"Nothing to calibrate: sampling rate {sampling_rate}, {steps} steps.")
    target = epsilon * (1 - 1e-9)  # so that another machine's last digit can't refuse the last step
    kept = _kept_noise(target, delta, sampling_rate, steps)
    if kept.is_file():
        with suppress(OSError, ValueError):
            before = float(kept.read_text())
            if SMALLEST_NOISE <= before <= _LARGEST_NOISE and _spent(before, delta, sampling_rate, steps) <= target:
                return before
    found = _search(target, delta, sampling_rate, steps)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(repr(found))
        partial.replace(kept)
    return found


def _kept_noise(target: float, delta: float, sampling_rate: float, steps: int) -> Path:
    """Where a result is kept. Its name holds everything that decides it, the text of this code included."""
    facts = [repr(target), repr(delta), repr(sampling_rate), steps, version("dp-accounting"), _source()]
    name = hashlib.sha256("|".join(map(str, facts)).encode()).hexdigest()[:24]
    return fedrad_cache_dir() / "noise" / f"{name}.txt"


@lru_cache(maxsize=1)
def _source() -> str:
    text = Path(__file__).read_bytes() + Path(composition.__file__).read_bytes()
    return hashlib.sha256(text).hexdigest()


def _search(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    good = _round_up(_coarse_root(target, delta, sampling_rate, steps))
    spent = _spent(good, delta, sampling_rate, steps)
    while spent > target:
        if good > _LARGEST_NOISE:
            raise PlanError(
                f"No noise multiplier meets epsilon {target:g} at delta {delta} in {steps} steps: raise epsilon, or"
                " take fewer steps."
            )
        good = _round_up(good * max(spent / target, 1.0001))
        spent = _spent(good, delta, sampling_rate, steps)
    # `good` is within the target and often a little too large, because the coarse grid is the more pessimistic one.
    # Close in on the edge with a secant in the logarithms until the largest refused multiplier is within 1e-4 of the
    # one accepted.
    bad, slope = 0.0, 1.0
    while good > SMALLEST_NOISE and good > bad * (1 + 1e-4):
        trial = _round_up(good * (max(spent, target / 4) / target) ** (1 / slope) * (1 - 5e-5))
        if not bad < trial < good:
            trial = _round_up(math.sqrt(bad * good) if bad else good / 1.01)
        trial_spent = _spent(trial, delta, sampling_rate, steps)
        if spent > 0 and trial_spent != spent:
            slope = min(max(math.log(trial_spent / spent) / math.log(good / trial), 0.5), 5.0)
        if trial_spent <= target:
            good, spent = trial, trial_spent
        else:
            bad = trial
    return good


def _spent(sigma: float, delta: float, rate: float, steps: int) -> float:
    return epsilon([Event(rate, sigma, steps)], delta)


def _round_up(sigma: float) -> float:
    digits = 5 - math.floor(math.log10(sigma))
    return max(math.ceil(sigma * 10.0**digits) / 10.0**digits, SMALLEST_NOISE)


def _coarse_root(target: float, delta: float, rate: float, steps: int) -> float:
    """About the right noise multiplier: the root on a tenfold coarser, cheaper grid, searched from the CLT's."""
    if -math.expm1(steps * math.log1p(-min(rate, 1 - 1e-12))) <= delta:
        return SMALLEST_NOISE  # a report is likelier than 1 - delta never to be sampled
    exponent = max(min(_grid(target / 1000) + 1, _USUAL_GRID + 1), _grid(target / 5000))

    def excess(log_sigma: float) -> float:
        events = _merge([Event(rate, math.exp(log_sigma), steps)])
        value = _pld(events, delta, max(exponent, _narrowest(events)))
        return math.log(max(value, 1e-12) / target)

    def missing(mu: float) -> float:  # Gaussian DP: delta of (mu, epsilon), Dong et al., arXiv 1905.02383
        spent = stats.norm.cdf(mu / 2 - target / mu) - math.exp(target + stats.norm.logcdf(-mu / 2 - target / mu))
        return float(spent - delta)

    mu = float(optimize.brentq(missing, 1e-9, 10 + 2 * math.sqrt(target) + target))
    guess = 1 / math.sqrt(math.log1p((mu / rate) ** 2 / steps))
    smallest, largest = math.log(SMALLEST_NOISE), math.log(_LARGEST_NOISE)
    low = high = min(max(math.log(guess), smallest), largest)
    width = 0.05
    while excess(high) > 0:
        low, high, width = high, high + width, 2 * width
        if high > largest:
            return _LARGEST_NOISE
    while low == high or excess(low) <= 0:
        if low == smallest:
            return SMALLEST_NOISE
        high, low, width = low, max(low - width, smallest), 2 * width
    return math.exp(float(optimize.brentq(excess, low, high, xtol=5e-6)) + 5e-6)


def _check_delta(delta: float) -> None:
    if not SMALLEST_DELTA <= delta < 1:
        raise PlanError(f"delta must be at least {SMALLEST_DELTA} and below 1, not {delta}.")


def _merge(events: Iterable[tuple[float, float, int]]) -> tuple[Event, ...]:
    """Equal (rate, noise) joined, free steps dropped, sorted: the same tuple however a run was split."""
    kept: list[Event] = []
    for rate, sigma, steps in events:
        if not 0 <= rate <= 1:
            raise PlanError(f"A sampling rate must be between 0 and 1, not {rate}.")
        if not sigma >= 0:
            raise PlanError(f"A noise multiplier must be 0 or more, not {sigma}.")
        if steps < 0 or steps != int(steps):
            raise PlanError(f"The number of steps must be a whole number, 0 or more, not {steps}.")
        if rate > 0 and steps > 0 and sigma != math.inf:
            kept.append(Event(float(rate), float(sigma), int(steps)))
    merged = [
        Event(rate, sigma, sum(e.steps for e in group))
        for (rate, sigma), group in groupby(sorted(kept), key=lambda e: (e.sampling_rate, e.noise_multiplier))
    ]
    # Unsampled Gaussians compose exactly to one: mu^2 = sum of steps / sigma^2.
    full = [e for e in merged if e.sampling_rate == 1 and e.noise_multiplier > 0]
    rest = [e for e in merged if e not in full]
    if full:
        rest.append(Event(1.0, 1 / math.sqrt(math.fsum(e.steps / e.noise_multiplier**2 for e in full)), 1))
    return tuple(rest)


@lru_cache(maxsize=4096)
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    if not events:
        return 0.0
    if any(e.noise_multiplier == 0 for e in events):
        return math.inf
    ceiling = _rdp(events, delta)
    narrowest = _narrowest(events)
    # Large epsilons get by with a wider grid (5 to 50: 1e-3): the figure grows by less than 1e-4 of itself, and stays
    # a bound.
    exponent = max(_USUAL_GRID, narrowest, _grid(ceiling / 5000))
    while True:
        value = _pld(events, delta, exponent)
        agrees = value <= 1.001 * ceiling + 10 * 10.0**exponent
        if agrees and 1000 * 10.0**exponent <= value:
            return value
        if exponent <= max(_FINEST_GRID, narrowest) or 1e4 * 10.0**exponent <= value:
            break  # a finer grid would change nothing that matters
        exponent = max(min(exponent - 1, _grid(value / 1000)), _FINEST_GRID, narrowest)
    if not agrees:
        raise PrivacyError(
            f"The accountants disagree (PLD {value}, RDP {ceiling}), so no epsilon can be certified for {events}."
        )
    return value


def _grid(width: float) -> int:
    """The exponent of the widest grid (a power of ten) that is not wider than this."""
    return math.floor(math.log10(max(width, 10.0**_FINEST_GRID)) + 1e-12)


def _narrowest(events: Sequence[Event]) -> int:
    """The finest grid that memory allows: no more than a few million points for the largest loss of a single step."""
    loss = max(0.5 / e.noise_multiplier**2 + 9 / e.noise_multiplier for e in events)
    return math.ceil(math.log10(loss / 1e6)) if loss > 100 else _FINEST_GRID


def _step(rate: float, sigma: float, exponent: int) -> NoisyStep:
    """Kept: hospitals ask for the same step in every round. A fine grid takes tens of MB, the usual one about two."""
    return (_usual_step if exponent >= _USUAL_GRID else _fine_step)(rate, sigma, 10.0**exponent)


_usual_step = lru_cache(maxsize=64)(NoisyStep.of)
_fine_step = lru_cache(maxsize=8)(NoisyStep.of)


def _pld(events: Sequence[Event], delta: float, exponent: int) -> float:
    groups = (_step(e.sampling_rate, e.noise_multiplier, exponent).composed(e.steps) for e in events)
    return reduce(lambda one, other: one.then(other), groups).epsilon(delta)


@lru_cache(maxsize=4096)
def _rdp(events: tuple[Event, ...], delta: float) -> float:
    if not events:
        return 0.0
    if any(e.noise_multiplier == 0 for e in events):
        return math.inf
    total = sum((steps * _rdp_of_one(rate, sigma) for rate, sigma, steps in events), np.zeros(len(_RDP_ORDERS)))
    return float(compute_epsilon(_RDP_ORDERS, total, delta)[0])


@lru_cache(maxsize=1024)
def _rdp_of_one(rate: float, sigma: float) -> NDArray[np.float64]:
    """The divergence of one step at each order. Steps add up; what one costs takes a while to find."""
    accountant = RdpAccountant(_RDP_ORDERS)
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)))
    divergences: NDArray[np.float64] = accountant._rdp  # it has no public name
    return divergences
