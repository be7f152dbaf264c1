"""Makes what ``fedrad.model.difference`` adds: the difference of two encoders as low-rank factors of 8-bit numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

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


def save_difference(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes the difference."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
