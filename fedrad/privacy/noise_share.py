"""Noise shared by the hospitals: each adds a part, and only the sum has enough. For one noisy step in a round.

If nobody sees less than the sum over ``quorum`` hospitals, each may add noise of sigma * C / sqrt(q) instead of
sigma * C, where q is the number of shares that are certain to be in every sum and unknown to the attacker: the quorum
less the colluders. (Kairouz et al., arXiv 2102.06387, have the idea, for integer noise.) The average over n hospitals
then has up to sqrt(n) times less noise than if each protected itself alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedrad.errors import PlanError


@dataclass(frozen=True)
class SharedNoiseTerms:
    """The public facts on which sharing depends. They can't be constructed where it would be unsound.

    Guarantee:
        If every hospital's adapter is (public start) - (step size) x (clipped sum + noise of its
        `own_noise_multiplier` x clip), and the server sees nothing but the sum over at least ``quorum`` hospitals, then
        a round is for every report one Gaussian mechanism with the central noise multiplier or more, subsampled at its
        own hospital's rate: that is the event that its hospital's ledger must be charged with. (Hospitals sample
        independently of each other, and a report lives in one hospital, so the other hospitals' sums are fixed when one
        report is added or removed.)
        Against the server with up to ``colluders`` hospitals that tell it what they sent or add no noise. A hospital
        that looks at the sum for itself is a colluder, too: it knows its own noise. So ``colluders=0`` protects
        against the server and the public, not against another hospital.
        All this falls with secure aggregation: where a server can get at one adapter (docs/secure-aggregation.md), that
        adapter has only its own share of the noise. Only pinned identities keep a lying server out.
        Assumptions: noise from the operating system, drawn independently everywhere. The same for all hospitals: clip,
        divisor, step size, weight and central noise multiplier (the largest that one of them needs). Rounding: each
        hospital rounds before the sum, so its start must be small enough beside its share of the noise, and what it
        sends must lie on one even lattice; `secure.rounding` checks and does both, and says what is proved of it and
        what is measured. That the noise itself comes from float64 is left out here as everywhere.

    Attributes:
        quorum: survivors without which hospitals reveal nothing: ``RoundSetup.threshold``.
        colluders: of them, how many may be on the attacker's side: ``RoundSetup.colluders`` or less.
        secure_aggregation: whether the server sees only sums.
        local_steps: noisy steps of a round.
        optimizer, momentum, average: of the hospital's own training (``train.*``).
        step_scales: for each hospital, weight x learning rate x clip / divisor.

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
        """q: the shares of noise that are in every sum and unknown to the attacker."""
        return self.quorum - self.colluders

    @property
    def statement(self) -> str:
        """What a privacy statement must say beside epsilon."""
        return (
            f"noise shared by {self.certain} hospitals under secure aggregation: holds for sums of {self.quorum}"
            f" hospitals or more, against a server that sees only these, with {self.colluders} hospitals on its side"
        )


def own_noise_multiplier(central: float, terms: SharedNoiseTerms) -> float:
    """What each hospital's noise must be, in clip norms, so that every sum has at least ``central`` of it.

    Args:
        central: the noise multiplier of the plan, with which the ledger is charged.
    """
    return central / math.sqrt(terms.certain)


def central_noise_multiplier(own: float, contributions: int) -> float:
    """The noise multiplier of a sum of that many independent shares. None of them: 0.0, no protection."""
    return own * math.sqrt(contributions)


def _unsound(terms: SharedNoiseTerms) -> str:
    """Why sharing would be unsound under these terms; empty if it isn't."""
    if not terms.secure_aggregation:
        return "without secure aggregation the server sees each adapter with only its own share of the noise."
    if terms.colluders < 0 or terms.quorum - terms.colluders < 2:
        return (
            f"a quorum of {terms.quorum} with {terms.colluders} colluders leaves fewer than two hospitals to share it:"
            " raise the quorum."
        )
    if terms.local_steps != 1:
        return (
            f"{terms.local_steps} local steps. From the second on, gradients are taken at weights that carry only the"
            " hospital's own share of the noise, and no sum ever hides these: train.local-steps must be 1."
        )
    if terms.optimizer == "adam":
        return (
            "adam divides each hospital's gradient by its own moments, so the sum of the adapters is no function of the"
            " sum of the noised gradients: train.optimizer must be momentum, with train.momentum = 0."
        )
    if terms.optimizer != "momentum" or terms.momentum != 0 or terms.average != 0:
        return (
            "momentum and averaging in a hospital send its earlier gradients again, in sums over other survivors than"
            " they were charged for: train.momentum and train.average must be 0 (the server may do both on the sum)."
        )
    if len(terms.step_scales) < terms.quorum:
        return f"step scales of {len(terms.step_scales)} hospitals for a quorum of {terms.quorum}."
    if not all(math.isfinite(scale) and scale > 0 for scale in terms.step_scales) or len(set(terms.step_scales)) > 1:
        return (
            "weight x learning rate x clip / divisor must be positive and the same for all hospitals: otherwise a"
            " hospital with a larger step gets too little noise from the others."
        )
    return ""
