"""What a plan's whole privacy profile says about any attack on one unit, whatever the attack is.

The figures are upper bounds from the privacy loss distribution of the plan's steps, by riskcal: Kulynych, Gomez et al.,
Attack-aware noise calibration for differential privacy, arXiv 2407.02191. They are sharper than what follows from
(epsilon, delta) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism

from fedrad.errors import ConfigError
from fedrad.privacy.accounting import Event

_GRID = 1e-3  # of the losses; the distribution is pessimistic on it
_RATES = (0.01, 0.001)


def require_riskcal() -> None:
    """Raises:
    ConfigError: it is not installed.
    """
    if find_spec("riskcal") is None:
        raise ConfigError("attack risk needs riskcal: pip install 'fedrad[audit]'")


def loss_distribution(events: Sequence[Event]) -> PrivacyLossDistribution:
    """Of all these steps together, pessimistic (connect the dots, arXiv 2207.04380)."""
    composed = None
    for rate, noise, steps in events:
        step = from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=_GRID)
        part = step.self_compose(steps)
        composed = part if composed is None else composed.compose(part)
    return composed


def attack_risk(events: Sequence[Event]) -> dict[str, Any]:
    """The most that any attack on one unit achieves against these steps.

    Returns:
        the largest advantage (true minus false positive rate; equation 3 of the paper), and the largest true positive
        rates at false positive rates of 1% and 0.1% (its Algorithm 1).

    Raises:
        ConfigError: riskcal is not installed.
    """
    require_riskcal()
    from riskcal.analysis import get_advantage_from_pld, get_beta_from_pld

    losses = loss_distribution(events)
    found = {"advantage": float(get_advantage_from_pld(losses))}
    for rate in _RATES:
        found[f"TPR at {rate:.1%} FPR"] = 1 - float(get_beta_from_pld(losses, alpha=rate))
    return found


def profile(events: Sequence[Event], epsilons: Sequence[float]) -> dict[str, float]:
    """delta at each of these epsilons: the privacy profile of the same steps."""
    losses = loss_distribution(events)
    return {f"delta at epsilon {epsilon:g}": float(losses.get_delta_for_epsilon(epsilon)) for epsilon in epsilons}
