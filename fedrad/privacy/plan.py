"""The privacy plan: sampling rate, clip norm, noise multiplier, steps, delta, unit and neighbouring relation."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

from fedrad.errors import PlanError
from fedrad.privacy import accounting, calibration
from fedrad.privacy.accounting import Event
from fedrad.privacy.noise_share import SharedNoiseTerms, own_noise_multiplier

# Delta allows everything to be revealed with this probability. A bound of 1/n is sensible for thousands of reports, but
# for four hospitals it would accept 0.2, for everything that a hospital sent.
LARGEST_DELTA_FOR_HOSPITALS = 1e-3


@dataclass(frozen=True)
class PrivacyPlan:
    """A hospital's private steps, as planned. Every field is public. Make one with `PrivacyPlan.calibrate`.

    Guarantee:
        Let a unit be a report (``unit="report"``) or a patient with all their reports at the hospital
        (``unit="patient"``, however many reports these are). Suppose that the hospital takes at most ``steps`` steps.
        Each step Poisson-samples the units with ``sampling_rate``, clips the sum of every unit's gradients to ``clip``
        in L2 norm, and adds Gaussian noise of standard deviation ``noise_multiplier`` x ``clip`` to the total. Then
        everything that the hospital ever publishes from these steps is (``epsilon``, ``delta``)-differentially private
        with respect to adding or removing one unit. This holds against anybody (the server, other hospitals, the
        public) who sees every update and knows all other units. A plan whose noise does not meet its ``epsilon`` can't
        be constructed.
        Assumptions: the noise comes from the operating system (``noise="system"``); the declared size, the batch and
        the other settings were not computed from the reports; nothing else about the reports is released; with
        ``unit="patient"``, all reports of a patient carry the same patient id. Not covered: what the base model already
        knew; a text that occurs in several units; with ``unit="report"``, several reports of one patient together (see
        `groups.group_epsilon`); and what can be inferred about somebody without their report.

        With ``unit="hospital"`` it is the server's plan and not a hospital's: see `hospital_unit`.

        With ``shared`` the hospital adds noise of ``own_noise_multiplier`` x ``clip`` only, and what it sends is NOT
        private by itself. The guarantee is then that of `SharedNoiseTerms`: it holds only against an observer who sees
        nothing but sums over ``shared.quorum`` hospitals or more, all with the same ``noise_multiplier``.

    Attributes:
        unit: what one guarantee protects: "report", "patient" or "hospital".
        relation: neighbouring relation, always "add-or-remove-one".
        declared_size: the number of units (reports or patients) that the hospital states in public.
        expected_batch: expected number of units in a step if the declared size is right; also the divisor.
        clip: L2 bound on one unit's summed gradient over all trainable tensors together.
        noise_multiplier: standard deviation of the noise that is charged for, divided by ``clip``.
        steps: planned number of noisy steps, over all rounds.
        epsilon: an upper bound for the plan; 0 means not private.
        delta: below 1/declared_size.
        noise: "system" or "seeded".
        reports_per_patient: with ``unit="patient"``, the largest number of reports of a sampled patient in a step,
            drawn anew in each step. A public cap; epsilon does not depend on it. 1 for the other units.
        shared: the terms under which other hospitals add the rest of the noise; None: this hospital adds all of it.

    Raises:
        PlanError: with all problems at once.
    """

    unit: str
    relation: Literal["add-or-remove-one"]
    declared_size: int
    expected_batch: int
    clip: float
    noise_multiplier: float
    steps: int
    epsilon: float
    delta: float
    noise: str
    reports_per_patient: int = 1
    shared: SharedNoiseTerms | None = None

    def __post_init__(self) -> None:
        _refuse(_problems(**{field.name: getattr(self, field.name) for field in fields(self)}))
        if self.private:
            spent = accounting.epsilon([self.event(self.steps)], self.delta)
            if spent > self.epsilon:
                raise PlanError(
                    f"Noise multiplier {self.noise_multiplier} spends epsilon {spent:.6g} in {self.steps} steps, more "
                    f"than the target {self.epsilon}: use PrivacyPlan.calibrate, or plan fewer steps."
                )

    @classmethod
    def calibrate(
        cls,
        *,
        epsilon: float,
        delta: float,
        declared_size: int,
        expected_batch: int,
        steps: int,
        clip: float,
        unit: str = "report",
        noise: str = "system",
        reports_per_patient: int = 1,
        noise_multiplier: float = 0.0,
    ) -> PrivacyPlan:
        """The plan with the least noise that meets (epsilon, delta) for all steps, or with this ``noise_multiplier``.

        With ``epsilon=0`` the plan is not private: it has no noise, and ``clip`` is unused and may be infinite.

        Raises:
            PlanError: with all problems at once; also if no noise multiplier, or not the given one, meets the target.
        """
        planned: dict[str, Any] = {
            "unit": unit,
            "relation": "add-or-remove-one",
            "declared_size": declared_size,
            "expected_batch": expected_batch,
            "clip": float(clip),
            "noise_multiplier": 1.0 if epsilon else 0.0,  # a placeholder: the rest is checked before the search
            "steps": steps,
            "epsilon": float(epsilon),
            "delta": float(delta),
            "noise": noise,
            "reports_per_patient": reports_per_patient,
        }
        _refuse(_problems(**planned))
        if epsilon:
            planned["noise_multiplier"] = noise_multiplier or calibration.smallest_noise_multiplier(
                float(epsilon), float(delta), expected_batch / declared_size, steps
            )
        return cls(**planned)

    @property
    def private(self) -> bool:
        """Whether the plan guarantees anything."""
        return self.epsilon != 0

    @property
    def sampling_rate(self) -> float:
        """Each unit's probability of being in a step: public, from the declared size."""
        return self.expected_batch / self.declared_size

    @property
    def own_noise_multiplier(self) -> float:
        """The noise multiplier of what this hospital adds: ``noise_multiplier``, or less if the noise is shared."""
        if self.shared is None:
            return self.noise_multiplier
        return own_noise_multiplier(self.noise_multiplier, self.shared)

    @property
    def divisor(self) -> int:
        """The divisor of every noised sum: a public constant, never the realised batch size."""
        return self.expected_batch

    @cached_property  # every reply and every charge needs it
    def id(self) -> str:
        """16 hexadecimal digits, different for plans that differ in any field."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The claim in words, for tables and certificates."""
        if not self.private:
            return "not private"
        if self.noise == "seeded":
            return "seeded: simulation only"
        only = "" if self.shared is None else f" in sums of {self.shared.quorum} hospitals only"
        return f"{self.unit}-level ({self.epsilon}, {self.delta})-DP{only}"

    def event(self, steps: int) -> Event:
        """``steps`` of this plan's steps, for the accountant."""
        return Event(self.sampling_rate, self.noise_multiplier, steps)

    def to_json(self) -> str:
        """All fields as canonical JSON (sorted keys, no spaces; an infinite clip is ``Infinity``)."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def declared_size(n: int) -> int:
    """A simulated hospital's public statement of its size: n rounded half up to two significant digits, at least 1.

    Args:
        n: its number of units: reports, or patients if the plan protects patients (`Units.count`).
    """
    if n < 0:
        raise PlanError(f"A shard can't have {n} reports or patients.")
    unit = 10 ** max(len(str(n)) - 2, 0)
    return max((n + unit // 2) // unit * unit, 1)


def _refuse(problems: list[str]) -> None:
    if len(problems) == 1:
        raise PlanError(f"The plan contradicts itself: {problems[0]}")
    if problems:
        raise PlanError("\n".join(["The plan contradicts itself:", *(f"- {p}" for p in problems)]))


def _problems(
    *,
    unit: str,
    relation: str,
    declared_size: int,
    expected_batch: int,
    clip: float,
    noise_multiplier: float,
    steps: int,
    epsilon: float,
    delta: float,
    noise: str,
    reports_per_patient: int,
    shared: SharedNoiseTerms | None = None,
) -> list[str]:
    found: list[str] = []
    if unit not in ("report", "patient", "hospital"):
        found.append(f'unknown unit "{unit}"; use "report", "patient" or "hospital".')
    if not isinstance(reports_per_patient, int) or isinstance(reports_per_patient, bool) or reports_per_patient < 1:
        found.append(f"reports per patient must be a whole number, 1 or more, not {reports_per_patient}.")
    elif unit != "patient" and reports_per_patient != 1:
        found.append(f'reports per patient must be 1 with the unit "{unit}", not {reports_per_patient}.')
    if shared is not None and (unit == "hospital" or epsilon == 0):
        found.append("noise can be shared only if the plan is private and the hospitals add the noise.")
    if relation != "add-or-remove-one":
        found.append(f'unknown neighbouring relation "{relation}"; only "add-or-remove-one" is accounted for.')
    if noise not in ("system", "seeded"):
        found.append(f'unknown noise "{noise}"; use "system" or "seeded".')
    sizes = {"the declared size": declared_size, "the expected batch": expected_batch, "the number of steps": steps}
    wrong = [
        f"{name} must be a whole number, 1 or more, not {value}."
        for name, value in sizes.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if not wrong and expected_batch > declared_size:
        wrong = [f"the expected batch ({expected_batch}) is larger than the declared size ({declared_size})."]
    if not wrong and unit == "hospital" and expected_batch != declared_size:
        wrong = [
            f"all {declared_size} hospitals must be in every round, not {expected_batch}: sampling hospitals gains"
            " nothing, because it can be seen who answers."
        ]
    if not (math.isfinite(epsilon) and epsilon >= 0):
        return [*found, *wrong, f"epsilon must be finite and 0 (not private) or more, not {epsilon}."]
    found += wrong
    if epsilon == 0:
        if noise_multiplier != 0:
            found.append(f"a plan that is not private takes no noise, but its noise multiplier is {noise_multiplier}.")
        if not clip > 0:
            found.append(f"the clip norm must be positive, not {clip}.")
        return found
    if not (math.isfinite(clip) and clip > 0):
        found.append(f"the clip norm must be positive and finite, not {clip}.")
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        found.append(f"the noise multiplier must be positive and finite, not {noise_multiplier}.")
    if not accounting.SMALLEST_DELTA <= delta < 1:
        found.append(f"delta must be at least {accounting.SMALLEST_DELTA} and below 1, not {delta}.")
    elif declared_size >= 1 and delta >= 1 / declared_size:
        found.append(
            f"delta {delta} must be below 1/declared size = {1 / declared_size:.3g}; a larger delta promises nothing."
        )
    elif unit == "hospital" and delta > LARGEST_DELTA_FOR_HOSPITALS:
        found.append(
            f"delta {delta} must be at most {LARGEST_DELTA_FOR_HOSPITALS} if the unit is the hospital: with few"
            " hospitals, a delta below 1/hospitals can still promise nothing."
        )
    return found
