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
    """The choice for one model on one machine (``probe.py`` makes it). The defaults are torch's own, on every machine.

    Attributes:
        matmul: float32 products, as ``torch.set_float32_matmul_precision`` names them.
        backbone: dtype of the frozen base model; adapter, clipping, sums and noise are float32 or wider in any case.
        eager_up_to: attention by plain products for reports of up to so many tokens, by torch's fused kernel above.
        micro_tokens: padded tokens of one forward pass, at most.
        device: where model and per-report gradients are, as torch names it. Data, noise, states, and all that is kept
            or sent stay with the processor, so they are the same tensors wherever the model is.
        measured: what the probe read off, for ``result.json``: relative errors and times. Empty if nothing was probed.
    """

    matmul: str = "highest"
    backbone: str = "float32"
    eager_up_to: int = 0
    micro_tokens: int = 1024
    device: str = "cpu"
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


def device_for(name: str) -> str:
    """Torch's name of the device that ``train.device`` means on this machine.

    Raises:
        ConfigError: a GPU is asked for and torch finds none, or the name is another.
    """
    if name not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"device {name!r}: take cpu, cuda or auto.")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device {name!r} (train.device): this torch ({torch.__version__}) finds no CUDA device. Install a CUDA"
            " build of torch and see that the process may use a GPU (CUDA_VISIBLE_DEVICES), or take cpu."
        )
    return "cuda"


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU without gradient, for what is kept, compared or sent."""
    return tensor.detach().to("cpu", copy=True)
