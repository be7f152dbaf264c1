"""Low-rank algebra: sums, norms and singular values of products B A from their factors alone.

A LoRA product is [out, in] with a rank m much below both. No function here forms this matrix: memory is
O((out + in) m) and time O((out + in) m^2 + m^3). Arithmetic is float64; factors for a model are float32. Signs are
fixed, so that equal inputs always give equal factors.
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
        """min(out, in), the largest rank of a matrix of this shape."""
        return min(self.B.shape[0], self.A.shape[1])


class SVD(NamedTuple):
    """U diag(values) V^T in float64: U [out, k] and V [in, k] with orthonormal columns, values [k] descending."""

    U: Tensor
    values: Tensor
    V: Tensor


def combined(products: Sequence[Product], weights: Sequence[float]) -> Product:
    """sum_i w_i B_i A_i, exactly, as ``[w_1 B_1, ..., w_n B_n]`` times ``[A_1; ...; A_n]``, in float64.

    The weights go into one factor; in both they would be squared.
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
    """The Frobenius norm of B A, from the singular values: sqrt(inner(p, p)) loses half the digits near zero."""
    return float(svd(product).values.norm())


def svd(product: Product) -> SVD:
    """The singular value decomposition of B A with k = min(m, out, in) values.

    It takes the QR decomposition of both factors, then the SVD of the small R_B R_A^T. So V lies in the row space of A
    (if A has full row rank) also for singular values of zero, where the SVD of the full matrix would give arbitrary
    vectors. The entry of largest magnitude in each column of V is positive.
    """
    q_b, r_b = torch.linalg.qr(product.B.double())
    q_a, r_a = torch.linalg.qr(product.A.double().T)
    u, values, v_t = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    U, V = q_b @ u, q_a @ v_t.T
    signs = torch.where(V.gather(0, V.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0).to(V.dtype)
    return SVD(U * signs, values, V * signs)


def numerical_rank(values: Tensor, tolerance: float = ROUNDING) -> int:
    """The number of singular values after which the norm of the rest is at most ``tolerance`` of the whole.

    With the default, the rest is no larger than the rounding error of float32.
    """
    energy = values.double().square()
    rest = energy.flip(0).cumsum(0).flip(0)  # rest[k]: energy of values k, k + 1, ...
    return int((rest > tolerance**2 * energy.sum()).sum())


def truncated(product: Product, rank: int, scaling: float = 1.0) -> Product:
    """The best approximation of that rank (Eckart-Young), as B = U diag(values) / scaling and A = V^T.

    The squared error is the sum of the squares of the omitted singular values. Needs rank <= min(m, out, in).

    Args:
        scaling: the factor by which the layer multiplies B A.
    """
    U, values, V = svd(product)
    return Product((U[:, :rank] * values[:rank] / scaling).float(), V[:, :rank].T.float().contiguous())


def recompressed(product: Product) -> Product:
    """The same matrix with the smallest rank that is exact in float32, and factors of equal norms."""
    U, values, V = svd(product)
    rank = max(1, numerical_rank(values))  # a zero matrix keeps rank 1, to avoid empty tensors
    root = values[:rank].sqrt()
    return Product((U[:, :rank] * root).float(), (V[:, :rank] * root).T.float().contiguous())
