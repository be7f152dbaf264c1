"""Which rule counts a ledger's charges: privacy loss distributions for what was fixed in advance, else a Renyi filter.

A server chooses the next run's sampling rate, noise and steps after it has seen the last adapters. Privacy loss
distributions (PLDs) compose only what was chosen before the first step, so a cap that is checked with them does not
hold against such a choice (benchmarks/filter.py has an adversary that doubles delta).

Guarantee:
    `Founding.needed` is a privacy filter. If a hospital takes no step unless the charges that include it need at most
    ``cap``, then all its steps together are (cap, delta)-differentially private with respect to adding or removing one
    unit, against a server that chooses every plan, the end of every run and everything that a step trains on after
    seeing all earlier steps. Assumptions: `PrivacyPlan`'s for each step; the first charge's plan, the ledger's founding
    facts and delta were not computed from the reports; charges are written before their steps are taken.

    1. Fixed mechanism (``Founding.mechanism``). Every step has the same sampling rate and noise multiplier. The largest
       number of steps whose PLD meets the cap is known in advance, and stopping earlier is post-processing.
    2. One plan, up to its planned steps. Rate, noise and number of steps are fixed before the first step. As above.
    3. Anything else. All charges are counted by a Renyi filter (Feldman and Zrnic, arXiv 2008.11193; Lecuyer, arXiv
       2103.01379; Whitehouse et al., arXiv 2203.05481) over several orders at once. Let L be the privacy loss of all
       steps so far under two neighbouring shards, and S(a) the sum of the steps' Renyi divergences at order a, which
       adding and removing a unit both stay below. For weights w_a > 0 of sum 1, fixed before the first step (by the
       founding facts and the first plan),
           M = sum over a of w_a exp((a - 1) (L - S(a)))
       is a nonnegative supermartingale that starts at 1, however the next step is chosen: given the past, the choice
       is fixed, and its own factor has mean at most 1. So E M <= 1 at every stopping time (Ville; Doob). Write c_a =
       (1/a) (1 - 1/a)^(a - 1), the smallest constant with max(0, 1 - exp(-x)) <= c_a exp((a - 1) x) (Canonne et al.,
       arXiv 2004.00010). The reading
           epsilon = min over a of S(a) + (ln(1 / (delta w_a)) + ln c_a) / (a - 1)
       then has max(0, 1 - exp(epsilon - L)) <= delta M for every outcome, hence E max(0, 1 - exp(epsilon - L)) <=
       delta. That is (cap, delta)-DP if the reading never exceeds the cap, and it makes the reading an odometer. The
       order may be chosen after the fact: w_a has paid for it.

    Why 2 and 3 together do not cost 2 delta: a second plan is admitted only if the reading of the first plan *in full*
    is within the cap, which is known before the first step. If it is not, no second plan ever follows, and 2 alone
    holds. If it is, every course of events, also one that stays with the first plan, ends with a reading within the
    cap, and 3 alone holds.

    What it does not say: the figure that a ledger shows under rules 1 and 2 is that of so many steps, *fixed in
    advance*. If a run was ended early because of what it had shown, the figure of all planned steps holds, or the cap.
    If the results decide whether a second plan follows, "the figure at the end, whichever it is" holds at 2 delta: one
    delta for each rule. The cap holds at delta in any case.

Not used: the Gaussian-DP filter (Smith and Thakurta, arXiv 2210.17520). It is exact where every step takes all reports,
but a ledger would have to refuse all other steps for ever to rest on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fedrad.privacy import accounting
from fedrad.privacy.accounting import Event

Floats = NDArray[np.float64]

PLAN = "pld: one fixed plan"
MECHANISM = "pld: fixed mechanism"
FILTER = "renyi filter"
RULES = (PLAN, MECHANISM, FILTER)

# Whole numbers, eight to an octave: small epsilons need orders of about 20 / epsilon.
ORDERS = np.array([*range(2, 16), *(step * 2**octave for octave in range(1, 9) for step in range(8, 16)), 4096])
_LOG_CONSTANTS = (ORDERS - 1) * np.log1p(-1 / ORDERS) - np.log(ORDERS)
# At a cap of 1 it costs 0.6% of epsilon, where half of the weight would cost 4%.
_CENTRAL_WEIGHT = 0.9
# Orders are fitted to all of these for a mechanism of which nobody says under which cap it is.
_USUAL_CAPS = (0.3, 1.0, 3.0, 10.0)


class Charge(NamedTuple):
    """Steps that were charged, and how many of them their plan has in all."""

    event: Event
    planned: int


@dataclass(frozen=True, order=True)
class Account:
    """What a ledger's charges come to. It is public, and enough to compute the ledger's epsilon.

    Attributes:
        events: the charged steps, equal kinds merged.
        rule: one of `RULES`.
        order: under `FILTER`, the order that has most of the weight; otherwise 0.
    """

    events: tuple[Event, ...]
    rule: str = PLAN
    order: int = 0

    def epsilon(self, delta: float) -> float:
        """What the charges have spent at this delta; ``math.inf`` if some took no noise.

        Raises: as ``accounting.epsilon``.
        """
        return composed_epsilon([self], delta)

    @property
    def words(self) -> str:
        """The rule, for people."""
        if self.rule != FILTER:
            return self.rule
        if len(self.events) == 1:
            return f"{FILTER}: more steps than one plan fixed"
        return f"{FILTER}: {len(self.events)} kinds of steps, chosen one after another"


@dataclass(frozen=True)
class Founding:
    """What a ledger fixes before its first charge.

    Attributes:
        cap: the epsilon cap at that time, to which the filter's order is fitted. A later one may be another.
        delta: what epsilon is stated at.
        mechanism: (sampling rate, noise multiplier) of every step, where the hospital's policy fixes them.
    """

    cap: float
    delta: float
    mechanism: tuple[float, float] | None = None

    def order(self, first: Event) -> int:
        """The order that gets most of the filter's weight: at which most steps of the first kind fit under the cap.

        It is known before the first step is taken, so no result can have chosen it.
        """
        room = np.maximum(self.cap - (_LOG_CONSTANTS - math.log(self.delta)) / (ORDERS - 1), 0.0)
        of_step = np.maximum(rdp_of_step(first.sampling_rate, first.noise_multiplier), 1e-300)
        with np.errstate(invalid="ignore", over="ignore"):
            return int(ORDERS[np.argmax(np.nan_to_num(room / of_step, nan=0.0))])

    def account(self, charges: Sequence[Charge]) -> Account:
        """The charges of one ledger, oldest first, with the rule that counts them."""
        events = accounting.merged(charge.event for charge in charges)
        if self.mechanism is not None:
            return Account(events, MECHANISM)
        kinds = {(event.sampling_rate, event.noise_multiplier, planned) for event, planned in charges}
        if len(kinds) <= 1 and all(event.steps <= charges[0].planned for event in events):
            return Account(events, PLAN)
        return Account(events, FILTER, self.order(charges[0].event))

    def needed(self, charges: Sequence[Charge]) -> float:
        """The smallest cap under which these charges, oldest first, may be taken."""
        account = self.account(charges)
        spent = account.epsilon(self.delta)
        return spent if account.rule != FILTER else max(spent, self.first_plan(charges))

    def first_plan(self, charges: Sequence[Charge]) -> float:
        """The filter's reading of the first charge's plan in full: the smallest cap that leaves room for another."""
        first, planned = charges[0]
        return Account((first._replace(steps=planned),), FILTER, self.order(first)).epsilon(self.delta)


def composed_epsilon(accounts: Sequence[Account], delta: float) -> float:
    """The epsilon of somebody whose reports are charged to each of these ledgers.

    Ledgers with one plan each, of one run, were all planned before its first step, so PLDs compose. If one of several
    ledgers may hold more, by the filter or by a fixed mechanism, all are counted by the filter: which hospital takes
    how many of its steps, each of its own kind, may depend on results. Its weights are the mean of those around smaller
    orders than the ledgers' own, which suit a larger sum.

    Assumption: each ledger's first plan was fixed before any of the ledgers took a step.

    Raises: as ``accounting.epsilon``.
    """
    accounting.check_delta(delta)
    events = [event for account in accounts for event in account.events]
    own = [account.order for account in accounts if account.rule == FILTER]
    if len(accounts) > 1:
        fixed = [account.events[0] for account in accounts if account.rule == MECHANISM and account.events]
        own += [Founding(cap, delta).order(event) for event in fixed for cap in _USUAL_CAPS]
    orders = [max(round(order / math.sqrt(len(accounts))), 2) for order in own]
    if not orders:
        return accounting.epsilon(events, delta)
    steps = (e.steps * rdp_of_step(e.sampling_rate, e.noise_multiplier) for e in events if e.steps > 0)
    return reading(sum(steps, np.zeros(len(ORDERS))), delta, orders)


def reading(divergences: Floats, delta: float, orders: Sequence[int]) -> float:
    """The filter's epsilon.

    Args:
        divergences: S(a), a bound of the summed Renyi divergences of all steps at each of `ORDERS`; may be infinite.
        delta: between 0 and 1; 0 or less has no epsilon.
        orders: those of the ledgers that are counted together, mostly one.
    """
    if not delta > 0:
        return math.inf
    weights = np.mean([order_weights(order) for order in orders], axis=0)
    epsilons = divergences + (_LOG_CONSTANTS - math.log(delta) - np.log(weights)) / (ORDERS - 1)
    return float(max(np.min(epsilons), 0.0))


def order_weights(order: int) -> Floats:
    """w_a at each of `ORDERS`, of sum 1: 0.9 at the first that is at least ``order``, the rest by the inverse square of
    the distance from it in the list.

    Other orders matter where later steps are unlike the first, or the cap was changed after the founding.
    """
    distance = np.abs(np.arange(len(ORDERS)) - int(np.searchsorted(ORDERS, order))).astype(np.float64)
    centre = distance == 0
    others = np.where(centre, 0.0, 1 / np.maximum(distance, 1.0) ** 2)
    return np.where(centre, _CENTRAL_WEIGHT, (1 - _CENTRAL_WEIGHT) * others / others.sum())


@lru_cache(maxsize=1024)
def rdp_of_step(rate: float, noise_multiplier: float) -> Floats:
    """Renyi divergence of one Poisson-sampled Gaussian step at each of `ORDERS`, the larger of both directions.

    Mironov et al., arXiv 1908.10530, section 3.3: at a whole order a, exp((a - 1) divergence) is the binomial mean of
    exp(k (k - 1) / (2 sigma^2)). As 1 + the mean of expm1 of it, no digits cancel; in logarithms, nothing overflows.

    Returns:
        Infinity where there is no noise; read-only.
    """
    if rate == 0 or noise_multiplier == math.inf:
        found = np.zeros(len(ORDERS))
    elif noise_multiplier == 0:
        found = np.full(len(ORDERS), math.inf)
    else:
        found = np.array([_log_moment(int(order), rate, noise_multiplier) for order in ORDERS]) / (ORDERS - 1)
    found.flags.writeable = False
    return found


def _log_moment(order: int, rate: float, sigma: float) -> float:
    k = np.arange(2, order + 1, dtype=np.float64)
    binomial = special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
    chance = binomial + k * math.log(rate) + special.xlog1py(order - k, -rate)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # to infinity, or to nothing
        exponent = k * (k - 1) / 2 / sigma / sigma
        terms = np.where(np.isneginf(chance), chance, chance + exponent + np.log(-np.expm1(-exponent)))
        return float(np.logaddexp(0.0, special.logsumexp(terms)))
