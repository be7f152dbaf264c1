"""What an exact aggregation adds to the frozen weights, as low-rank factors: W0 + sum_k base_B.k base_A.k."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRALinear

Factors = dict[str, list[tuple[Tensor, Tensor]]]


def is_residual(name: str) -> bool:
    """Whether a tensor of a state belongs to the base residual."""
    return ".base_A." in name or ".base_B." in name


def residual_factors(state: Mapping[str, Tensor], adapted: Mapping[str, LoRALinear]) -> Factors:
    """The residual that a state holds, checked: (base_B [out, m], base_A [m, in]) by layer, sorted by name.

    Raises:
        ModelError: a factor lacks its partner, fits no adapted layer or holds a number that is not finite.
    """
    tensors = {name: tensor for name, tensor in state.items() if is_residual(name)}
    factors: Factors = {}
    problems = []
    for name in sorted(tensors):
        layer, side, key = name.rsplit(".", 2)
        if side == "base_B":
            if f"{layer}.base_A.{key}" not in tensors:
                problems.append(f"{name} lacks its base_A")
            continue
        right, left = tensors[name], tensors.get(f"{layer}.base_B.{key}")
        if left is None or layer not in adapted:
            problems.append(f"{name} lacks its base_B, or {layer} is not adapted")
            continue
        base = adapted[layer].base
        expected = (base.out_features, base.in_features)
        whole = left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0]
        if not whole or (left.shape[0], right.shape[1]) != expected or {left.dtype, right.dtype} != {torch.float32}:
            problems.append(f"{name}: {tuple(left.shape)} x {tuple(right.shape)} is no residual of {expected}")
        elif not bool(torch.isfinite(left).all() and torch.isfinite(right).all()):
            problems.append(f"{name} is not finite")
        else:
            factors.setdefault(layer, []).append((left, right))
    if problems:
        raise ModelError(f"the base residual does not fit: {'; '.join(problems[:5])}.")
    return factors


def equal_factors(left: Factors, right: Factors) -> bool:
    """Whether the two are the same to the bit."""
    return {layer: len(pairs) for layer, pairs in left.items()} == {
        layer: len(p) for layer, p in right.items()
    } and all(
        torch.equal(one, other)
        for layer, pairs in left.items()
        for pair, before in zip(pairs, right[layer], strict=True)
        for one, other in zip(pair, before, strict=True)
    )
