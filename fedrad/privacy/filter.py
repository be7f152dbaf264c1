"""The accounting rule of a ledger: privacy loss distributions for what was fixed in advance, otherwise a Renyi filter.

A server chooses the sampling rate, noise and steps of the next run after it has seen the last adapters. Composing
privacy loss distributions (PLDs) is valid only for steps that were chosen before the first one, so a cap checked that
way does not hold against such a server (benchmarks/filter.py has an adversary that doubles delta).

Guarantee:
    `Founding.needed` is a privacy filter. Suppose that a hospital takes a step only if the charges up to and including
    that step need at most ``cap``. Then all its steps together are (cap, delta)-differentially private with respect to
    adding or removing one unit. This holds against a server that chooses every plan, the end of every run and
    everything that a step trains on after seeing all earlier steps. Assumptions: those of `PrivacyPlan` for each step;
    the first plan, the founding facts and delta were not computed from the reports; charges are written before their
    steps are taken.

    1. Fixed mechanism (``Founding.mechanism``). Every step has the same sampling rate and noise multiplier. The largest
       number of steps whose PLD meets the cap is known in advance, and stopping earlier is post-processing.
    2. One plan, up to its planned steps. Rate, noise and number of steps are fixed before the first step. As above.
    3. Anything else. All charges are counted by a Renyi filter (Feldman and Zrnic, arXiv 2008.11193; Lecuyer, arXiv
       2103.01379; Whitehouse et al., arXiv 2203.05481) over several orders at once. Let L be the privacy loss of all
       steps so far under two neighbouring shards. Let S(a) be a bound on the summed Renyi divergences of the steps at
       order a, in both directions (unit added, unit removed). For weights w_a > 0 of sum 1, fixed before the first step
       (by the founding facts and the first plan),
           M = sum over a of w_a exp((a - 1) (L - S(a)))
       is a nonnegative supermartingale that starts at 1, however the next step is chosen: given the past, the choice
       is fixed, and its own factor has mean at most 1. So E M <= 1 at every stopping time (Ville; Doob). Write c_a =
       (1/a) (1 - 1/a)^(a - 1), the smallest constant with max(0, 1 - exp(-x)) <= c_a exp((a - 1) x) (Canonne et al.,
       arXiv 2004.00010). Then the filter's epsilon
           epsilon = min over a of S(a) + (ln(1 / (delta w_a)) + ln c_a) / (a - 1)
       satisfies max(0, 1 - exp(epsilon - L)) <= delta M for every outcome, hence E max(0, 1 - exp(epsilon - L)) <=
       delta. If it never exceeds the cap, that is (cap, delta)-DP; it also makes the filter's epsilon a privacy
       odometer. The minimising order may be chosen after the fact, because w_a has paid for it.

    Why rules 2 and 3 together do not cost 2 delta: a second plan is admitted only if the filter's epsilon of the *full*
    first plan is within the cap, which is known before the first step. If it is not, no second plan ever follows, and
    rule 2 alone applies. If it is, the filter's epsilon is within the cap in every course of events, also if only the
    first plan is used, and rule 3 alone applies.

    What it does not say: under rules 1 and 2 a ledger shows the epsilon of the charged number of steps as if that
    number had been *fixed in advance*. If a run was ended early because of its results, the epsilon of all planned
    steps holds, or the cap. If the results decide whether a second plan follows, "the figure at the end, whichever it
    is" holds at 2 delta: one delta for each rule. The cap holds at delta in any case.

Not used: the Gaussian-DP filter (Smith and Thakurta, arXiv 2210.17520). It is exact if every step uses all reports, but
a ledger that relies on it would have to refuse all other steps for ever.
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

# Integers, eight to an octave. Small epsilons need orders of about 20 / epsilon.
ORDERS = np.array([*range(2, 16), *(step * 2**octave for octave in range(1, 9) for step in range(8, 16)), 4096])
_LOG_CONSTANTS = (ORDERS - 1) * np.log1p(-1 / ORDERS) - np.log(ORDERS)
# At a cap of 1 this weight costs 0.6% of epsilon; a weight of one half would cost 4%.
_CENTRAL_WEIGHT = 0.9
# Where the cap of a fixed mechanism is not known, orders are chosen for all of these.
_USUAL_CAPS = (0.3, 1.0, 3.0, 10.0)


class Charge(NamedTuple):
    """Steps that were charged, and the total number of steps of their plan."""

    event: Event
    planned: int


@dataclass(frozen=True, order=True)
class Account:
    """The charges of a ledger in the form from which its epsilon is computed. Public.

    Attributes:
        events: the charged steps, equal kinds merged.
        rule: one of `RULES`.
        order: under `FILTER`, the order with most of the weight; otherwise 0.
    """

    events: tuple[Event, ...]
    rule: str = PLAN
    order: int = 0

    def epsilon(self, delta: float) -> float:
        """The epsilon spent at this delta; ``math.inf`` if a step had no noise.

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
        cap: the epsilon cap at that time, for which the filter's order is chosen. The cap may be changed later.
        delta: the delta of every epsilon of this ledger.
        mechanism: (sampling rate, noise multiplier) of every step, if the hospital's policy fixes them.
    """

    cap: float
    delta: float
    mechanism: tuple[float, float] | None = None

    def order(self, first: Event) -> int:
        """The order that gets most of the filter's weight: at it, most steps like the first fit under the cap.

        It is fixed before the first step is taken, so it does not depend on any result.
        """
        room = np.maximum(self.cap - (_LOG_CONSTANTS - math.log(self.delta)) / (ORDERS - 1), 0.0)
        of_step = np.maximum(rdp_of_step(first.sampling_rate, first.noise_multiplier), 1e-300)
        with np.errstate(invalid="ignore", over="ignore"):
            return int(ORDERS[np.argmax(np.nan_to_num(room / of_step, nan=0.0))])

    def account(self, charges: Sequence[Charge]) -> Account:
        """The account of one ledger's charges, oldest first, with the rule that applies to them."""
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
        """The filter's epsilon of the full first plan: the smallest cap that leaves room for another plan."""
        first, planned = charges[0]
        return Account((first._replace(steps=planned),), FILTER, self.order(first)).epsilon(self.delta)


