"""What most strategies can't work with: factors that the configuration freezes, and no adapted layer at all."""

from __future__ import annotations

from fedrad.config import Experiment


def refusals(experiment: Experiment, *, freeze_a: str = "", no_targets: str = "") -> list[str]:
    """The problems among these that the configuration has, each with its key.

    Args:
        freeze_a: why ``lora.freeze-a`` contradicts the strategy; empty: it does not.
        no_targets: likewise for an empty ``lora.targets``.
    """
    name, lora = experiment.strategy.name, experiment.adapted
    found = (
        ("lora.freeze-a", lora.freeze_a, freeze_a),
        ("lora.targets", not lora.targets, no_targets),
    )
    return [f"{key}: strategy.name={name} {why}" for key, applies, why in found if applies and why]


HEAD_ALONE = "needs adapted layers; name some, or take strategy.name=head"
BOTH_FACTORS = "aggregates what hospitals learn in both factors; set it to false, or take strategy.name=fedavg"
