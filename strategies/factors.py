"""Low-rank algebra: sums, norms and singular values of products B A from their factors alone.

The products of LoRA are [out, in] and of rank m much below both. Nothing here forms such a matrix: memory and time are
those of the factors, O((out + in) m) and O((out + in) m^2 + m^3). Arithmetic is float64, what comes out for a model is
float32. Signs are fixed, so that the same numbers always give the same factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = torch.finfo(torch.float32).eps


class Product(NamedTuple):
    """The matrix B A [out, in], as B [out, m] and A [m, in]."""

    B: Tensor
    A: Tensor

    @property
    def most(self) -> int:
        """min(out, in): more rank than this no matrix of the shape has."""
        return min(self.B.shape[0], self.A.shape[1])


class SVD(NamedTuple):
    """U diag(values) V^T in float64: U [out, k] and V [in, k] with orthonormal columns, values [k] falling."""

    U: Tensor
    values: Tensor
    V: Tensor


def combined(products: Sequence[Product], weights: Sequence[float]) -> Product:
    """sum_i w_i B_i A_i, exactly, as ``[w_1 B_1, ..., w_n B_n]`` times ``[A_1; ...; A_n]``, in float64.

    The weights go into one factor. In both they would be squared.
    """
    return Product(
        torch.cat([p.B.double() * weight for p, weight in zip(products, weights, strict=True)], dim=1),
        torch.cat([p.A.double() for p in products]),
    )


def inner(one: Product, other: Product) -> float:
    """The Frobenius inner product <B1 A1, B2 A2> = tr((B1^T B2) (A2 A1^T))."""
    left = one.B.double().T @ other.B.double()
    right = one.A.double() @ other.A.double().T
    return float((left * right).sum())


def norm(product: Product) -> float:
    """The Frobenius norm of B A. From the singular values: sqrt(inner(p, p)) has half their digits near zero."""
    return float(svd(product).values.norm())


def svd(product: Product) -> SVD:
    """The singular value decomposition of B A with k = min(m, out, in) values.

    QR of both factors, then the SVD of the small R_B R_A^T. So V lies in the row space of A (if A has full row rank),
    even for singular values that are zero; the SVD of the full matrix would give arbitrary vectors there. The largest
    entry of each column of V is positive.
    """
    q_b, r_b = torch.linalg.qr(product.B.double())
    q_a, r_a = torch.linalg.qr(product.A.double().T)
    u, values, v_t = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    U, V = q_b @ u, q_a @ v_t.T
    signs = torch.where(V.gather(0, V.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0).to(V.dtype)
    return SVD(U * signs, values, V * signs)


def numerical_rank(values: Tensor, tolerance: float = ROUNDING) -> int:
    """How many singular values it takes until the norm of the rest is at most ``tolerance`` of the whole.

    With the default, what is left out is no more than what rounding to float32 changes anyway.
    """
    energy = values.double().square()
    rest = energy.flip(0).cumsum(0).flip(0)  # rest[k]: energy of values k, k + 1, ...
    return int((rest > tolerance**2 * energy.sum()).sum())


def truncated(product: Product, rank: int, scaling: float = 1.0) -> Product:
    """The best approximation of that rank (Eckart-Young), as B = U diag(values) / scaling and A = V^T.

    The singular values that are left out are the error, squared and summed. Needs rank <= min(m, out, in).

    Args:
        scaling: the layer multiplies B A by it.
    """
    U, values, V = svd(product)
    return Product((U[:, :rank] * values[:rank] / scaling).float(), V[:, :rank].T.float().contiguous())


def recompressed(product: Product) -> Product:
    """The same matrix with the fewest factors that float32 can tell apart, at most min(out, in), of equal norms."""
    U, values, V = svd(product)
    rank = max(1, numerical_rank(values))  # a zero matrix keeps one factor, so that nobody meets an empty tensor
    root = values[:rank].sqrt()
    return Product((U[:, :rank] * root).float(), (V[:, :rank] * root).T.float().contiguous())
