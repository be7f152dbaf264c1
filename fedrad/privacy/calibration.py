"""The smallest noise multiplier that meets a target epsilon, cached on disk."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from scipy import optimize, stats

from fedrad.cache import fedrad_cache_dir
from fedrad.errors import PlanError
from fedrad.files import write_whole
from fedrad.privacy import accounting, composition, losses
from fedrad.privacy.accounting import LARGEST_NOISE, Event

# The search stops here: such a plan meets its target with room to spare.
SMALLEST_NOISE = 0.05
# Epsilons below this are treated as equal.
_NOTHING = 1e-12


@lru_cache(maxsize=256)
def smallest_noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier with which ``steps`` steps spend at most epsilon ``target``.

    The result is at most 1e-4 (relative) above the smallest, at least 0.05, and rounded up to six significant digits.
    Results are cached on disk, because a simulation of a hundred hospitals needs dozens and each takes a second. A
    cached value is used only if it still meets the target, so `accounting.epsilon` of the result never exceeds it.

    Raises:
        PlanError: a value is outside its range, or no multiplier meets the target.
    """
    accounting.check_delta(delta)
    if not (math.isfinite(target) and target > 0):
        raise PlanError(f"A target epsilon must be positive and finite, not {target}.")
    if not 0 < sampling_rate <= 1 or steps < 1:
        raise PlanError(f"Nothing to calibrate: sampling rate {sampling_rate}, {steps} steps.")
    target *= 1 - 1e-9  # otherwise a rounding difference on another machine could refuse the last step
    kept = _kept_noise(target, delta, sampling_rate, steps)
    if kept.is_file():
        with suppress(OSError, ValueError):
            before = float(kept.read_text())
            if SMALLEST_NOISE <= before <= LARGEST_NOISE and _spent(before, delta, sampling_rate, steps) <= target:
                return before
    found = _search(target, delta, sampling_rate, steps)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(kept, repr(found).encode(), durable=False, shared=True)
    return found


def _kept_noise(target: float, delta: float, sampling_rate: float, steps: int) -> Path:
    """The cache file of a result. Its name depends on all arguments, dp-accounting's version and this source code."""
    facts = [repr(target), repr(delta), repr(sampling_rate), steps, version("dp-accounting"), _source()]
    name = hashlib.sha256("|".join(map(str, facts)).encode()).hexdigest()[:24]
    return fedrad_cache_dir() / "noise" / f"{name}.txt"


@lru_cache(maxsize=1)
def _source() -> str:
    files = [__file__, accounting.__file__, composition.__file__, losses.__file__]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _search(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    if accounting.quick_bound([Event(sampling_rate, SMALLEST_NOISE, steps)], delta) <= target:
        return SMALLEST_NOISE
    good = _round_up(_coarse_root(target, delta, sampling_rate, steps))
    spent = _spent(good, delta, sampling_rate, steps)
    while spent > target:
        if good > LARGEST_NOISE:
            raise PlanError(
                f"No noise multiplier meets epsilon {target:g} at delta {delta} in {steps} steps: raise epsilon, or"
                " take fewer steps."
            )
        good = _round_up(good * min(max(spent / max(target, _NOTHING), 1.0001), 10.0))
        spent = _spent(good, delta, sampling_rate, steps)
    # `good` meets the target but is often a little too large, because the coarse grid is more pessimistic. A secant
    # search on logarithms narrows the gap until the largest refused multiplier is within 1e-4 of the accepted one.
    bad, slope, aim = 0.0, 1.0, max(target, _NOTHING)
    while good > SMALLEST_NOISE and good > bad * (1 + 1e-4):
        trial = _round_up(good * (max(spent, aim / 4) / aim) ** (1 / slope) * (1 - 5e-5))
        if not bad < trial < good:
            trial = _round_up(math.sqrt(bad * good) if bad else good / 1.01)
        trial_spent = _spent(trial, delta, sampling_rate, steps)
        if 0 < spent != trial_spent > 0:
            slope = min(max(math.log(trial_spent / spent) / math.log(good / trial), 0.5), 5.0)
        if trial_spent <= target:
            good, spent = trial, trial_spent
        else:
            bad = trial
    return good


def _spent(sigma: float, delta: float, rate: float, steps: int) -> float:
    return accounting.epsilon([Event(rate, sigma, steps)], delta)


def _round_up(sigma: float) -> float:
    digits = 5 - math.floor(math.log10(sigma))
    return max(math.ceil(sigma * 10.0**digits) / 10.0**digits, SMALLEST_NOISE)


def _coarse_root(target: float, delta: float, rate: float, steps: int) -> float:
    """An approximate noise multiplier: the root on a coarser, cheaper grid, starting from that of the CLT."""
    if -math.expm1(steps * math.log1p(-min(rate, 1 - 1e-12))) <= delta:
        return SMALLEST_NOISE  # a unit is never sampled with probability 1 - delta or more

    def missing(mu: float) -> float:  # Gaussian DP: delta of (mu, epsilon), Dong et al., arXiv 1905.02383
        spent = stats.norm.cdf(mu / 2 - target / mu) - math.exp(target + stats.norm.logcdf(-mu / 2 - target / mu))
        return float(spent - delta)

    mu = float(optimize.brentq(missing, 1e-9, 10 + 2 * math.sqrt(target) + target))
    # Ten times the usual spacing, but no wider than the standard deviation of a step's loss.
    grid = min(max(min(target / 100, 1e-3), target / 5000), mu / math.sqrt(steps))

    def excess(log_sigma: float) -> float:
        value = accounting.coarse_bound(Event(rate, math.exp(log_sigma), steps), delta, grid)
        return math.log(max(value, _NOTHING) / max(target, _NOTHING))

    guess = 1 / math.sqrt(math.log1p((mu / rate) ** 2 / steps))
    smallest, largest = math.log(SMALLEST_NOISE), math.log(LARGEST_NOISE)
    low = high = min(max(math.log(guess), smallest), largest)
    width = 0.05
    while excess(high) > 0:
        low, high, width = high, high + width, 2 * width
        if high > largest:
            return LARGEST_NOISE
    while low == high or excess(low) <= 0:
        if low == smallest:
            return SMALLEST_NOISE
        high, low, width = low, max(low - width, smallest), 2 * width
    return math.exp(float(optimize.brentq(excess, low, high, xtol=5e-6)) + 5e-6)
