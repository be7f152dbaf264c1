"""The difference between two encoders of one shape, as low-rank factors of 8-bit numbers: small enough to ship.

A matrix W becomes W + c U diag(2^e) V, where U [out, r] and V [r, in] hold integers from -127 to 127 and c is a float64
scale. The products are integers below 2^53, so float64 sums are exact in any order and every machine gets the same
bits. Vectors (biases, layer norms) are stored as float16 differences. ``benchmarks/difference.py`` makes such files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedrad.errors import ModelError


@torch.no_grad()
def apply_difference(before: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the module with the difference added; the same bits on every machine.

    Args:
        tensors: for each matrix ``name|u``, ``name|v``, ``name|e`` and ``name|c``; for each vector ``name|d``.

    Raises:
        ModelError: a weight is unknown, or a tensor is missing or has a wrong shape.
    """
    after = copy.deepcopy(before)
    weights = dict(after.named_parameters())
    for name in sorted({key.partition("|")[0] for key in tensors}):
        if name not in weights:
            raise ModelError(f"the difference changes {name}, which the model does not have.")
        weight = weights[name]
        try:
            change = _change(tensors, name)
        except KeyError as error:
            raise ModelError(f"the difference lacks {error.args[0]}.") from None
        if change.shape != weight.shape:
            raise ModelError(f"the difference of {name} is {tuple(change.shape)}, the weight {tuple(weight.shape)}.")
        weight.copy_((weight.double() + change).float())
    return after


def _change(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if f"{name}|d" in tensors:
        return tensors[f"{name}|d"].double()
    left, right, exponent, scale = (tensors[f"{name}|{part}"] for part in "uvec")
    whole = {part.dtype for part in (left, right, exponent)} == {torch.int8}
    if not whole or left.shape[1:] != right.shape[:1] or exponent.shape != right.shape[:1] or scale.numel() != 1:
        raise ModelError(f"the factors of the difference of {name} don't fit together.")
    powers = (1 << exponent.long()).double()  # a library's 2 ** x may be off by a bit
    return float(scale) * ((left.double() * powers) @ right.double())


def read_difference(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a difference. Raises ModelError if they can't be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can't be read ({type(error).__name__}): install fedrad again.") from error
