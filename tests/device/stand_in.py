"""A second device without hardware: torch's numbers on the CPU, in tensors that claim to be elsewhere.

Code for GPUs goes wrong where a tensor is left behind on the CPU, or where the host waits for a number. Both are seen
here: an operation on tensors of both devices is an error, as on a GPU, and whatever the host reads is written down. The
arithmetic is the CPU's own, so results must agree to the bit. What it can't show is a GPU's own rounding and speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "standin"

# Besides `.item()`: what needs values to know the shape of its result, so that a GPU's host has to wait.
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")
_read: list[str] = []


class StandIn(Tensor):
    """A tensor on the device; ``raw`` is what it stands for."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> StandIn:
        made: StandIn = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=f"{NAME}:0",
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, *args, **(kwargs or {}))


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, StandIn) else value


def _run(op: Any, *args: Any, **options: Any) -> Any:
    name = op._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
    device = options.get("device")
    if name in _WAITS:
        _read.append(name)
    if name == "_to_copy":
        target = args[0].device if device is None else torch.device(device)
        copied = op(_raw(args[0]), **{**options, "device": torch.device("cpu")})
        if target.type == NAME:
            return StandIn(copied)
        _read.append("copy to the host")
        return copied
    if name == "copy_":
        if not isinstance(args[0], StandIn):
            _read.append("copy to the host")
        _raw(args[0]).copy_(_raw(args[1]))
        return args[0]
    left = [tensor.device for tensor in tensors if not isinstance(tensor, StandIn) and tensor.dim() > 0]
    if left:
        raise RuntimeError(f"aten::{name}: tensors on {NAME} and on {left[0]}")
    if name == "index" and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]):
        _read.append("index by a mask")
    here = {key: torch.device("cpu") if key == "device" else value for key, value in options.items()}
    out = op(*tree_map(_raw, args), **tree_map(_raw, here))
    # What an operation in place returns is the tensor that it was given.
    given = {id(_raw(tensor)): tensor for tensor in tensors}
    return tree_map(lambda t: given.get(id(t), StandIn(t) if isinstance(t, Tensor) else t), out)


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Makes the device known to this process. There is no way back."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    _library.fallback(_run, "PrivateUse1")
    _library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # autocast has no effect there


_library = torch.library.Library("_", "IMPL")


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """Collects what the host reads from the device inside it."""
    _read.clear()
    yield _read
