"""The hospital as the privacy unit: the server clips whole updates and adds the noise (client-level, central DP).

Here the server is trusted. It sees every hospital's update without noise, and hospitals must trust it to clip, to add
the noise, to publish nothing else and to keep nothing. If that is too much to ask, use the report or the patient as the
unit: then hospitals trust nobody.

These are functions of tensors. ``fedrad.federation`` handles messages and the server's own ledger.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrad.errors import PrivacyError
from fedrad.privacy.clipping import clip_factors, finite_rows, largest_norm
from fedrad.privacy.noise import add_noise
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream


def hospital_plan(
    *, epsilon: float, delta: float, hospitals: int, rounds: int, clip: float, noise: str = "system"
) -> PrivacyPlan:
    """The server's plan for ``rounds`` noised rounds.

    Every hospital is charged for every round, whether it answered or not, and its sampling rate is 1. Sampling of
    hospitals would amplify privacy only if it stayed secret for ever who was sampled, and anyone who watches the
    network knows it.

    Args:
        hospitals: the planned number, public. It is the divisor, and delta must be below its inverse.
        clip: the largest L2 norm of a hospital's whole update of a round.

    Raises:
        PlanError: with all problems at once. With few hospitals, a delta below 1/hospitals can still be too large to
            promise anything, so delta must also be at most 1e-3; 1e-5 is still the figure to quote.
    """
    return PrivacyPlan.calibrate(
        unit="hospital",
        epsilon=epsilon,
        delta=delta,
        declared_size=hospitals,
        expected_batch=hospitals,
        steps=rounds,
        clip=clip,
        noise=noise,
    )


def update_of(reply: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A hospital's update of a round, float64: its reply minus the state that the server had sent to all."""
    return {name: reply[name].double() - tensor.double() for name, tensor in sent.items()}


def clip_update(update: Mapping[str, Tensor], largest: float) -> dict[str, Tensor]:
    """The update, scaled down to L2 norm ``largest`` over all its tensors together; zero if an entry is not finite.

    Returns:
        float64 tensors by the same names, whose joint norm is at most ``largest``.
    """
    factor = clip_factors([tensor[None] for tensor in update.values()], largest)
    return {name: factor * finite_rows(tensor[None], factor)[0].view_as(tensor) for name, tensor in update.items()}


def noised_mean(
    updates: Mapping[str, Mapping[str, Tensor]], like: Mapping[str, Tensor], plan: PrivacyPlan, stream: Stream
) -> dict[str, Tensor]:
    """The mean update of a round: clip each hospital's, sum, add noise, divide by the planned number of hospitals.

    Guarantee:
        If the server does this at most ``plan.steps`` times, publishes only functions of the results and of public
        values, and sends all hospitals the same, then everything it publishes is (``plan.epsilon``,
        ``plan.delta``)-differentially private with respect to adding or removing one hospital with all reports of all
        its patients. This holds against anybody but the server who sees all rounds and knows all other hospitals.
        A hospital that is removed counts as one that answers with zeros. The sum changes by at most ``plan.clip``,
        whatever the hospital sent (also huge or non-finite values), and neither noise nor divisor depends on who
        answered. Replacing one hospital by another is two changes.
        The server is trusted: what it received is not protected from it, nor from anyone who breaks into it. Whether a
        hospital takes part is not hidden from anyone who watches the network.

    Args:
        updates: site -> name -> tensor. A hospital that did not answer is left out, which is an update of zeros.
        like: name -> tensor of the update's shape and dtype.
        plan: made by `hospital_plan`; its divisor is the planned number of hospitals.
        stream: made for this round only.

    Returns:
        name -> tensor, of ``like``'s dtype. Hospitals are added in the order of their names, so the bits do not depend
        on the order of arrival.

    Raises:
        PrivacyError: the plan's unit is not the hospital, there are more hospitals than planned, an update has other
            tensors than ``like`` (replies are checked earlier), or the stream's mode is not the plan's.
    """
    if plan.unit != "hospital":
        raise PrivacyError(f"The plan's unit is the {plan.unit}; noise for whole hospitals needs a hospital plan.")
    if len(updates) > plan.divisor:
        raise PrivacyError(f"{len(updates)} hospitals answered, but {plan.divisor} were planned.")
    total = {name: torch.zeros(like[name].shape, dtype=torch.float64) for name in sorted(like)}
    for site in sorted(updates):
        update = updates[site]
        if {name: tensor.shape for name, tensor in update.items()} != {name: t.shape for name, t in like.items()}:
            raise PrivacyError(f"{site}: the update has other tensors than the model.")
        for name, tensor in clip_update(update, largest_norm(plan)).items():
            total[name] += tensor
    # Only the noised sum is rounded.
    return {
        name: (add_noise(tensor, plan, stream) / plan.divisor).to(like[name].dtype) for name, tensor in total.items()
    }
