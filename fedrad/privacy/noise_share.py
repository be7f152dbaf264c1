"""Distributed noise: each hospital adds a part, and only the sum has enough. For one noisy step in a round.

If nobody sees less than the sum over ``quorum`` hospitals, each may add noise of sigma * C / sqrt(q) instead of
sigma * C. Here q = quorum - colluders is the number of noise terms that are certain to be in every sum and unknown to
the attacker. (The idea is that of Kairouz et al., arXiv 2102.06387, for integer noise.) The average over n hospitals
then has up to sqrt(n) times less noise than if each hospital protected itself alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedrad.errors import PlanError


@dataclass(frozen=True)
class SharedNoiseTerms:
    """The public facts that make sharing the noise sound. The constructor refuses unsound ones.

    Guarantee:
        Suppose that every hospital's adapter is (public start) - (step size) x (clipped sum + noise of its
        `own_noise_multiplier` x clip), and that the server sees nothing but the sum over at least ``quorum`` hospitals.
        Then for every report a round is one Gaussian mechanism with at least the central noise multiplier, subsampled
        at the rate of the report's hospital. That is the event that the hospital's ledger must be charged with.
        (Hospitals sample independently, and a report is in one hospital only, so the other hospitals' sums do not
        change when one report is added or removed.)
        It holds against the server together with up to ``colluders`` hospitals that tell it what they sent or add no
        noise. A hospital that examines the sum for itself counts as a colluder, because it knows its own noise. So
        ``colluders=0`` protects against the server and the public, not against another hospital.
        It fails if secure aggregation fails: if a server gets a single adapter (docs/secure-aggregation.md), that
        adapter has only its own part of the noise. Only pinned identities protect against a lying server.
        Assumptions: the noise comes from the operating system, independently at every hospital. Clip, divisor, step
        size, weight and central noise multiplier (the largest that one of them needs) are the same for all hospitals.
        Each hospital rounds before the sum, so its start must be small enough compared with its part of the noise, and
        what it sends must lie on one even lattice; `secure.rounding` ensures both, and says what is proved and what is
        measured. As everywhere, float64 noise is treated as real-valued.

    Attributes:
        quorum: the smallest number of hospitals in a sum: ``RoundSetup.threshold``.
        colluders: how many of them may collude with the server: ``RoundSetup.colluders`` or less.
        secure_aggregation: whether the server sees only sums.
        local_steps: noisy steps of a round.
        optimizer, momentum, average: of the hospital's own training (``train.*``).
        step_scales: weight x learning rate x clip / divisor of each hospital.

    Raises:
        PlanError: with the first reason why noise can't be shared.
    """

    quorum: int
    colluders: int
    secure_aggregation: bool
    local_steps: int
    optimizer: str
    momentum: float
    average: float
    step_scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if reason := _unsound(self):
            raise PlanError(f"Noise can't be shared: {reason}")

    @property
    def certain(self) -> int:
        """q: the number of noise terms that are in every sum and unknown to the attacker."""
        return self.quorum - self.colluders

    @property
    def statement(self) -> str:
        """What a privacy statement must say in addition to epsilon."""
        return (
            f"noise shared by {self.certain} hospitals under secure aggregation: holds for sums of {self.quorum}"
            f" hospitals or more, against a server that sees only these, with {self.colluders} hospitals on its side"
        )


def own_noise_multiplier(central: float, terms: SharedNoiseTerms) -> float:
    """The noise multiplier of each hospital with which every sum has at least that of the plan, ``central``."""
    return central / math.sqrt(terms.certain)


def _unsound(terms: SharedNoiseTerms) -> str:
    """Why sharing would be unsound under these terms; empty if it isn't."""
    if not terms.secure_aggregation:
        return "without secure aggregation the server sees each adapter with only its own part of the noise."
    if terms.colluders < 0 or terms.quorum - terms.colluders < 2:
        return (
            f"a quorum of {terms.quorum} with {terms.colluders} colluders leaves fewer than two hospitals to share it:"
            " raise the quorum."
        )
    if terms.local_steps != 1:
        return (
            f"{terms.local_steps} local steps. From the second step on, gradients depend on weights that carry only the"
            " hospital's own part of the noise, and no sum hides these: train.local-steps must be 1."
        )
    if terms.optimizer == "adam":
        return (
            "adam divides each hospital's gradient by its own moments, so the sum of the adapters is no function of the"
            " sum of the noised gradients: train.optimizer must be momentum, with train.momentum = 0."
        )
    if terms.optimizer != "momentum" or terms.momentum != 0 or terms.average != 0:
        return (
            "momentum and averaging in a hospital send its earlier gradients again, in sums over other hospitals than"
            " those they were charged for: train.momentum and train.average must be 0 (the server may apply both to"
            " the sum)."
        )
    if len(terms.step_scales) < terms.quorum:
        return f"step scales of {len(terms.step_scales)} hospitals for a quorum of {terms.quorum}."
    if not all(math.isfinite(scale) and scale > 0 for scale in terms.step_scales) or len(set(terms.step_scales)) > 1:
        return (
            "weight x learning rate x clip / divisor must be positive and the same for all hospitals: otherwise a"
            " hospital with a larger step gets too little noise from the others."
        )
    return ""
