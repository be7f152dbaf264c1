"""A decoder whose frozen matrices take 4 bits a number: NF4 with double quantisation (Dettmers et al. 2023, QLoRA,
arXiv 2305.14314), by bitsandbytes, which runs on CPU and CUDA.

A layer's matrix exists in full only while it is multiplied: once in a forward and once in a backward pass. Embeddings
and vocabulary are rounded to bfloat16, and multiplied in the precision of the states. The base model is a part of the
configuration like any other, so privacy is as without: per-sample gradients of the adapter are those on this base.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedrad.errors import ModelError
from fedrad.model.base import BaseModel
from fedrad.model.families import take_apart

NF4 = "nf4"
_BLOCK = 64  # numbers that share a scale: bitsandbytes' default, and so what transformers and PEFT load


class StoredLinear(nn.Linear):
    """A frozen linear layer, whose weight is stored otherwise than it is multiplied."""

    def __init__(self, layer: nn.Linear, weight: nn.Parameter) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = weight, layer.bias

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix [out, in], made anew in each call."""
        return self.weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Times.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class NF4Linear(StoredLinear):
    """A matrix in NF4: ``weight`` is uint8 [out x in / 2, 1]; ``quantized`` has the scales, which are quantised too."""

    def __init__(self, layer: nn.Linear) -> None:
        from bitsandbytes.functional import quantize_4bit

        # Each block is a row: with AVX-512, bitsandbytes 0.50 misreads matrices whose rows end inside a block.
        weight = layer.weight.detach()
        weight = weight.reshape(-1, _BLOCK) if weight.numel() % _BLOCK == 0 else weight.reshape(1, -1)
        packed, scales = quantize_4bit(weight, blocksize=_BLOCK, compress_statistics=True, quant_type=NF4)
        super().__init__(layer, nn.Parameter(packed, requires_grad=False))
        self.quantized = scales

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix [out, in] that the 4 bits stand for."""
        from bitsandbytes.functional import dequantize_4bit

        found: Tensor = dequantize_4bit(self.weight.data, self.quantized)
        return found.view(self.out_features, self.in_features).to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.quantized.absmax.device != self.weight.device:
            self.quantized = copy.deepcopy(self.quantized)  # that of another copy of the model stays where it is
            self.quantized.to(self.weight.device)
        return self


class _Times(torch.autograd.Function):
    """x [..., in] times the layer's matrix. The backward pass makes the matrix again rather than keep it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: StoredLinear) -> Tensor:
        ctx.layer = layer
        return linear(x, layer.dense(x.dtype))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:
        return (g @ ctx.layer.dense(g.dtype) if ctx.needs_input_grad[0] else None), None


def quantized(base: BaseModel) -> BaseModel:
    """The model with its layers' matrices in NF4; the module of ``base`` is used up.

    Its ``sha256`` and ``fingerprint`` remain those of the weights that were quantised.

    Raises:
        ModelError: bitsandbytes is missing, or it is no decoder.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelError("model.quantize=nf4 needs the extra `qlora`: pip install 'fedrad[qlora]'.")
    stack = take_apart(base.module)
    if stack.vocabulary is None:
        raise ModelError(f"model.quantize=nf4 is for decoders, and base model {base.name!r} is an encoder.")
    sha256, fingerprint = base.sha256, base.fingerprint
    embed, vocabulary = cast(nn.Embedding, stack.embed), stack.vocabulary
    tied = vocabulary.weight is embed.weight
    embed.weight = _rounded(embed.weight)
    for name, part in list(base.module.named_modules()):
        if type(part) is nn.Linear:
            parent, _, child = name.rpartition(".")
            weight = embed.weight if tied else _rounded(part.weight)
            stored = StoredLinear(part, weight) if part is vocabulary else NF4Linear(part)
            setattr(base.module.get_submodule(parent), child, stored)
    return replace(base, quantize=NF4, source_sha256=sha256, source_fingerprint=fingerprint)


def scales_of(module: nn.Module) -> list[Any]:
    """What the NF4 layers of a model hold beside their parameters; copies of the model may share it."""
    return [part.quantized for part in module.modules() if isinstance(part, NF4Linear)]


def _rounded(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all that a model stores, shared tensors once."""
    tensors = [*module.parameters(), *module.buffers()]
    for scales in scales_of(module):
        tensors += [scales.absmax, scales.state2.absmax]
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(t): t for t in tensors}.values())
