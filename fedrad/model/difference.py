"""The difference between two encoders of one shape, small enough to ship: low-rank factors of 8-bit numbers.

A matrix becomes W + c U diag(2^e) V with U [out, r] and V [r, in] of whole numbers from -127 to 127, and one float64
scale c. The products are whole numbers below 2^53, so their sum in float64 is exact in any order, and every machine
gets the same bits. Vectors (biases, layer norms) are kept as differences in float16.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedrad.errors import ModelError

_LARGEST = 127
_MOST_EXPONENT = 20  # 127 * 127 * 2^20 * rank stays below 2^53 for any rank up to 2^18


def difference(before: nn.Module, after: nn.Module, rank: int) -> dict[str, Tensor]:
    """What ``apply_difference`` adds: by weight ``name|u``, ``name|v``, ``name|e``, ``name|c``, or ``name|d``.

    Args:
        before, after: modules with the same parameters; those that are equal are left out.
        rank: of the factors, the truncated singular value decomposition of the difference.
    """
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    found: dict[str, Tensor] = {}
    for name, tensor in sorted(new.items()):
        change = tensor.detach().double() - old[name].detach().double()
        if not bool(change.any()):
            continue
        if change.dim() == 2:
            found |= {f"{name}|{part}": value for part, value in _factors(change, rank).items()}
        else:
            found[f"{name}|d"] = change.half()
    return found


def _factors(change: Tensor, rank: int) -> dict[str, Tensor]:
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    left, right = left[:, :rank] * root, root[:, None] * right[:rank]
    steps = left.abs().amax(0) / _LARGEST, right.abs().amax(1) / _LARGEST
    product = steps[0] * steps[1]
    # No smaller than the exponents reach: what lies further below the largest component is rounding.
    smallest = product[product > 0].min() if bool((product > 0).any()) else torch.ones(())
    scale = max(float(smallest), float(product.max()) / 2**_MOST_EXPONENT)
    # A component's step must be the scale times a power of two: the left factor's is made as much larger as it takes.
    exponent = torch.log2(product / scale).ceil().clamp(0, _MOST_EXPONENT)
    exact = scale * 2.0**exponent
    left_step = torch.where(steps[1] > 0, exact / steps[1], torch.ones_like(exact))
    right_step = torch.where(steps[1] > 0, steps[1], torch.ones_like(exact))
    return {
        "u": (left / left_step).round().clamp(-_LARGEST, _LARGEST).to(torch.int8).contiguous(),
        "v": (right / right_step[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8).contiguous(),
        "e": exponent.to(torch.int8),
        "c": torch.tensor([scale], dtype=torch.float64),
    }


@torch.no_grad()
def apply_difference(before: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the module with the difference added; bit for bit the same on every machine.

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
    powers = (1 << exponent.long()).double()  # shifted: a library's 2 ** x may be off by a bit
    return float(scale) * ((left.double() * powers) @ right.double())


def read_difference(path: Path) -> dict[str, Tensor]:
    """Reads a file of ``save_difference``.

    Raises:
        ModelError: it can't be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can't be read ({type(error).__name__}): install fedrad again.") from error


def save_difference(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes the difference."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
