"""What a privatisation guarantees, in words and in a manifest. Everything here is public."""

from __future__ import annotations

import math
from typing import Any, Final

import fedrad
from fedrad.privatise.budgets import GroupGuarantee
from fedrad.privatise.local import figures
from fedrad.privatise.ner import Entities
from fedrad.privatise.presidio import Presidio
from fedrad.privatise.privatiser import Detector, Privatiser

LENGTHS: Final = (1, 20, 100)
NOT_HIDDEN: Final = (
    "how many tokens a text has (up to those dropped), and the order of texts",
    "which positions hold identifiers or words close to the task: the guarantee compares texts that agree in this",
    "tokens that a profile keeps, and identifiers that no detector found where the profile keeps the rest",
    "what many texts of one person say together: the figures of their texts add",
)


def seed_source(privatiser: Privatiser) -> str:
    """Where the randomness comes from, in words."""
    return (
        "operating system" if privatiser.seed is None else f"seed {privatiser.seed}: simulation only, protects nobody"
    )


def guarantee_lines(privatiser: Privatiser) -> list[str]:
    """A line for each group, and what they come to together."""
    lines = [f"group {k}, {of.group}: {_says(of)}" for k, of in enumerate(privatiser.guarantees, 1)]
    worst = [of.worst for of in privatiser.guarantees if math.isfinite(of.worst)]
    lines.append(
        "composed, worst case over all pairs of texts that agree in their groups and kept tokens: at most "
        + ", ".join(f"{max(worst) * n:,.0f} for {n} token{'s' if n > 1 else ''}" for n in LENGTHS)
        + "; a patient's reports add."
    )
    if max(worst) > 0:
        lines.append(
            "This is metric local differential privacy: it bounds how well tokens that are close in the table can be"
            " told apart. For tokens that are far apart, and in the usual sense of differential privacy, only the worst"
            " case counts, and one above 10 or so promises nothing."
        )
    return lines


def manifest(privatiser: Privatiser, texts: int, sha256: str) -> dict[str, Any]:
    """What belongs beside the result. Nothing in it depends on a text, but its number and the result's own digest."""
    choice, table = privatiser.choice, privatiser.table
    return {
        "fedrad": fedrad.__version__,
        "result_sha256": sha256,
        "texts": texts,
        "mechanism": choice.mechanism,
        "kappa": f"{choice.kappa}: {'epsilon' if choice.kappa == 'paper' else 'epsilon / pi'}",
        "epsilon": choice.epsilon,
        "profile": choice.profile,
        "task": privatiser.task,
        "importance_threshold": choice.threshold,
        "detectors": [_name(detector) for detector in privatiser.detectors],
        "randomness": seed_source(privatiser),
        "repair": "none" if privatiser.repair is None else privatiser.repair.figures,
        "table": {
            "model": table.name,
            "sha256": table.fingerprint,
            "tokens": len(table.unit),
            "answers": len(table.outputs),
            "dimension": table.dimension,
        },
        "groups": figures(choice, privatiser.task, "")["groups"],
        "composed": {
            "unit": "log-ratio, natural logarithm",
            "pairs": "texts of as many tokens, with the same groups at the same positions and the same kept tokens",
            "worst_case_at_most": {
                str(n): n * max(of.worst for of in privatiser.guarantees if math.isfinite(of.worst)) for n in LENGTHS
            },
            "per": "number of tokens; a text's positions and a patient's texts add",
        },
        "not_hidden": list(NOT_HIDDEN),
    }


def _name(detector: Detector) -> str:
    return f"{type(detector).__name__} {detector.model}" if isinstance(detector, Entities | Presidio) else "rules"


def _says(of: GroupGuarantee) -> str:
    if of.budget == 0:
        return "dropped"
    if of.guarantee is None:
        return "kept as it is, without any guarantee"
    return (
        f"budget {of.budget:.4g}: log-ratio at most {of.guarantee.rate:.4g} x distance ({of.guarantee.metric});"
        f" over all pairs of tokens at most {of.worst:.4g}"
    )
