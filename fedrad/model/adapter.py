"""LoRA (Hu et al. 2022, arXiv 2106.09685) on linear layers that can also run with one weight per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedrad.errors import ModelError
from fedrad.model.lora_product import is_dense, lora_linear

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoRASpec:
    """What is adapted, and how.

    Attributes:
        rank: r, rows of A and columns of B.
        alpha: the adapter adds (alpha / rank) * B A.
        targets: names of linear layers (the last part, such as ``query``, or a longer ending, such as
            ``attention.output.dense``), or ``all-linear``. If empty, only the head is trained.
        layers: adapt the last N encoder layers; 0 means all. Ignored if layers are shared (ALBERT).
        freeze_a: A keeps its initial value and only B is trained (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313).
        freeze_b: B keeps its value from a warm start. With ``freeze_a`` as well, only the head is trained.
        init: of A. ``kaiming``: as in PEFT, uniform in +-1/sqrt(in). ``orthonormal``: orthogonal rows with the expected
            Frobenius norm of ``kaiming``, sqrt(rank / 3). ``base``, with ``core`` only: A and B are the right and left
            singular vectors of the base weight with the largest singular values.
        core: the adapter is (alpha / rank) * B R A with R [r, r] trained from zero. A and B are frozen, with
            orthonormal rows and columns (Fed-SB, Singhal et al. 2025, arXiv 2502.15436); ``freeze_a`` and ``freeze_b``
            are ignored.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: int = 0
    freeze_a: bool = False
    freeze_b: bool = False
    init: str = "kaiming"
    core: bool = False


