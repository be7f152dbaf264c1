"""The guarantee of training on privatised texts, as figures and in words: beside epsilon, never added to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fedrad.config import Experiment
from fedrad.privatise.budgets import Choice, choice_of, group_guarantees

_SEEDED: Final = " Its randomness came from a seed: simulation only, it protects nobody."


def figures(choice: Choice, task: str, noise: str) -> dict[str, Any]:
    """What one draw of privatised texts guarantees, as JSON: all of it public.

    Args:
        noise: "system" or "seeded".
    """
    groups: list[dict[str, Any]] = []
    for of in group_guarantees(choice):
        # JSON has no infinity: a kept token's budget is "keep".
        found: dict[str, Any] = {"group": of.group, "budget": of.budget if math.isfinite(of.budget) else "keep"}
        if of.guarantee is not None:
            found |= {"rate": of.guarantee.rate, "metric": of.guarantee.metric, "worst_case_over_all_pairs": of.worst}
        groups.append(found)
    return {
        "profile": choice.profile,
        "mechanism": choice.mechanism,
        "epsilon": choice.epsilon,
        "task": task,
        "noise": noise,
        "groups": groups,
    }


def figures_of(experiment: Experiment) -> dict[str, Any] | None:
    """What the texts that a run trains on guarantee; None: it trains on the reports' own."""
    choice = choice_of(experiment.data)
    return None if choice is None else figures(choice, experiment.data.privatise_task, experiment.privacy.noise)


def in_words(draws: Sequence[Mapping[str, Any]]) -> str:
    """A sentence or two for whoever reads a plan, a result or a certificate.

    Args:
        draws: of the same texts, as ``figures`` gives them.
    """
    first = draws[0]
    worst = math.fsum(_worst(draw) for draw in draws)
    kept = any(group["budget"] == "keep" for draw in draws for group in draw["groups"])
    how = f"profile {first['profile']}, mechanism {first['mechanism']}, epsilon {first['epsilon']:g} a token"
    if len(draws) > 1:
        how = f"{len(draws)} draws, which add up"
    return (
        f"Separately, hospitals train on privatised texts ({how}): metric local differential privacy, not part of"
        f" epsilon and not to be added to it. Over all pairs of tokens the log-ratio is at most {worst:g} a token, and"
        " the tokens of a report and the reports of a patient add up; above 10 or so that promises nothing in the usual"
        " sense, and less only for tokens that are close in meaning."
        + (" Tokens that the profile keeps are not covered." if kept else "")
        + " Labels, lengths, and which words are identifiers or close to the task, are not covered."
        + (_SEEDED if any(draw["noise"] == "seeded" for draw in draws) else "")
    )


def _worst(draw: Mapping[str, Any]) -> float:
    return max(float(group.get("worst_case_over_all_pairs", 0)) for group in draw["groups"])
