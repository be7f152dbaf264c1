"""The plan: one object for sampler, clip norm, noise multiplier, steps, delta, unit and neighbouring relation."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedrad.errors import PlanError
from fedrad.privacy import accounting
from fedrad.privacy.accounting import Event


@dataclass(frozen=True)
class PrivacyPlan:
    """A hospital's private steps, as planned. Every field is public. Make one with `PrivacyPlan.calibrate`.

    Guarantee:
        If the hospital takes at most ``steps`` steps, each of which Poisson-samples its reports with
        ``sampling_rate``, clips every report's whole gradient to ``clip`` in L2 norm and adds Gaussian noise of
        standard deviation ``noise_multiplier`` x ``clip`` to the sum, then everything that it ever publishes from
        these steps is (``epsilon``, ``delta``)-differentially private with respect to adding or removing one report:
        against anybody (the server, other hospitals, the public) who sees every update and knows all other reports.
        A plan whose noise does not meet its ``epsilon`` can't be constructed.
        Assumptions: the noise comes from the operating system (``noise="system"``); the declared size, the batch and
        the other settings were not computed from the reports; nothing else of the reports is released. Not covered:
        what the base model already knew, a text that occurs in several reports, a patient's several reports
        together, and what can be inferred about somebody without their report.

    Attributes:
        unit: what one guarantee protects; only "report" so far.
        relation: neighbouring relation, always "add-or-remove-one".
        declared_size: the number of reports the hospital states in public.
        expected_batch: expected number of reports in a step if the declared size is right; also the divisor.
        clip: L2 bound of one report's gradient over all trainable tensors together.
        noise_multiplier: standard deviation of the noise divided by ``clip``.
        steps: planned number of noisy steps, over all rounds.
        epsilon: the target, met from below; 0 means not private.
        delta: below 1/declared_size.
        noise: "system" or "seeded".

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

    def __post_init__(self) -> None:
        _refuse(_problems(**asdict(self)))
        if self.private:
            spent = accounting.epsilon([self.event(self.steps)], self.delta)
            if spent > self.epsilon:
                raise PlanError(
                    f"Noise multiplier {self.noise_multiplier} spends epsilon {spent:.6g} in {self.steps} steps, more "
                    f"than the target {self.epsilon}: use PrivacyPlan.calibrate."
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
    ) -> PrivacyPlan:
        """The plan with the least noise that meets epsilon at delta for all the steps.

        With ``epsilon=0`` the plan is not private: no noise, and ``clip`` is unused and may be infinite.

        Raises:
            PlanError: with all problems at once; also where no noise multiplier meets the target.
        """
        fields: dict[str, Any] = {
            "unit": unit,
            "relation": "add-or-remove-one",
            "declared_size": declared_size,
            "expected_batch": expected_batch,
            "clip": float(clip),
            "noise_multiplier": 1.0 if epsilon else 0.0,  # a stand-in, so that all else is checked before the search
            "steps": steps,
            "epsilon": float(epsilon),
            "delta": float(delta),
            "noise": noise,
        }
        _refuse(_problems(**fields))
        if epsilon:
            fields["noise_multiplier"] = accounting.smallest_noise_multiplier(
                float(epsilon), float(delta), expected_batch / declared_size, steps
            )
        return cls(**fields)

    @property
    def private(self) -> bool:
        """Whether anything is promised at all."""
        return self.epsilon != 0

    @property
    def sampling_rate(self) -> float:
        """Each report's probability of being in a step: public, from the declared size."""
        return self.expected_batch / self.declared_size

    @property
    def divisor(self) -> int:
        """What every noised sum is divided by: a public constant, never the realised batch."""
        return self.expected_batch

    @property
    def id(self) -> str:
        """16 hexadecimal digits that differ whenever any field does."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The claim in words, for tables and certificates."""
        if not self.private:
            return "not private"
        return (
            "seeded: simulation only"
            if self.noise == "seeded"
            else f"{self.unit}-level ({self.epsilon}, {self.delta})-DP"
        )

    def event(self, steps: int) -> Event:
        """``steps`` of this plan's steps, for the accountant."""
        return Event(self.sampling_rate, self.noise_multiplier, steps)

    def to_json(self) -> str:
        """All fields as canonical JSON (sorted keys, no spaces; an infinite clip is ``Infinity``)."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def declared_size(n: int) -> int:
    """A simulated hospital's public statement of its size: n rounded half up to two significant digits, at least 1."""
    if n < 0:
        raise PlanError(f"A shard can't have {n} reports.")
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
) -> list[str]:
    found: list[str] = []
    if unit in ("patient", "hospital"):
        found.append(f'unit "{unit}" is not implemented yet; use "report".')
    elif unit != "report":
        found.append(f'unknown unit "{unit}"; use "report".')
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
            f"delta {delta} must be below 1/declared size = {1 / declared_size:.3g}: it is too large to promise."
        )
    return found