class SampleLinear(nn.Linear):
    """A linear layer with one weight, or one per sample: x [B, ..., in] -> [B, ..., out].

    With weight [out, in] it is ``nn.Linear``. With weight [B, out, in] (and bias [B, out]), sample b is multiplied by
    ``weight[b]`` only, so the gradient of the summed losses is the stack of the per-sample gradients.
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
    """base(x) + scaling * B A x, with ``base`` frozen and ``scaling`` = alpha / rank; with a core B R A x.

    With one A and B per sample it is one fused operation (``lora_product.py``). With plain matrices it calls its parts
    as modules, because Opacus's hooks need that; tests compare the fused operation with it.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, *, core: bool = False) -> None:
        super().__init__()
        self.base = base
        self.lora_A = SampleLinear(base.in_features, rank, bias=False)
        self.lora_R = SampleLinear(rank, rank, bias=False) if core else None
        self.lora_B = SampleLinear(rank, base.out_features, bias=False)
        self.scaling = alpha / rank
        self._pretrained = (base.weight,)  # the tuple keeps it from being registered as a parameter

    @property
    def right(self) -> Tensor:
        """The right factor, including the core: [r, in], or [B, r, in] with a matrix per sample."""
        return self.lora_A.weight if self.lora_R is None else self.lora_R.weight @ self.lora_A.weight

    @property
    def left(self) -> Tensor:
        """The left factor, [out, r] or [B, out, r]."""
        return self.lora_B.weight

    @property
    def per_sample(self) -> bool:
        """Whether a matrix has one copy per sample."""
        parts = (self.lora_A, self.lora_B) if self.lora_R is None else (self.lora_A, self.lora_R, self.lora_B)
        return any(part.weight.dim() == 3 for part in parts)

    @torch.no_grad()
    def set_residual(self, factors: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Sets the frozen weight to W0 + the sum of U V over ``factors``, with U [out, m] and V [m, in].

        The sum is computed in float64 and rounded once. W0 itself, which other models may share, does not change.

        Raises:
            ModelError: the base layer is quantised.
        """
        pretrained = self._pretrained[0]
        if not factors:
            self.base.weight = pretrained
            return
        if not is_dense(self.base):
            raise ModelError("a quantised layer can't take the residual of this strategy: use an unquantised base.")
        total = pretrained.cpu().double()
        for left, right in factors:
            total = total + left.double() @ right.double()
        self.base.weight = nn.Parameter(total.to(pretrained.dtype).to(pretrained.device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.per_sample or not torch.is_grad_enabled() or self.base.weight.dtype != self.lora_A.weight.dtype:
            return lora_linear(x, self.base, self.right, self.left, self.scaling)
        inner = self.lora_A(x) if self.lora_R is None else self.lora_R(self.lora_A(x))
        adapted: Tensor = self.base(x) + self.scaling * self.lora_B(inner)
        return adapted


def add_lora(layers: Mapping[str, nn.Module], lora: LoRASpec, generator: torch.Generator) -> dict[str, LoRALinear]:
    """Puts a ``LoRALinear`` around every target inside ``layers``, in place. B is zero, so outputs do not change.

    Args:
        layers: encoder layers by name. They are modified, so they must not belong to a cached base model.
        generator: the only source of randomness for A; used in the order of the sorted names.

    Returns:
        the new modules by full name (layer name + name inside the layer), sorted.

    Raises:
        ModelError: rank, alpha or init is invalid, or a target matches no linear layer.
    """
    if not lora.targets:
        return {}
    inits = ("orthonormal", "base") if lora.core else ("kaiming", "orthonormal")
    if lora.rank < 1 or not lora.alpha > 0 or lora.init not in inits:
        raise ModelError(f"this LoRA needs rank >= 1, alpha > 0 and init {' or '.join(inits)}.")
    found = {
        f"{prefix}.{name}": module
        for prefix, layer in layers.items()
        for name, module in layer.named_modules()
        # includes quantised layers: bitsandbytes' are subclasses, torchao's are Linear with another kind of weight
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
        module = LoRALinear(base, lora.rank, lora.alpha, core=lora.core)
        _initialise(module, lora, generator)
        _replace(layers, name, module)
        adapted[name] = module
    return adapted


def _matches(name: str, target: str) -> bool:
    return target == ALL_LINEAR or name.endswith(f".{target}")


@torch.no_grad()
def _initialise(module: LoRALinear, lora: LoRASpec, generator: torch.Generator) -> None:
    A, B = module.lora_A.weight, module.lora_B.weight
    if module.lora_R is not None:
        left, right = _singular_vectors(module.base, lora.rank) if lora.init == "base" else (None, None)
        A.copy_(_orthonormal(A.shape[::-1], generator).T if right is None else right)
        B.copy_(_orthonormal(B.shape, generator) if left is None else left)
        nn.init.zeros_(module.lora_R.weight)
        A.requires_grad_(False)
        B.requires_grad_(False)
        return
    if lora.init == "orthonormal":
        A.copy_(_orthonormal(A.shape[::-1], generator).T / math.sqrt(3.0))
    else:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5.0), generator=generator)
    nn.init.zeros_(B)
    A.requires_grad_(not lora.freeze_a)
    B.requires_grad_(not lora.freeze_b)


def _orthonormal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A random matrix [n, r] with orthonormal columns; float64, so that what is rounded from it does not depend on the
    LAPACK at hand."""
    columns, upper = torch.linalg.qr(torch.randn(*shape, generator=generator, dtype=torch.float64))
    return columns * upper.diagonal().sign()


def _singular_vectors(base: nn.Linear, rank: int) -> tuple[Tensor, Tensor]:
    """Left [out, r] and right [r, in] singular vectors of the weight with the largest singular values; float64."""
    if not is_dense(base):
        raise ModelError("a quantised layer's singular vectors can't be computed: use strategy.subspace=random.")
    left, _, right = torch.linalg.svd(base.weight.cpu().double(), full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    # A singular vector's sign is arbitrary; the largest entry decides it, so that machines agree.
    signs = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()
    return left * signs.T, right * signs


def _replace(layers: Mapping[str, nn.Module], name: str, module: LoRALinear) -> None:
    prefix = next(prefix for prefix in layers if name.startswith(f"{prefix}."))
    parent, _, child = name.removeprefix(f"{prefix}.").rpartition(".")
    setattr(layers[prefix].get_submodule(parent), child, module)


def is_residual(name: str) -> bool:
    """Whether a tensor of a state belongs to the base residual, the low-rank factors that an exact aggregation adds to
    the frozen weights: W0 + sum_k base_B.k base_A.k."""
    return ".base_A." in name or ".base_B." in name


def residual_factors(
    residual: Mapping[str, Tensor], adapted: Mapping[str, LoRALinear]
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """The factors of every adapted layer: pairs of base_B [out, m] and base_A [m, in], sorted by key.

    Raises:
        ModelError: a factor lacks its partner, fits no adapted layer or is not finite.
    """
    factors: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in adapted}
    problems = []
    for layer, key in sorted({(parts[0], parts[2]) for parts in (name.rsplit(".", 2) for name in residual)}):
        left, right = (residual.get(f"{layer}.base_{side}.{key}") for side in "BA")
        if left is None or right is None or layer not in adapted:
            problems.append(f"{layer}.base_A.{key} or base_B.{key} is missing, or {layer} is not adapted")
            continue
        expected = (adapted[layer].base.out_features, adapted[layer].base.in_features)
        whole = left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0]
        if not whole or (left.shape[0], right.shape[1]) != expected or {left.dtype, right.dtype} != {torch.float32}:
            problems.append(f"{layer}, {key}: {tuple(left.shape)} x {tuple(right.shape)} is no residual of {expected}")
        elif not bool(torch.isfinite(left).all() and torch.isfinite(right).all()):
            problems.append(f"{layer}, {key}: not finite")
        factors[layer].append((left, right))
    if problems:
        raise ModelError(f"the base residual does not fit: {'; '.join(problems[:5])}.")
    return factors
