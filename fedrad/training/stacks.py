"""Tensors of hospitals that train in one pass, stacked along a first dimension; those of one hospital are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedrad.model.kernels import on_cpu

# A torch optimizer's: what it keeps of each parameter.
State = defaultdict[Tensor, dict[str, Tensor]]


def stacked(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """[H, *shape] by name; [*shape] if there is one member, or for a scalar, which is the same for all members."""
    first = members[0]
    alone = {name for name, tensor in first.items() if len(members) == 1 or tensor.dim() == 0}
    return {name: t if name in alone else torch.stack([m[name] for m in members]) for name, t in first.items()}


def layer_of(stacks: Mapping[str, Tensor], i: int, members: int) -> dict[str, Tensor]:
    """What `stacked` made of the tensors of member i."""
    return {name: t if members == 1 or t.dim() == 0 else t[i].clone() for name, t in stacks.items()}


def optimizer_state(trained: Mapping[str, nn.Parameter], moments: Mapping[str, Tensor]) -> State:
    """For the optimizers of all blocks: the moments of a tensor are the same in each."""
    state: State = defaultdict(dict)
    for key, value in moments.items():
        name, _, moment = key.rpartition("|")
        if name in trained:
            # Adam's count of steps, a single number, stays where torch wants it.
            device = trained[name].device if value.dim() else value.device
            state[trained[name]][moment] = value.to(device, copy=True)
    return state


def moments_of(state: State, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The moments as ``parameter name|state name``, on the CPU."""
    return {
        f"{name}|{key}": on_cpu(value)
        for name, parameter in trained.items()
        for key, value in state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def gained(moments: Mapping[str, Tensor], gain: float) -> dict[str, Tensor]:
    """Momentum buffers times a hospital's gain, which scales its gradients in a common pass and not in its own."""
    return {key: value * gain if key.endswith("|momentum_buffer") else value for key, value in moments.items()}
