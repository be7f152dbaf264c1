"""Other processors than the one at hand, as far as matrix products differ: which bits a product ends in.

A kernel is free to add the terms of a product in any order, to choose that order by the number of rows, and, under
``torch.set_float32_matmul_precision("medium")``, to round the factors to bfloat16 (Intel's AMX does). No test may rest
on one of these choices. ``pytest --processor NAME`` runs any test under one of ``PROCESSORS``, backward passes
included; a test that needs a certain behaviour enters the mode itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
# Where the two factors stand among the arguments.
_PRODUCTS: dict[Any, tuple[int, int]] = {
    _ATEN.mm.default: (0, 1),
    _ATEN.bmm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.baddbmm.default: (1, 2),
}


class Products(TorchDispatchMode):
    """Every float32 or bfloat16 product of two matrices, or of two stacks of matrices, is done by ``product``."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        ordinary = partial(func, **(kwargs or {}))
        places = _PRODUCTS.get(func)
        if places is None or args[places[0]].dtype not in (torch.float32, torch.bfloat16):
            return ordinary(*args)
        return self.product(ordinary, args, places)

    def product(self, ordinary: Callable[..., Tensor], args: tuple[Tensor, ...], factors: tuple[int, int]) -> Tensor:
        """``ordinary(*args)`` as this processor does it; ``factors`` are the places of the two matrices in ``args``."""
        raise NotImplementedError


class Bfloat16UnderMedium(Products):
    """Under "medium" the factors of a float32 product are rounded to bfloat16, as by Intel's AMX."""

    def product(self, ordinary: Callable[..., Tensor], args: tuple[Tensor, ...], factors: tuple[int, int]) -> Tensor:
        if torch.get_float32_matmul_precision() != "medium":
            return ordinary(*args)
        rounded = [arg.bfloat16().to(arg.dtype) if place in factors else arg for place, arg in enumerate(args)]
        return ordinary(*rounded)


class CoupledRows(Products):
    """The last bit of a row depends on how many rows share the product: an odd number ends one step higher.

    So do blocked kernels, which treat the rows that fill no whole block in another way.
    """

    def product(self, ordinary: Callable[..., Tensor], args: tuple[Tensor, ...], factors: tuple[int, int]) -> Tensor:
        found, left = ordinary(*args), args[factors[0]]
        if left.dim() != 2 or len(left) % 2 == 0:
            return found
        # A sum of zeros is zero by every kernel.
        return torch.where(found == 0, found, torch.nextafter(found, torch.full_like(found, float("inf"))))


class Exact(Products):
    """Float64 inside, rounded once: the last bits of all rows are others than the processor's own."""

    def product(self, ordinary: Callable[..., Tensor], args: tuple[Tensor, ...], factors: tuple[int, int]) -> Tensor:
        return ordinary(*(arg.double() for arg in args)).to(args[factors[0]].dtype)


PROCESSORS: dict[str, type[Products]] = {
    "bfloat16-under-medium": Bfloat16UnderMedium,
    "coupled-rows": CoupledRows,
    "exact": Exact,
}
