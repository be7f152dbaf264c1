"""Per-sample gradients: one gradient for each report of a batch.

The reference implementation uses per-sample leaf tensors. Every trainable tensor is replaced by B copies in the same
memory, sample b is multiplied with copy b, and plain autograd returns the gradients of all copies in one backward pass.
Opacus's hooks compute the same numbers in another way. They are an alternative, and the reference in the tests.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedrad.errors import PreflightError
from fedrad.privacy.opacus_parts import GradSampleModule, compute_linear_grad_sample

Losses = Callable[[Tensor], Tensor]


def leaf_gradients(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    inputs: tuple[Tensor, ...],
    loss: Losses,
    values: Mapping[nn.Parameter, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and gradients of every sample, in one forward and one backward pass.

    A module that is used several times (ALBERT's shared layers) has one leaf per sample, and autograd sums over the
    uses. Works with non-reentrant checkpointing, because the leaves stay in place until the backward pass is over, and
    with autocast: leaves, and so gradients, keep the parameters' dtype.

    Args:
        model: called as ``model(*inputs)``; returns outputs [B, ...]. It must not mix samples, and its modules must
            accept trainable parameters with an extra leading batch dimension.
        trainable: parameters of ``model``, under any names.
        inputs: tensors whose first dimension is B. If B is 0 (an empty Poisson sample), nothing is run.
        loss: outputs [B, ...] -> losses [B], one for each sample. No mean over the batch.
        values: weights that differ between samples, for samples of different hospitals in one pass: tensors [B, *shape]
            to use in place of these parameters of ``model``, trainable or not.

    Returns:
        losses [B], detached, and gradients [B, *shape] by the names of ``trainable``. ``.grad`` is not touched.

    Guarantee: up to rounding, entry b of every gradient depends only on sample b and the weights, provided that
    ``model`` does not mix samples. Clipping each entry then bounds what one report can change, which is what the noise
    is calibrated for. Nothing checks for mixing at run time; the tests compare with one sample at a time.

    Raises:
        PreflightError: a tensor does not belong to the model or does not affect the loss, so that training would clip
            one set of tensors and update another; or the loss is not one number for each sample.
    """
    batch = inputs[0].shape[0]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    _all_in(names, trainable)
    if batch == 0:
        return _nothing(trainable, inputs[0].device)
    own = values or {}
    leaves = {
        # expanded with stride 0: the copies share the memory
        name: (own[p].detach() if p in own else p.detach().expand(batch, *p.shape)).requires_grad_()
        for name, p in trainable.items()
    }
    replaced = {id(p): value for p, value in own.items()} | {id(trainable[name]): leaf for name, leaf in leaves.items()}
    swapped = {f"model.{names[key]}": value for key, value in replaced.items()}
    losses, gradients = functional_call(_Step(model, loss), swapped, (tuple(leaves.values()), inputs))
    found = dict(zip(leaves, gradients, strict=True))
    _all_used(found)
    return losses, found


def opacus_gradients(
    model: nn.Module, trainable: Mapping[str, nn.Parameter], inputs: tuple[Tensor, ...], loss: Losses
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same as ``leaf_gradients``, computed by the hooks of Opacus's ``GradSampleModule``.

    Before it returns, it removes the hooks and everything that Opacus attached to the parameters. Does not work with
    checkpointing. The model is put in training mode for the call, because Opacus's hooks do nothing otherwise; so it
    must have no dropout and no layer that behaves differently in training.
    """
    batch = inputs[0].shape[0]
    _all_in({id(parameter): name for name, parameter in model.named_parameters()}, trainable)
    if batch == 0:
        return _nothing(trainable, inputs[0].device)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # Opacus looks samplers up by exact type. A subclass of Linear has the same gradient as Linear.
            GradSampleModule.GRAD_SAMPLERS.setdefault(type(module), compute_linear_grad_sample)
    modes = {module: module.training for module in model.modules()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [(parameter, parameter.grad, dict(vars(parameter))) for parameter in parameters]
    hooked = GradSampleModule(model, loss_reduction="sum")
    try:
        hooked.train()
        for parameter in parameters:
            parameter.grad = None  # otherwise backward would add to it in place
        losses = _one_each(loss(hooked(*inputs)), batch)
        if losses.requires_grad:
            with warnings.catch_warnings():
                # torch warns that the first layer's inputs need no gradient. Opacus's hooks don't use it.
                warnings.filterwarnings("ignore", "Full backward hook")
                losses.sum().backward()
        found = {name: vars(parameter).get("grad_sample") for name, parameter in trainable.items()}
    finally:
        hooked.cleanup()
        for parameter, gradient, attributes in before:
            parameter.grad = gradient
            vars(parameter).clear()
            vars(parameter).update(attributes)
        for module, training in modes.items():
            module.training = training
            for left in ("activations", "max_batch_len"):
                vars(module).pop(left, None)
    _all_used(found)
    return losses.detach(), {name: gradient for name, gradient in found.items() if gradient is not None}


class _Step(nn.Module):
    """Forward and backward in one call, so that the leaves are in place during both."""

    def __init__(self, model: nn.Module, loss: Losses) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, leaves: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        losses = _one_each(self.loss(self.model(*inputs)), inputs[0].shape[0])
        if not losses.requires_grad:
            return losses, (None,) * len(leaves)
        return losses.detach(), torch.autograd.grad(losses.sum(), leaves, allow_unused=True)


def _all_in(names: Mapping[int, str], trainable: Mapping[str, nn.Parameter]) -> None:
    foreign = [name for name, parameter in trainable.items() if id(parameter) not in names]
    if foreign:
        raise PreflightError(
            f"{', '.join(foreign)}: not a parameter of the model that computes the loss; noised, it would never learn."
        )
    frozen = [name for name, parameter in trainable.items() if not parameter.requires_grad]
    if frozen:
        raise PreflightError(f"{', '.join(frozen)}: frozen, but listed as trainable.")


def _all_used(gradients: Mapping[str, Tensor | None]) -> None:
    unused = [name for name, gradient in gradients.items() if gradient is None]
    if unused:
        raise PreflightError(f"{', '.join(unused)}: got no gradient, so the loss does not depend on it.")


def _one_each(losses: Tensor, batch: int) -> Tensor:
    if losses.shape != (batch,):
        raise PreflightError(
            f"the loss has shape {tuple(losses.shape)}; it must be one number per report, not a mean over the batch."
        )
    return losses


def _nothing(trainable: Mapping[str, nn.Parameter], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    empty = {name: parameter.new_zeros((0, *parameter.shape)) for name, parameter in trainable.items()}
    return torch.zeros(0, device=device), empty
