"""Four groups of tokens, and what a profile grants each of them.

A token is sensitive if a detector finds it in an identifier, and important if it is close to the task:

    group 1  sensitive, important        group 3  not sensitive, important
    group 2  sensitive, not important    group 4  not sensitive, not important

The guarantee of a budget compares texts of the same groups at the same positions. It therefore says nothing about the
groups themselves: where identifiers stand, and which tokens are close to the task, may be read off the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedrad.errors import ConfigError
from fedrad.privatise.guarantees import Guarantee, Kappa, guarantee_of
from fedrad.settings_data import Data

GROUPS: Final = (
    "sensitive, important",
    "sensitive, not important",
    "not sensitive, important",
    "not sensitive, not important",
)
DROP, KEEP = 0.0, math.inf
PROFILES: Final[Mapping[str, tuple[float, float, float, float]]] = {
    "drop": (DROP, DROP, 4, 3),
    "full": (2, 1, 4, 3),
    "private-low": (KEEP, 1, KEEP, KEEP),
    "private-both": (1, 1, KEEP, KEEP),
    "uniform": (1, 1, 1, 1),
}
"""Budgets of groups 1 to 4 in units of epsilon: 0 drops a token, infinity keeps it. All but ``drop`` are STAMP's."""
DEFAULT_PROFILE: Final = "drop"

MECHANISMS: Final = ("polar", "full-polar", "laplace", "coordinate-laplace", "santext", "tem")
_WITH_KAPPA: Final = ("polar", "full-polar")


@dataclass(frozen=True)
class Choice:
    """What a user chooses, all of it public.

    Attributes:
        epsilon: the unit of the profile's budgets.
        profile: one of ``PROFILES``.
        mechanism: one of ``MECHANISMS``.
        kappa: how a polar mechanism reads a budget, as in ``Polar``.
        threshold: a token is important if its cosine to the task reaches this.

    Raises:
        ConfigError: all problems at once.
    """

    epsilon: float
    profile: str = DEFAULT_PROFILE
    mechanism: str = "polar"
    kappa: Kappa = "paper"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            problems.append("epsilon must be positive and finite; profiles drop or keep tokens")
        if self.profile not in PROFILES:
            problems.append(f"profile must be one of {', '.join(PROFILES)}")
        if self.mechanism not in MECHANISMS:
            problems.append(f"mechanism must be one of {', '.join(MECHANISMS)}")
        if self.kappa not in ("paper", "code"):
            problems.append("kappa must be paper or code")
        elif self.kappa == "code" and self.mechanism not in _WITH_KAPPA:
            problems.append(f"kappa = code is for {' and '.join(_WITH_KAPPA)}: no other mechanism has a kappa")
        if not -1 <= self.threshold <= 1:
            problems.append("threshold is a cosine, from -1 to 1")
        if problems:
            raise ConfigError(problems)

    @property
    def budgets(self) -> tuple[float, ...]:
        """Of groups 1 to 4."""
        return tuple(unit * self.epsilon for unit in PROFILES[self.profile])


def choice_of(data: Data) -> Choice | None:
    """How the texts are privatised that a hospital trains on; None: they are not."""
    if data.privatise == "none":
        return None
    return Choice(data.privatise_epsilon, data.privatise, data.privatise_mechanism)


@dataclass(frozen=True)
class GroupGuarantee:
    """What the budget of one group comes to.

    Attributes:
        group: in words.
        budget: 0: the token is dropped; infinite: it is kept.
        guarantee: None for a token that is dropped or kept.
    """

    group: str
    budget: float
    guarantee: Guarantee | None

    @property
    def worst(self) -> float:
        """The largest log-ratio that a position of this group adds: 0 if dropped, infinite if kept."""
        return self.budget if self.guarantee is None else self.guarantee.worst


def group_guarantees(choice: Choice) -> tuple[GroupGuarantee, ...]:
    """Of groups 1 to 4.

    Guarantee:
        For two texts with the same groups at the same positions, the log-ratio of the result's probabilities is at most
        the sum, over the positions that differ, of rate * distance (STAMP, theorem 2). Over all such pairs of texts it
        is the sum of ``worst`` over positions, and over all texts of a patient if all of them may differ.
    """
    return tuple(
        GroupGuarantee(
            group, budget, guarantee_of(choice.mechanism, budget, choice.kappa) if 0 < budget < math.inf else None
        )
        for group, budget in zip(GROUPS, choice.budgets, strict=True)
    )
