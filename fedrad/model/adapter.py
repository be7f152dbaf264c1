"""LoRA (Hu et al. 2022, arXiv 2106.09685) on linear layers that also run with one weight per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedrad.errors import ModelError
from fedrad.model.fused import lora_linear

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoRASpec:
    """What is adapted, and how.

    Attributes:
        rank: r, rows of A and columns of B.
        alpha: the adapter adds (alpha / rank) * B A.
        targets: names of linear layers (the last part, such as ``query``, or a longer ending, such as
            ``attention.output.dense``), or ``all-linear``; none: only the head is trained.
        layers: adapt the last N encoder layers; 0 means all. Where layers are shared (ALBERT) there is one layer to
            adapt, and this is treated as 0.
        freeze_a: A keeps its initial value and only B is trained (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313).
        freeze_b: B keeps the value that a warm start gave it. With ``freeze_a`` as well, only the head is trained.
        init: of A. ``kaiming``: as PEFT does, uniform in +-1/sqrt(in). ``orthonormal``: orthogonal rows, scaled so that
            the Frobenius norm is the expected one of ``kaiming``: sqrt(rank / 3).
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: int = 0
    freeze_a: bool = False
    freeze_b: bool = False
    init: str = "kaiming"


class SampleLinear(nn.Linear):
    """A linear layer whose weight may also be one per sample.

    x [B, ..., in] -> [B, ..., out]. With weight [out, in] it is ``nn.Linear``. With weight [B, out, in] (and bias
    [B, out]), sample b is multiplied with ``weight[b]`` only, so the gradient of the sum of the losses with respect to
    the stacked weight is the stack of the per-sample gradients.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return linear(x, self.weight, self.bias)
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        y = torch.bmm(flat, self.weight.transpose(1, 2))
        if self.bias is not None:
            y = y + self.bias.unsqueeze(1)
        return y.reshape(*x.shape[:-1], self.out_features)


class LoRALinear(nn.Module):
    """base(x) + scaling * B A x, with ``base`` frozen and ``scaling`` = alpha / rank.

    With one A and B per sample it is one fused operation (``fedrad.model.fused``); with plain matrices it calls its
    parts as modules, which is what Opacus's hooks need, and what the fused operation is tested against.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.lora_A = SampleLinear(base.in_features, rank, bias=False)
        self.lora_B = SampleLinear(rank, base.out_features, bias=False)
        self.scaling = alpha / rank

    @property
    def per_sample(self) -> bool:
        """Whether some matrix is there once for every sample."""
        return max(self.lora_A.weight.dim(), self.lora_B.weight.dim()) == 3

    def forward(self, x: Tensor) -> Tensor:
        if self.per_sample or not torch.is_grad_enabled() or self.base.weight.dtype != self.lora_A.weight.dtype:
            return lora_linear(x, self.base, self.lora_A.weight, self.lora_B.weight, self.scaling)
        adapted: Tensor = self.base(x) + self.scaling * self.lora_B(self.lora_A(x))
        return adapted


def add_lora(layers: Mapping[str, nn.Module], lora: LoRASpec, generator: torch.Generator) -> dict[str, LoRALinear]:
    """Puts a ``LoRALinear`` around every target inside ``layers``, in place. B is zero: no output changes yet.

    Args:
        layers: encoder layers by name; their modules are changed, so they must not be those of a cached base model.
        generator: the only source of randomness for A; used in the order of the sorted names.

    Returns:
        the new modules by full name (layer name + name inside the layer), sorted.

    Raises:
        ModelError: rank, alpha or init make no sense, or a target names no linear layer.
    """
    if not lora.targets:
        return {}
    if lora.rank < 1 or not lora.alpha > 0 or lora.init not in ("kaiming", "orthonormal"):
        raise ModelError("LoRA needs rank >= 1, alpha > 0 and init kaiming or orthonormal.")
    found = {
        f"{prefix}.{name}": module
        for prefix, layer in layers.items()
        for name, module in layer.named_modules()
        # bitsandbytes' quantised layers are subclasses, and torchao's are Linear with another kind of weight
        if isinstance(module, nn.Linear) and not isinstance(module, SampleLinear)
    }
    unknown = [target for target in lora.targets if not any(_matches(name, target) for name in found)]
    if unknown:
        candidates = sorted({name.rpartition(".")[2] for name in found})
        raise ModelError(f"no linear layer is called {', '.join(unknown)}; there are: {', '.join(candidates)}.")
    chosen = sorted(name for name in found if any(_matches(name, target) for target in lora.targets))
    adapted = {}
    for name in chosen:
        base = found[name]
        if lora.rank > min(base.in_features, base.out_features):
            raise ModelError(f"LoRA rank {lora.rank} is larger than {name} ({base.out_features} x {base.in_features}).")
        module = LoRALinear(base, lora.rank, lora.alpha)
        _initialise(module, lora, generator)
        _replace(layers, name, module)
        adapted[name] = module
    return adapted


def _matches(name: str, target: str) -> bool:
    return target == ALL_LINEAR or name.endswith(f".{target}")


@torch.no_grad()
def _initialise(module: LoRALinear, lora: LoRASpec, generator: torch.Generator) -> None:
    weight = module.lora_A.weight
    if lora.init == "orthonormal":
        # In float64, so that the rounded result does not depend on the LAPACK at hand.
        columns, upper = torch.linalg.qr(torch.randn(weight.shape[::-1], generator=generator, dtype=torch.float64))
        weight.copy_((columns * upper.diagonal().sign()).T / math.sqrt(3.0))
    else:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5.0), generator=generator)
    nn.init.zeros_(module.lora_B.weight)
    weight.requires_grad_(not lora.freeze_a)
    module.lora_B.weight.requires_grad_(not lora.freeze_b)


def _replace(layers: Mapping[str, nn.Module], name: str, module: LoRALinear) -> None:
    prefix = next(prefix for prefix in layers if name.startswith(f"{prefix}."))
    parent, _, child = name.removeprefix(f"{prefix}.").rpartition(".")
    setattr(layers[prefix].get_submodule(parent), child, module)
