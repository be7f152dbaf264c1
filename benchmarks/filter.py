"""What the filter costs in epsilon, and what a server that chooses plans by results could do without it.

python -m benchmarks.filter

A second: the adversary runs one plan, sees its privacy loss, and picks of several second plans, each of which the rule
would admit, the one that is worst for this loss. The sum over losses is its exact delta (up to a grid's width, by
dp_accounting's distributions, which are not those that the ledger's figures come from).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from dp_accounting.pld.pld_pmf import PLDPmf
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from numpy.typing import NDArray

from fedrad.privacy import accounting, calibration
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import Charge, Founding

DELTA = 1e-5
CAPS = (0.5, 1.0, 3.0, 8.0)
# The first run, and what may follow it: (sampling rate, steps).
FIRST = (0.128, 40)
SECONDS = ((0.128, 40), (0.128, 1), (0.01, 400), (0.001, 1), (0.5, 1), (1.0, 1))
SETTINGS = ((256 / 3000, 200), (0.01, 1000), (1.0, 20))

Floats = NDArray[np.float64]
Needed = Callable[[Sequence[Event]], float]


def composed(events: Sequence[Event]) -> float:
    """The cap that plain composition of PLDs asks for."""
    return accounting.epsilon(events, DELTA)


def filtered(cap: float) -> Needed:
    """The cap that a ledger asks for which was founded with ``cap``."""
    founding = Founding(cap, DELTA)
    return lambda events: founding.needed([Charge(event, event.steps) for event in events])


def admissible(before: Sequence[Event], kind: tuple[float, int], cap: float, needed: Needed) -> Event:
    """The plan of this kind with the least noise (within 0.1%) that may still follow."""
    low, high = calibration.SMALLEST_NOISE, 1.0
    while needed([*before, Event(kind[0], high, kind[1])]) > cap:
        low, high = high, 2 * high
    while high > 1.001 * low:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if needed([*before, Event(kind[0], middle, kind[1])]) <= cap else (middle, high)
    return Event(kind[0], high, kind[1])


def adaptive_delta(first: Event, seconds: Sequence[Event], cap: float) -> float:
    """delta at epsilon = cap of a server that picks one of ``seconds``, or none, by the loss of ``first``."""
    width = cap / 4000
    plans = [
        from_gaussian_mechanism(
            event.noise_multiplier, value_discretization_interval=width, sampling_prob=event.sampling_rate
        ).self_compose(event.steps)
        for event in (first, *seconds)
    ]
    removed = _worst(plans[0]._pmf_remove, [plan._pmf_remove for plan in plans[1:]], cap)
    return max(removed, _worst(plans[0]._pmf_add, [plan._pmf_add for plan in plans[1:]], cap))


def _worst(first: PLDPmf, seconds: Sequence[PLDPmf], cap: float) -> float:
    losses, masses, infinite = _arrays(first)
    left = cap - losses
    after = [np.maximum(-np.expm1(left), 0.0), *(_hockey_sticks(second, left) for second in seconds)]
    return float(masses @ np.max(after, axis=0)) + infinite


def _hockey_sticks(pmf: PLDPmf, epsilons: Floats) -> Floats:
    """E max(0, 1 - exp(epsilon - loss)) for each epsilon, which may be negative."""
    losses, masses, infinite = _arrays(pmf)
    above = np.append(np.cumsum(masses[::-1])[::-1], 0.0)
    weighted = np.append(np.cumsum((masses * np.exp(-losses))[::-1])[::-1], 0.0)
    place = np.searchsorted(losses, epsilons, side="right")
    return np.clip(infinite + above[place] - np.exp(epsilons) * weighted[place], 0.0, 1.0)


def _arrays(pmf: PLDPmf) -> tuple[Floats, Floats, float]:
    dense = pmf.to_dense_pmf()
    losses = (dense._lower_loss + np.arange(dense.size)) * dense._discretization
    return losses, dense._probs, float(dense._infinity_mass)


def adversary(cap: float, needed: Needed) -> float:
    """delta of the review's adversary against this rule: the first run takes 0.8 of the cap by PLD."""
    rate, steps = FIRST
    noise = calibration.smallest_noise_multiplier(0.8 * cap, DELTA, rate, steps)
    first = Event(rate, noise, steps)
    return adaptive_delta(first, [admissible([first], kind, cap, needed) for kind in SECONDS], cap)


def split(epsilon: float, rate: float, steps: int, plans: int) -> float:
    """What the ledger shows where ``steps`` that would cost ``epsilon`` as one plan are so many plans (all of one kind,
    each planned by itself), in a ledger with just that cap."""
    noise = calibration.smallest_noise_multiplier(epsilon, DELTA, rate, steps)
    charges = [Charge(Event(rate, noise, len(part)), len(part)) for part in np.array_split(np.arange(steps), plans)]
    return Founding(epsilon, DELTA).account(charges).epsilon(DELTA)


def main() -> None:
    """Prints both tables as Markdown."""
    print("| q | steps | epsilon by PLD | 1 plan | 3 plans | 20 plans |\n|---|---|---|---|---|---|")
    for rate, steps in SETTINGS:
        for epsilon in (0.1, 1.0, 3.0, 8.0):
            figures = " | ".join(f"{split(epsilon, rate, steps, plans):.4g}" for plans in (1, 3, 20))
            print(f"| {rate:.4g} | {steps} | {epsilon:g} | {figures} |", flush=True)
    print("\n| cap | adversary's delta, PLDs composed | under the filter |\n|---|---|---|")
    for cap in CAPS:
        print(f"| {cap:g} | {adversary(cap, composed):.2e} | {adversary(cap, filtered(cap)):.2e} |", flush=True)


if __name__ == "__main__":
    main()
