"""The private optimizers of many hospitals as one: every parameter is a stack [H, *shape], one layer a hospital.

For simulations that train many hospitals in one pass. What a hospital gets is what `PrivateOptimizer` gives it: its own
clip norm, noise multiplier, divisor and noise stream; nothing of another hospital's reports enters its layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.errors import PrivacyError
from fedrad.privacy.noise import Stream
from fedrad.privacy.optimizer import (
    clip_factors,
    finite_rows,
    largest_norm,
    refuse_hospital_unit,
    refuse_unknown_units,
    scales_of,
)
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.units import UnitsOfStep, sum_by_unit


class StackedPrivateOptimizer:
    """Wraps a torch optimizer over stacked parameters: `accumulate` as often as needed, then `step_noisy` once.

    Guarantee:
        For each hospital h: between two calls of `step_noisy`, each of its units (reports or patients) contributes to
        layer h a vector (over all parameters together) of L2 norm at most ``plans[h].clip``, and to no other layer
        anything.
        `step_noisy` adds independent Gaussian noise of standard deviation ``noise_multiplier * clip`` of its plan, from
        its own stream, to every coordinate of its layer, and divides by its plan's public divisor. That is one
        Poisson-subsampled Gaussian step of ``plans[h]``, under the assumptions of `PrivateOptimizer`. The wrapped
        optimizer must work elementwise (SGD, Adam): it sees all layers at once.

    Args:
        optimizer: over stacked parameters [H, *shape], built from named ones; its groups may have a ``"scale"``, as
            `PrivateOptimizer`'s.
        plans: of each hospital.
        gains: by which each hospital's noised gradient is multiplied last, public: its step size as a share of the
            optimizer's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, plans: Sequence[PrivacyPlan], gains: Sequence[float]) -> None:
        self._optimizer = optimizer
        self._plans = tuple(plans)
        for plan in self._plans:
            refuse_hospital_unit(plan)
            if plan.shared is not None:
                raise PrivacyError("Hospitals that share their noise train one by one.")
        self._units = UnitsOfStep()
        self._parameters: dict[str, Tensor] = {
            name: parameter
            for group in optimizer.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        }
        self._scales = scales_of(optimizer)
        self._device = next(iter(self._parameters.values())).device
        self._gains = torch.tensor(gains, dtype=torch.float64).to(self._device)
        self._clips = torch.tensor([largest_norm(plan) for plan in plans], dtype=torch.float64)
        self._sums: dict[str, Tensor] = {}
        self._seen: set[bytes] = set()
        for name, parameter in self._parameters.items():
            if len(parameter) != len(plans):
                raise PrivacyError(f"{name} has {len(parameter)} layers for {len(plans)} hospitals.")
        self._clear()

    def accumulate(self, grads: Mapping[str, Tensor], hospital: Tensor, units: NDArray[np.int64] | None = None) -> None:
        """Clips a micro-batch, unit by unit, and adds each unit to the sum of its hospital.

        Args:
            grads: name -> [B, *shape].
            hospital: which hospital's report each is, int64 [B], on the CPU.
            units: whose each row is, [B], with different numbers at different hospitals; None, if every report is a
                unit of its own.

        Raises:
            PrivacyError: the tensors are not the per-report gradients of exactly the optimizer's parameters, a unit
                had reports in an earlier micro-batch of this step or at two hospitals, or a plan protects patients and
                ``units`` is missing.
        """
        if grads.keys() != self._parameters.keys():
            raise PrivacyError(f"Gradients of {sorted(grads)}, but {sorted(self._parameters)} are trained.")
        for name, parameter in self._parameters.items():
            if grads[name].shape != (len(hospital), *parameter.shape[1:]):
                raise PrivacyError(f"{name}: {tuple(grads[name].shape)} are no gradients of {len(hospital)} reports.")
        for plan in self._plans:
            refuse_unknown_units(plan, len(hospital), units)
        if units is not None:
            at_one = np.unique(np.stack([units, hospital.numpy()]), axis=1).shape[1]
            if at_one != len(np.unique(units)):
                raise PrivacyError("A unit has reports at two hospitals: number the units of each hospital apart.")
            self._units.add(units)
            grads, first = sum_by_unit(grads, units)
            hospital = hospital[torch.from_numpy(first)]
        clips = self._clips[hospital].to(self._device)
        factors = clip_factors([grads[name] for name in self._parameters], clips, self._scales)
        # [H, B]: the factor where the report is the hospital's. A product sums by hospital in one pass.
        belongs = torch.nn.functional.one_hot(hospital, len(self._plans)).T.to(self._device)
        members = torch.where(belongs == 1, factors, 0.0)
        for (name, total), scale in zip(self._sums.items(), self._scales, strict=True):
            total.addmm_(members, finite_rows(grads[name], factors), alpha=scale)

    def step_noisy(self, streams: Sequence[Stream]) -> None:
        """Noise of each hospital from its own stream, its divisor, one step of the wrapped optimizer.

        Also for a hospital from which nothing was accumulated: its empty batch is a step of noise alone.

        Raises:
            PrivacyError: a stream is not what its hospital's plan says, or repeats earlier noise.
        """
        for plan, stream in zip(self._plans, streams, strict=True):
            if stream.mode != plan.noise:
                raise PrivacyError(f"The plan says {plan.noise} noise, but this stream is {stream.mode}.")
        try:
            for index, (plan, stream) in enumerate(zip(self._plans, streams, strict=True)):
                if plan.private:
                    self._add_noise(index, plan.noise_multiplier * plan.clip, stream)
            for (name, parameter), scale in zip(self._parameters.items(), self._scales, strict=True):
                # As PrivateOptimizer: sum and noise are rounded to the parameter's dtype only together.
                noised = (self._sums[name] / scale).to(parameter.dtype)
                for index, plan in enumerate(self._plans):
                    noised[index] /= plan.divisor
                parameter.grad = (noised * self._gains[:, None].to(noised.dtype)).view_as(parameter)
            self._optimizer.step()
        finally:  # a step that failed half-way must not lend its sums to the next one
            self._clear()

    def _add_noise(self, index: int, std: float, stream: Stream) -> None:
        # In the order of the parameters, as PrivateOptimizer draws it: a seeded stream gives the same noise.
        for position, total in enumerate(self._sums.values()):
            noise = stream.normal((total.shape[1],), dtype=torch.float64)
            if position == 0:
                mark = noise[:4].numpy().tobytes()
                if mark in self._seen:
                    raise PrivacyError("This noise was used before: give each hospital and step its own stream.")
                self._seen.add(mark)
            total[index].add_(noise.to(self._device), alpha=std)

    def _clear(self) -> None:
        self._units.clear()
        for parameter in self._parameters.values():
            parameter.grad = None
        self._sums = {
            name: torch.zeros(len(p), math.prod(p.shape[1:]), dtype=torch.float64, device=p.device)
            for name, p in self._parameters.items()
        }
