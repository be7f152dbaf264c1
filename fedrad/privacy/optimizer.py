"""Clip, sum, noise, step: Opacus's `DPOptimizer` with its known gaps closed, for one hospital or for many at once.

Differences from Opacus 1.6:
    - Gradients are divided by the plan's public constant, not by ``int(n * q)``, which reveals the private n.
    - A report whose gradient has a non-finite entry contributes zero; in Opacus one NaN destroys the model, visibly.
    - Norms, sum and noise are float64, so that the norm of a float32 gradient can't overflow and every contribution is
      at most ``clip``. Only the noised sum is rounded.
    - The noise comes from a `Stream`, not from torch's global generator, which a configuration can seed.
    - An empty batch takes a noisy step like any other.
    - A step needs a noise stream, and noise multiplier and clip can't be changed from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrad.errors import PrivacyError
from fedrad.privacy.clipping import clip_factors, finite_rows, largest_norm, scales_of
from fedrad.privacy.noise import add_noise
from fedrad.privacy.opacus_parts import DPOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream
from fedrad.privacy.units import UnitsOfStep, sum_by_unit


class PrivateOptimizer(DPOptimizer):
    """Wraps a torch optimizer: call `accumulate` for each micro-batch of per-sample gradients, then `step_noisy` once.

    With several plans it combines the optimizers of as many hospitals, for simulations that train them in one pass.
    Every parameter is then a stack [H, *shape] with one layer for each hospital.

    Guarantee:
        For each hospital: between two calls of `step_noisy`, each unit of its plan (a report, or a patient with all
        their reports) adds to the hospital's sum a vector over all parameters of L2 norm at most ``plan.clip``,
        whatever its gradients are (missing, huge, NaN or duplicate), and it adds nothing to any other hospital's sum.
        `step_noisy` adds independent Gaussian noise of standard deviation ``plan.noise_multiplier * plan.clip``, from
        the hospital's own stream, to every coordinate before anything else sees the sum, and divides by its plan's
        public divisor. That is one Poisson-subsampled Gaussian step of the plan, if the units were drawn by
        `poisson_sample`, each report is accumulated at most once, and its gradient depends on no other unit. A plan
        that is not private (epsilon 0) neither clips nor adds noise.
        A parameter group of public scale s (its key ``"scale"``, by default 1) enters this vector multiplied by s, and
        its noised sum is divided by s: it is the same mechanism applied to the scaled gradient. A smaller scale leaves
        more of the clip norm to the other groups and gives this group more noise.
        If the plan shares its noise, the standard deviation is ``plan.own_noise_multiplier * plan.clip``, less than
        the plan's, and only the sum over the hospitals is that step. Nothing else reduces the noise.

    Args:
        optimizer: any torch optimizer over exactly the trained tensors; with stacks it must be elementwise (SGD, Adam).
            If it was built from named parameters (``SGD(adapter.items(), ...)``), `accumulate` checks the names instead
            of relying on their order.
        plans: one for each hospital.
        gains: public factor of each hospital's noised gradient, applied last: its step size divided by that of the
            optimizer. Empty: 1.

    Raises:
        PrivacyError: a plan's unit is the hospital (its update is clipped at the server); or the parameters do not have
            one layer for each hospital.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *plans: PrivacyPlan, gains: Sequence[float] = ()) -> None:
        if any(plan.unit == "hospital" for plan in plans):
            raise PrivacyError("This plan's unit is the hospital: its noise is added at the server, to whole updates.")
        if len(plans) > 1 and any(plan.shared is not None for plan in plans):
            raise PrivacyError("Hospitals that share their noise train one by one.")
        self.plans, self._gains = plans, gains
        self._clips = torch.tensor([largest_norm(plan) for plan in plans], dtype=torch.float64)
        self._units = UnitsOfStep()
        self._names: list[str] | None = _names(optimizer)
        self._scales = scales_of(optimizer)
        self._hospital: Tensor | None = None
        self._streams: Sequence[Stream] = ()
        self._seen: set[int] = set()
        self._power: Tensor | None = None
        super().__init__(
            optimizer,
            noise_multiplier=plans[0].own_noise_multiplier,
            max_grad_norm=plans[0].clip,
            expected_batch_size=plans[0].divisor,
            loss_reduction="mean",
        )
        if len(plans) > 1 and any(len(p) != len(plans) for p in self.params):
            raise PrivacyError(f"Every parameter must have a layer for each of {len(plans)} hospitals.")

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio of the first hospital's last update: ``inf`` without noise, ``nan`` before any step.

        sqrt(max(|g|^2 - E|noise|^2, 0) / E|noise|^2) over all coordinates. It is a function of the noised gradient and
        public constants, so it may be published.
        """
        plan = self.plans[0]
        if self._power is None:
            return math.nan
        if not plan.private:
            return math.inf
        std = plan.own_noise_multiplier * plan.clip / plan.divisor
        expected = (
            std**2 * sum(p.numel() / s**2 for p, s in zip(self.params, self._scales, strict=True)) / len(self.plans)
        )
        return math.sqrt(max(float(self._power) - expected, 0.0) / expected)

    def accumulate(
        self, grads: Mapping[str, Tensor], units: NDArray[np.int64] | None = None, hospital: Tensor | None = None
    ) -> None:
        """Clips a micro-batch of per-sample gradients, unit by unit, and adds it to the sum of this step.

        Args:
            grads: name -> [B, *shape] in the order of the optimizer's parameters; B may be 0.
            units: index of each row's unit [B], different at different hospitals; None if each report is a unit.
            hospital: index of each row's hospital, int64 [B], on the CPU; None if there is one hospital.

        Raises:
            PrivacyError: the tensors are not the per-sample gradients of exactly the optimizer's parameters; a unit had
                reports in an earlier micro-batch of this step or at two hospitals; or a plan protects patients and
                ``units`` is missing.
        """
        found = list(grads)
        if self._names is not None:
            if sorted(found) != sorted(self._names):
                raise PrivacyError(
                    f"Gradients of {sorted(found)} were handed over, but {sorted(self._names)} are trained."
                )
            found = self._names
        if len(found) != len(self.params):
            raise PrivacyError(f"Gradients of {len(found)} tensors, but {len(self.params)} are trained.")
        if (hospital is None) != (len(self.plans) == 1):
            raise PrivacyError(f"Pass `hospital` exactly if there are several hospitals; there are {len(self.plans)}.")
        sizes = {len(grads[name]) if grads[name].ndim else -1 for name in found}
        sizes |= set() if hospital is None else {len(hospital)}
        for name, p in zip(found, self.params, strict=True):
            if grads[name].shape[1:] != self._layers(p).shape[1:] or len(sizes) != 1:
                raise PrivacyError(
                    f"{name}: {tuple(grads[name].shape)} are no per-sample gradients of {tuple(p.shape)}."
                )
        joined = self._joined({name: grads[name].detach() for name in found}, sizes.pop(), units, hospital)
        for name, p in zip(found, self.params, strict=True):
            p.grad_sample = joined[name]
        self.clip_and_accumulate()
        for p in self.params:
            p.grad_sample = None

    def discard(self, grads: Mapping[str, Tensor]) -> None:
        """Does the work of `accumulate` and discards the result, so that the step's sum keeps all its bits.

        Args:
            grads: as for `accumulate`, for one dummy unit.
        """
        sums, units = [p.summed_grad for p in self.params], self._units
        try:
            self._units = UnitsOfStep()
            for p, total in zip(self.params, sums, strict=True):
                p.summed_grad = torch.zeros_like(p, dtype=torch.float64) if total is None else total
            rows = len(next(iter(grads.values()), ()))
            self.accumulate(grads, np.zeros(rows, dtype=np.int64))
        finally:
            self._units = units
            for p, total in zip(self.params, sums, strict=True):
                p.summed_grad = total

    def step_noisy(self, *streams: Stream) -> None:
        """Adds noise from a stream made for this step, divides by the public divisor, steps the wrapped optimizer.

        If nothing was accumulated (an empty batch), the step consists of noise alone.

        Args:
            streams: one for each hospital.

        Raises:
            PrivacyError: a stream's mode is not its plan's, or it repeats earlier noise. No parameter has changed.
        """
        self._streams = streams
        try:
            self.pre_step()
            self.original_optimizer.step()
        finally:  # after a failed step its sum must not enter the next one
            self._streams = ()
            self._units.clear()
            self.zero_grad(set_to_none=True)

    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        """Adds sum_i min(1, clip / |s g_i|) s g_i to ``p.summed_grad``, in float64; a non-finite g_i counts as 0."""
        grads = [p.grad_sample for p in self.params]
        if self._hospital is None:
            weights = factors = clip_factors(grads, float(self._clips), self._scales)
        else:
            factors = clip_factors(grads, self._clips[self._hospital].to(grads[0].device), self._scales)
            # [H, B]: the factor if the row belongs to the hospital, else 0. The product below sums by hospital.
            belongs = nn.functional.one_hot(self._hospital, len(self.plans)).T.to(factors.device)
            weights = torch.where(belongs == 1, factors, 0.0)
        for p, scale in zip(self.params, self._scales, strict=True):
            total = (scale * weights @ finite_rows(p.grad_sample, factors)).view_as(p)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

    @torch.no_grad()
    def add_noise(self) -> None:
        """Sets ``p.grad`` to the sum plus noise, both float64; only the noised sum is rounded to the dtype of ``p``."""
        if len(self._streams) != len(self.plans):
            raise PrivacyError("No noise without a stream for each hospital: call step_noisy(stream).")
        sums = [
            torch.zeros_like(p, dtype=torch.float64) if p.summed_grad is None else p.summed_grad for p in self.params
        ]
        for i, (plan, stream) in enumerate(zip(self.plans, self._streams, strict=True)):
            self._refuse_repeated(plan, stream)
            for total in sums:
                layer = self._layers(total)[i]
                layer.copy_(add_noise(layer, plan, stream))
        for p, total, scale in zip(self.params, sums, self._scales, strict=True):
            p.grad = (total / scale).to(p.dtype)

    @torch.no_grad()
    def scale_grad(self) -> None:
        """Divides by each plan's public divisor, and keeps |g|^2 for `snr` without a device synchronisation."""
        for p in self.params:
            for layer, plan in zip(self._layers(p.grad), self.plans, strict=True):
                layer /= plan.divisor
        self._power = torch.stack([self._layers(p.grad)[0].double().square().sum() for p in self.params]).sum()
        if self._gains:
            for p in self.params:
                p.grad *= torch.tensor(self._gains, dtype=torch.float64).to(p.grad).reshape(-1, *[1] * (p.dim() - 1))

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Noise, then scaling. Nothing may come between the clipped sum and its noise."""
        if closure is not None:
            raise PrivacyError("A closure would compute gradients that are not clipped.")
        self.add_noise()
        self.scale_grad()
        return True

    def step(self, closure: Callable[[], float] | None = None) -> NoReturn:
        """Refused: use `step_noisy`."""
        raise PrivacyError("step() has no noise stream: call step_noisy(stream).")

    def signal_skip_step(self, do_skip: bool = True) -> NoReturn:
        """Refused: call `accumulate` for each micro-batch instead."""
        raise PrivacyError("Steps can't be skipped: call accumulate() for each micro-batch, then step_noisy(stream).")

    def attach_step_hook(self, fn: Callable[[DPOptimizer], None]) -> NoReturn:
        """Refused: a step is accounted for in the ledger, before it is taken."""
        raise PrivacyError("Step hooks are not supported: the ledger is written before the steps.")

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses to change what the plans fix, as Opacus's noise and clip schedulers would."""
        fixed = {"noise_multiplier": "own_noise_multiplier", "max_grad_norm": "clip", "expected_batch_size": "divisor"}
        if name == "plans" and "plans" in vars(self):
            raise PrivacyError("The plans of an optimizer can't be changed; make another optimizer instead.")
        if name in fixed and value != getattr(self.plans[0], fixed[name]):
            raise PrivacyError(f"{name} is fixed by the plan; make another plan instead.")
        super().__setattr__(name, value)

    def _layers(self, tensor: Tensor) -> Tensor:
        """[H, *shape]: one layer for each hospital; with one hospital, the whole tensor is its layer."""
        return tensor if len(self.plans) > 1 else tensor[None]

    def _joined(
        self, grads: Mapping[str, Tensor], rows: int, units: NDArray[np.int64] | None, hospital: Tensor | None
    ) -> Mapping[str, Tensor]:
        """One row for each unit of the micro-batch; notes the hospital of each row."""
        self._hospital = hospital
        if units is None:
            if missing := [plan.unit for plan in self.plans if plan.unit != "report"]:
                raise PrivacyError(
                    f"The plan protects a {missing[0]}: pass `units`; otherwise gradients are clipped per report."
                )
            return grads
        if len(units) != rows:
            raise PrivacyError(f"{rows} gradients, but the units of {len(units)}.")
        self._units.add(units, None if hospital is None else hospital.numpy())
        summed, first = sum_by_unit(grads, units)
        self._hospital = None if hospital is None else hospital[torch.from_numpy(first)]
        return summed

    def _refuse_repeated(self, plan: PrivacyPlan, stream: Stream) -> None:
        if plan.private and stream.fingerprint in self._seen:
            raise PrivacyError("This noise was used in another step or hospital: make a new stream for each.")
        self._seen.add(stream.fingerprint)


def _names(optimizer: torch.optim.Optimizer) -> list[str] | None:
    """The parameters' names in the order of `DPOptimizer.params`; None if the optimizer was built without names."""
    if not all("param_names" in group for group in optimizer.param_groups):
        return None
    return [
        name
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
        if isinstance(p, nn.Parameter) and p.requires_grad
    ]
