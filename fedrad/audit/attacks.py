"""What attacks achieve, without privacy and with it: figures without a verdict, for ``fedrad audit --attacks``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedrad.audit.membership import attack_membership
from fedrad.audit.retrieval import attack_round
from fedrad.audit.risk import attack_risk, profile, require_riskcal
from fedrad.audit.subsets import plan_at, pool_of
from fedrad.config import Experiment

MODELS, SHARD, CANDIDATES, REPEATS = 16, 16, 100, 8
_POOL = 1000  # reports at most, of which a model is trained on half
EPSILONS = (0.0, 8.0, 1.0)  # 0: without privacy


def run_attacks(
    experiment: Experiment, told: Callable[[str], None] = lambda line: None
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Membership inference, candidate retrieval and attack risk, at ``EPSILONS`` and at the configuration's own.

    Raises:
        ConfigError: the unit is not the report, the corpus is too small, or riskcal is not installed.
    """
    require_riskcal()
    told("reading the reports, and running the frozen part of the model once")
    pool = pool_of(experiment, _POOL, at_least=SHARD + CANDIDATES)
    epsilons = list(dict.fromkeys([*EPSILONS, experiment.privacy.epsilon]))
    found: dict[str, list[Mapping[str, Any]]] = {"membership": [], "retrieval": [], "risk": []}
    for epsilon in epsilons:
        told(f"membership: {MODELS} models at epsilon {epsilon:g}")
        found["membership"].append(attack_membership(pool, epsilon, MODELS))
        told(f"retrieval: {REPEATS} rounds at epsilon {epsilon:g}")
        found["retrieval"].append(attack_round(pool, epsilon, shard=SHARD, candidates=CANDIDATES, repeats=REPEATS))
        if epsilon:
            plan = plan_at(pool, len(pool.inputs) // 2, epsilon)
            events = [plan.event(plan.steps)]
            row = {"epsilon": epsilon, "delta": plan.delta}
            found["risk"].append(row | attack_risk(events) | profile(events, (0.1, 0.5, 2.0)))
    return dict(found)
