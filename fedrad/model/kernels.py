"""How the model's arithmetic is done: which of torch's ways to the same product and the same attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Kernels:
    """The choice for one model on one machine (``probe.py`` makes it). The defaults are torch's own, on every machine.

    Attributes:
        matmul: float32 products, as ``torch.set_float32_matmul_precision`` names them.
        backbone: dtype of the frozen base model; adapter, clipping, sums and noise are float32 or wider in any case.
        eager_up_to: attention by plain products for reports of up to so many tokens, by torch's fused kernel above.
        micro_tokens: padded tokens of one forward pass, at most.
        measured: what the probe read off, for ``result.json``: relative errors and times. Empty if nothing was probed.
    """

    matmul: str = "highest"
    backbone: str = "float32"
    eager_up_to: int = 0
    micro_tokens: int = 1024
    measured: Mapping[str, float] = field(default_factory=dict, compare=False)


def dtype_of(backbone: str) -> torch.dtype:
    """The dtype that ``Kernels.backbone`` names."""
    return torch.bfloat16 if backbone == "bfloat16" else torch.float32


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Sets torch's process-wide word for float32 products, and puts it back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