def composed_epsilon(accounts: Sequence[Account], delta: float) -> float:
    """The epsilon of a unit that is charged in each of these ledgers.

    If every ledger holds one plan of the same run, all plans were fixed before its first step, so PLDs compose. If one
    of several ledgers may hold more (its rule is the filter or a fixed mechanism), all are counted by the filter,
    because results may decide which hospital takes how many of its steps. The weights are then the mean of the weights
    around orders smaller than the ledgers' own, which suit the larger sum.

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
        divergences: S(a), a bound on the summed Renyi divergences of all steps at each of `ORDERS`; may be infinite.
        delta: below 1; for 0 or less the result is infinite.
        orders: the central orders of the ledgers that are counted together, usually one.
    """
    if not delta > 0:
        return math.inf
    weights = np.mean([order_weights(order) for order in orders], axis=0)
    epsilons = divergences + (_LOG_CONSTANTS - math.log(delta) - np.log(weights)) / (ORDERS - 1)
    return float(max(np.min(epsilons), 0.0))


def order_weights(order: int) -> Floats:
    """w_a for each of `ORDERS`, summing to 1: 0.9 for the first order that is at least ``order``.

    The other weights fall with the inverse square of the distance in the list. Other orders matter if later steps are
    unlike the first, or if the cap was changed after the founding.
    """
    distance = np.abs(np.arange(len(ORDERS)) - int(np.searchsorted(ORDERS, order))).astype(np.float64)
    centre = distance == 0
    others = np.where(centre, 0.0, 1 / np.maximum(distance, 1.0) ** 2)
    return np.where(centre, _CENTRAL_WEIGHT, (1 - _CENTRAL_WEIGHT) * others / others.sum())


@lru_cache(maxsize=1024)
def rdp_of_step(rate: float, noise_multiplier: float) -> Floats:
    """Renyi divergence of one Poisson-sampled Gaussian step at each of `ORDERS`, the larger of both directions.

    Mironov et al., arXiv 1908.10530, section 3.3: at an integer order a, exp((a - 1) divergence) is the binomial mean
    of exp(k (k - 1) / (2 sigma^2)). It is computed as 1 + the mean of expm1, to avoid cancellation, and in logarithms,
    to avoid overflow.

    Returns:
        A read-only array; infinity without noise.
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
