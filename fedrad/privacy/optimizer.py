"""Clip, sum, noise, step: Opacus's `DPOptimizer` with its known gaps closed.

What differs from Opacus 1.6, and why:
    - Gradients are divided by the plan's public constant, not by ``int(n * q)``, which tells the private n.
    - A report whose gradient has a non-finite entry contributes zero; in Opacus one NaN destroys the model, visibly.
    - Norms, sum and noise are float64, so that no float32 gradient overflows its norm and every contribution is at most
      ``clip``; only the noised sum is rounded.
    - The noise comes from a `Stream`, not from torch's global generator, which a configuration can seed.
    - An empty batch takes a noisy step like every other.
    - ``step()`` needs a stream, so nobody can step without noise, and noise multiplier and clip can't be set from
    outside.
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
from fedrad.privacy.noise import Stream
from fedrad.privacy.opacus_parts import DPOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.units import UnitsOfStep, sum_by_unit


class PrivateOptimizer(DPOptimizer):
    """Wraps a torch optimizer: `accumulate` per-sample gradients, as often as needed, then `step_noisy` once.

    Guarantee:
        Between two calls of `step_noisy`, each unit of the plan (a report, or a patient with all reports of theirs)
        contributes to the sum a vector (over all parameters together) of L2 norm at most ``plan.clip``, whatever its
        gradients are: missing, huge, NaN or duplicate ones too.
        `step_noisy` adds independent Gaussian noise of standard deviation ``plan.noise_multiplier * plan.clip`` to
        every coordinate before anything else sees the sum. That is one Poisson-subsampled Gaussian step of the plan,
        if the units were drawn by `poisson_sample`, each report is accumulated at most once, and its gradient depends
        on no other unit. A plan that is not private (epsilon 0) neither clips nor adds noise.
        A parameter group of scale s (public; 1 unless its key ``"scale"`` says otherwise) enters this vector multiplied
        by s, and its noised sum is divided by s: the mechanism is the same, of the scaled gradient. A smaller scale
        leaves more of the norm to the other groups, and gives this one more noise.
        Under a plan with shared noise the standard deviation is ``plan.own_noise_multiplier * plan.clip``: less than
        the plan's, so that only the sum over hospitals is that step. No other way leads to less noise.

    Args:
        optimizer: any torch optimizer over exactly the tensors that are trained. Built from named parameters
            (``SGD(adapter.items(), ...)``), it makes `accumulate` check names instead of relying on their order.
        plan: clip norm, noise multiplier and divisor.

    Raises:
        PrivacyError: the plan's unit is the hospital, whose whole update is clipped at the server, not its reports.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, plan: PrivacyPlan) -> None:
        refuse_hospital_unit(plan)
        self._plan = plan
        self._units = UnitsOfStep()
        self._names: list[str] | None = _names(optimizer)
        self._scales = scales_of(optimizer)
        self._stream: Stream | None = None
        self._seen: set[bytes] = set()
        self._power: Tensor | None = None
        super().__init__(
            optimizer,
            noise_multiplier=plan.own_noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.divisor,
            loss_reduction="mean",
        )

    @property
    def plan(self) -> PrivacyPlan:
        """The plan this optimizer was made for."""
        return self._plan

    @property
    def snr(self) -> float:
        """Signal-to-noise of the last update, from the noised gradient and public constants only, so free to publish.

        sqrt(max(|g|^2 - E|noise|^2, 0) / E|noise|^2) over all coordinates; ``inf`` without noise, ``nan`` before
        any step.
        """
        if self._power is None:
            return math.nan
        if not self._plan.private:
            return math.inf
        std = self._plan.own_noise_multiplier * self._plan.clip / self._plan.divisor
        expected = std**2 * sum(p.numel() / s**2 for p, s in zip(self.params, self._scales, strict=True))
        return math.sqrt(max(float(self._power) - expected, 0.0) / expected)

    def accumulate(self, grads: Mapping[str, Tensor], units: NDArray[np.int64] | None = None) -> None:
        """Clips a micro-batch of per-sample gradients, unit by unit, and adds it to the sum of this step.

        Args:
            grads: name -> [B, *shape] in the order of the optimizer's parameters; B may be 0.
            units: whose each row is, [B]; None, if every report is a unit of its own.

        Raises:
            PrivacyError: the tensors are not the per-sample gradients of exactly the optimizer's parameters, a unit
                had reports in an earlier micro-batch of this step, or the plan protects patients and ``units`` is
                missing.
        """
        found = list(grads)
        if self._names is not None:
            if sorted(found) != sorted(self._names):
                raise PrivacyError(
                    f"Gradients of {sorted(found)} were handed over, but {sorted(self._names)} are trained."
                )
            found = self._names
        if len(found) != len(self.params):
            raise PrivacyError(
                f"Gradients of {len(found)} tensors were handed over, but {len(self.params)} are trained."
            )
        sizes = {len(grads[name]) if grads[name].ndim else -1 for name in found}
        for name, p in zip(found, self.params, strict=True):
            if grads[name].shape[1:] != p.shape or len(sizes) != 1:
                raise PrivacyError(
                    f"{name}: {tuple(grads[name].shape)} are no per-sample gradients of {tuple(p.shape)}."
                )
        joined = self._joined({name: grads[name].detach() for name in found}, sizes.pop(), units)
        for name, p in zip(found, self.params, strict=True):
            p.grad_sample = joined[name]
        self.clip_and_accumulate()
        for p in self.params:
            p.grad_sample = None

    def discard(self, grads: Mapping[str, Tensor]) -> None:
        """The work of `accumulate` for nothing: the step's sum and its units stay as they are, to the bit.

        Args:
            grads: as for `accumulate`, of one stand-in for a unit.
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

    def step_noisy(self, stream: Stream) -> None:
        """Adds noise from a stream made for this step, divides by the public divisor, steps the wrapped optimizer.

        Also where nothing was accumulated: an empty batch is a step of noise alone.

        Raises:
            PrivacyError: the stream is not what the plan says, or it repeats an earlier step's noise.
        """
        if stream.mode != self._plan.noise:
            raise PrivacyError(f"The plan says {self._plan.noise} noise, but this stream is {stream.mode}.")
        self._stream = stream
        try:
            self.pre_step()
            self.original_optimizer.step()
        finally:  # a step that failed half-way must not lend its sum to the next one
            self._stream = None
            self._units.clear()
            self.zero_grad(set_to_none=True)

    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        """Adds sum_i min(1, clip / |s g_i|) s g_i to ``p.summed_grad``, in float64; a non-finite g_i counts as 0."""
        factors = clip_factors([p.grad_sample for p in self.params], largest_norm(self._plan), self._scales)
        for p, scale in zip(self.params, self._scales, strict=True):
            total = (scale * factors @ finite_rows(p.grad_sample, factors)).view_as(p)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

    @torch.no_grad()
    def add_noise(self) -> None:
        """``p.grad`` = the sum plus noise: both float64, rounded to the parameter's dtype only together."""
        if self._stream is None:
            raise PrivacyError("No noise without a stream: call step_noisy(stream).")
        std = self._plan.own_noise_multiplier * self._plan.clip if self._plan.private else 0.0
        for i, p in enumerate(self.params):
            total = torch.zeros_like(p, dtype=torch.float64) if p.summed_grad is None else p.summed_grad
            if std > 0:
                noise = self._stream.normal(p.shape, dtype=torch.float64)
                if i == 0:
                    self._refuse_repeated(noise)
                total = total + std * noise.to(p.device)
            p.grad = (total / self._scales[i]).to(p.dtype)

    @torch.no_grad()
    def scale_grad(self) -> None:
        """Divides by the plan's public divisor, and keeps |g|^2 for `snr` without waiting for it."""
        for p in self.params:
            p.grad /= self._plan.divisor
        self._power = torch.stack([p.grad.double().square().sum() for p in self.params]).sum()

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Noise and scaling. Nothing comes between the clipped sum and its noise."""
        if closure is not None:
            raise PrivacyError("A closure would compute gradients past the clipping.")
        self.add_noise()
        self.scale_grad()
        return True

    def step(self, closure: Callable[[], float] | None = None) -> NoReturn:
        """Refused: use `step_noisy`."""
        raise PrivacyError("step() has no noise stream: call step_noisy(stream).")

    def signal_skip_step(self, do_skip: bool = True) -> NoReturn:
        """Refused: `accumulate` takes as many micro-batches as there are."""
        raise PrivacyError(
            "Steps are not skipped here: call accumulate() for each micro-batch, then step_noisy(stream)."
        )

    def attach_step_hook(self, fn: Callable[[DPOptimizer], None]) -> NoReturn:
        """Refused: steps are accounted for in the ledger, before they are taken."""
        raise PrivacyError("No step hooks here: the ledger is written before the steps.")

    def __setattr__(self, name: str, value: Any) -> None:
        """Lets nobody change what the plan fixes (Opacus's noise and clip schedulers would)."""
        fixed = {"noise_multiplier": "own_noise_multiplier", "max_grad_norm": "clip", "expected_batch_size": "divisor"}
        if name in fixed and value != getattr(self._plan, fixed[name]):
            raise PrivacyError(f"{name} is fixed by the plan; make another plan instead.")
        super().__setattr__(name, value)

    def _joined(self, grads: Mapping[str, Tensor], rows: int, units: NDArray[np.int64] | None) -> Mapping[str, Tensor]:
        """One row for each unit, of units that this step has not seen yet."""
        refuse_unknown_units(self._plan, rows, units)
        if units is None:
            return grads
        self._units.add(units)
        return sum_by_unit(grads, units)[0]

    def _refuse_repeated(self, noise: Tensor) -> None:
        mark = noise.flatten()[:4].numpy().tobytes()
        if mark in self._seen:
            raise PrivacyError("This step's noise is an earlier step's noise: give each step a stream of its own.")
        self._seen.add(mark)


def refuse_hospital_unit(plan: PrivacyPlan) -> None:
    """A plan for whole hospitals says nothing about steps on reports.

    Raises:
        PrivacyError: the plan is one.
    """
    if plan.unit == "hospital":
        raise PrivacyError("This plan's unit is the hospital: its noise is added at the server, to whole updates.")


def refuse_unknown_units(plan: PrivacyPlan, rows: int, units: NDArray[np.int64] | None) -> None:
    """Gradients of unknown owners can't be clipped by patient.

    Raises:
        PrivacyError: the plan protects patients and nobody says whose the rows are, or not of every row.
    """
    if units is None and plan.unit != "report":
        raise PrivacyError(
            f"The plan protects a {plan.unit}: say whose each gradient is, or it would be clipped alone."
        )
    if units is not None and len(units) != rows:
        raise PrivacyError(f"{rows} gradients, but the owners of {len(units)}.")


def largest_norm(plan: PrivacyPlan) -> float:
    """What gradients are clipped to: infinity where the plan is not private."""
    return plan.clip if plan.private else math.inf


def scales_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """The scale in the joint clipping of each parameter, in the order of the groups: the group's ``"scale"``, else 1.

    Raises:
        PrivacyError: a scale is not positive and finite.
    """
    scales = [float(group.get("scale", 1.0)) for group in optimizer.param_groups for _ in group["params"]]
    if not all(0 < scale < math.inf for scale in scales):
        raise PrivacyError(f"The scales of the joint clipping must be above 0 and finite, not {sorted(set(scales))}.")
    return scales


def clip_factors(grads: Sequence[Tensor], clip: Tensor | float, scales: Sequence[float] = ()) -> Tensor:
    """Factors [B], float64: min(1, clip / |s g_i|), or 0 for a g_i that is not finite.

    The norm is that of report i's gradient over all tensors together. It is taken of the very numbers that are then
    summed, in float64, so it bounds them whatever arithmetic made them.

    Args:
        grads: the tensors of a gradient, each [B, *shape].
        clip: one bound for all, or one for each report [B].
        scales: what each tensor is multiplied by within the norm; empty: 1.
    """
    rows = [g.reshape(len(g), math.prod(g.shape[1:])).double() for g in grads]
    scaled = zip(rows, scales or [1.0] * len(rows), strict=True)
    squares = torch.stack([scale**2 * row.square().sum(1) for row, scale in scaled]).sum(0)
    # The margin keeps every contribution at most clip in spite of float64's rounding. (x / 0 is infinite, so 1.)
    factors = (clip * (1 - 1e-12) / squares.sqrt()).clamp(max=1.0)
    return factors.where(squares.isfinite(), 0.0)


def finite_rows(grad: Tensor, factors: Tensor) -> Tensor:
    """One tensor's gradients as [B, numbers], float64, with zeros where the factor is 0: 0 * NaN would be NaN."""
    return grad.reshape(len(grad), math.prod(grad.shape[1:])).double().where((factors > 0)[:, None], 0.0)


def _names(optimizer: torch.optim.Optimizer) -> list[str] | None:
    """The parameters' names, in the order of `DPOptimizer.params`, if the optimizer was built with names."""
    if not all("param_names" in group for group in optimizer.param_groups):
        return None
    return [
        name
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
        if isinstance(p, nn.Parameter) and p.requires_grad
    ]
