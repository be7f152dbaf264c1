"""Which implementation of matrix products and attention to use, and on which device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedrad.errors import ConfigError


@dataclass(frozen=True)
class Kernels:
    """The choice for one model on one machine (see ``probe.py``). The defaults are torch's own.

    Attributes:
        matmul: precision of float32 products, as for ``torch.set_float32_matmul_precision``.
        backbone: dtype of the frozen base model. Adapter, clipping, sums and noise are always float32 or wider.
        eager_up_to: reports of up to this many tokens use attention by plain products; longer ones torch's fused
            kernel.
        micro_tokens: most padded tokens in one forward pass.
        checkpointing: keep only the inputs of each layer for the backward pass, which computes the rest again.
        device: torch's name of the device of model and per-report gradients. Data, noise, states, and all that is kept
            or sent stay on the CPU, so that they do not depend on the device.
        measured: relative errors and times from the probe, for ``result.json``; empty if nothing was probed.
    """

    matmul: str = "highest"
    backbone: str = "float32"
    eager_up_to: int = 0
    micro_tokens: int = 1024
    checkpointing: bool = False
    device: str = "cpu"
    measured: Mapping[str, float] = field(default_factory=dict, compare=False)


def dtype_of(backbone: str) -> torch.dtype:
    """The dtype that ``Kernels.backbone`` names."""
    return torch.bfloat16 if backbone == "bfloat16" else torch.float32


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Sets torch's process-wide float32 precision, and restores it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def device_for(name: str) -> str:
    """Torch's name of the device for a value of ``train.device``.

    Raises:
        ConfigError: the name is unknown, or torch finds no GPU.
    """
    if name not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"device {name!r}: use cpu, cuda or auto.")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device {name!r} (train.device): this torch ({torch.__version__}) finds no CUDA device. Install a CUDA"
            " build of torch and check that the process may use a GPU (CUDA_VISIBLE_DEVICES), or use cpu."
        )
    return "cuda"


def on_cpu(tensor: Tensor) -> Tensor:
    """A CPU copy without gradient."""
    return tensor.detach().to("cpu", copy=True)
