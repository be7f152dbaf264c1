"""The fused LoRA operation against the same from library parts, for every way in which its matrices may come."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear

from fedrad.model.lora_product import is_dense, lora_linear


class Int8Linear(nn.Linear):
    """A weight-only quantised layer, as quantisation libraries subclass Linear: int8 values and a scale a row."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=dense.bias is not None, dtype=torch.float64)
        scale = dense.weight.detach().abs().amax(1, keepdim=True) / 127
        del self.weight
        self.register_buffer("weight", (dense.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = dense.bias

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def naive(x: Tensor, base: nn.Module, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """One sample at a time."""
    rows = [
        base(sample) + scaling * sample @ (A if A.dim() == 2 else A[i]).T @ (B if B.dim() == 2 else B[i]).T
        for i, sample in enumerate(x)
    ]
    return torch.stack(rows)


def case(seed: int, n: int, tokens: int, quantised: bool, bias: bool) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    base = nn.Linear(6, 5, bias=bias, dtype=torch.float64).requires_grad_(False)
    base.weight.copy_(draw(5, 6))
    return Int8Linear(base) if quantised else base, draw(n, tokens, 6), draw(n, 3, 6), draw(n, 5, 3)


def gradients(run: Any, base: nn.Module, x: Tensor, A: Tensor, B: Tensor) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() if t.stride(0) else t.detach().requires_grad_() for t in (x, A, B)]
    y = run(leaves[0], base, leaves[1], leaves[2], 0.7)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


@pytest.mark.parametrize("shared", ["each its own", "one memory", "plain matrices"])
@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.booleans())
def test_output_and_gradients(shared: str, seed: int, n: int, tokens: int, quantised: bool, bias: bool) -> None:
    base, x, A, B = case(seed, n, tokens, quantised, bias)
    assert is_dense(base) is not quantised
    if shared == "one memory":
        A, B = A[:1].expand(n, -1, -1), B[:1].expand(n, -1, -1)
    if shared == "plain matrices":
        A, B = A[0], B[0]
    for found, expected in zip(gradients(lora_linear, base, x, A, B), gradients(naive, base, x, A, B), strict=True):
        torch.testing.assert_close(found, expected)


def test_shapes_of_one_vector_a_sample_and_of_more_dimensions() -> None:
    base, _, A, B = case(0, 3, 1, False, True)
    for shape in ((3, 6), (3, 2, 4, 6)):
        x = torch.randn(*shape, dtype=torch.float64)
        torch.testing.assert_close(lora_linear(x, base, A, B, 0.7), naive(x, base, A, B, 0.7))


def test_only_what_is_needed_is_computed() -> None:
    base, x, A, B = case(0, 3, 4, False, True)
    B.requires_grad_()
    y = lora_linear(x, base, A, B, 0.7)
    y.sum().backward()
    assert x.grad is None
    assert A.grad is None
    assert B.grad is not None
    assert base.weight.grad is None


def test_half_precision_keeps_the_gradients_dtype() -> None:
    base, x, A, B = case(0, 3, 4, False, True)
    base, x = base.to(torch.bfloat16), x.to(torch.bfloat16)
    A, B = A.float().requires_grad_(), B.float().requires_grad_()
    y = lora_linear(x, base, A, B, 0.7)
    y.float().sum().backward()
    assert (y.dtype, A.grad.dtype, B.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert A.grad.shape == A.shape


@pytest.mark.parametrize("quantised", [False, True])
def test_autocast_casts_as_linear_does(quantised: bool) -> None:
    base, x, A, B = case(0, 3, 4, quantised, True)
    base, x = (base if quantised else base.float()), x.float()
    if quantised:
        base.scale = base.scale.float()
        base.bias = nn.Parameter(base.bias.float(), requires_grad=False)
    A, B = A.float().requires_grad_(), B.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = lora_linear(x, base, A, B, 0.7)
    y.float().sum().backward()
    torch.testing.assert_close(y.float(), naive(x, base, A, B, 0.7), atol=0.2, rtol=0.05)
    assert A.grad.dtype == torch.float32
